//! Why the kernel does not run a file.
//!
//! `execve` reports one of a handful of error numbers: ENOENT for a script that exists, EACCES for a directory, ENOEXEC
//! for anything that it cannot read. The file itself says more.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

/// How much of the start of a file is read; the kernel reads no more of a first line either.
const START_BYTES: usize = 256;
/// The mark that some editors put in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// The remedy for carriage returns.
const WINDOWS_LINE_ENDS: &str = "the file has Windows line ends (CR LF), and the carriage return counts as a part of that \
     name; convert it with `sed -i 's/\\r$//'";

/// Explains why `execve` of `program` failed with `error`: the reason, and the remedy where there is one.
#[must_use]
pub fn explain_exec(program: &Path, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => not_found(program),
        Some(libc::EACCES) => not_allowed(program),
        Some(libc::ENOEXEC) => not_executable(program),
        Some(libc::E2BIG) => {
            "its arguments and environment are longer than the kernel passes on (a quarter of the stack \
             limit `ulimit -s`, and 128 KiB for each string); pass large data through an input or a file"
                .to_owned()
        }
        Some(libc::ETXTBSY) => "it is being written at this moment (by a compiler or a copy?); try again".to_owned(),
        Some(libc::ENOMEM) => format!("there is not enough memory: {error}"),
        Some(libc::ELOOP) => "its path or its interpreter's path has too many symbolic links".to_owned(),
        Some(libc::EAGAIN) => format!(
            "no further process may be created ({error}); the limit of processes (`ulimit -u`, or pids.max of the cgroup) \
             is reached"
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            format!("there are no descriptors left ({error}); raise the limit of open files (`ulimit -n`)")
        }
        _ => error.to_string(),
    }
}

/// The remedy if the first line of a script ends with a carriage return.
///
/// With `#!/usr/bin/env python3` the kernel finds `env`, and it is `env` that does not find `python3\r`: the program
/// starts, and ends with status 127.
#[must_use]
pub fn explain_line_ends(program: &Path) -> Option<String> {
    let line = first_line(&start_of(program)).map(<[u8]>::to_vec)?;
    line.ends_with(b"\r").then(|| format!("{WINDOWS_LINE_ENDS} {0}` or `dos2unix {0}`", program.display()))
}

fn not_found(program: &Path) -> String {
    if let Ok(target) = fs::read_link(program)
        && !program.exists()
    {
        return format!("it is a symbolic link to `{}`, which does not exist", target.display());
    }
    if !program.exists() {
        return "there is no such file; is it installed on this machine?".to_owned();
    }
    let start = start_of(program);
    match (interpreter(&start), loader(program)) {
        (Some(interpreter), _) => {
            let shown = interpreter.display().to_string();
            let named = format!("its first line names the interpreter `{}`", shown.trim_end_matches('\r'));
            match explain_line_ends(program) {
                Some(line_ends) if shown.ends_with('\r') => format!("{named}, but {line_ends}"),
                _ => format!("{named}, which does not exist"),
            }
        }
        (None, Some(loader)) => format!(
            "the dynamic loader that it names, `{}`, does not exist: it was built for another system or another C library",
            loader.display()
        ),
        (None, None) => "the file exists, but its interpreter does not".to_owned(),
    }
}

fn not_allowed(program: &Path) -> String {
    let metadata = match program.metadata() {
        Err(error) => return format!("it cannot be reached: {error}"),
        Ok(metadata) if metadata.is_dir() => return "it is a directory, not a program".to_owned(),
        Ok(metadata) if !metadata.is_file() => return "it is not a regular file".to_owned(),
        Ok(metadata) => metadata,
    };
    if metadata.permissions().mode() & 0o111 == 0 {
        let mode = metadata.permissions().mode() & 0o7777;
        return format!("it is not executable (mode {mode:03o}); make it so with `chmod +x`");
    }
    let noexec =
        |path: &Path| rustix::fs::statvfs(path).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if noexec(program) {
        return "its file system is mounted noexec; move it to another one, or name its interpreter in the command, as in \
                [sh, FILE]"
            .to_owned();
    }
    let Some(interpreter) = interpreter(&start_of(program)) else {
        return "this user may not execute it".to_owned();
    };
    let shown = interpreter.display();
    match interpreter.metadata() {
        Ok(file) if file.is_dir() => format!("its first line names the directory `{shown}` as its interpreter"),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            format!("its interpreter `{shown}` is not executable")
        }
        _ if noexec(&interpreter) => format!("its interpreter `{shown}` is on a file system mounted noexec"),
        _ => format!("this user may not execute it, or not its interpreter `{shown}`"),
    }
}

fn not_executable(program: &Path) -> String {
    let start = start_of(program);
    if start.is_empty() {
        return "the file is empty".to_owned();
    }
    if start.strip_prefix(BYTE_ORDER_MARK).is_some_and(|rest| rest.starts_with(b"#!")) {
        return format!(
            "a UTF-8 byte order mark precedes its `#!`, so the kernel does not see the interpreter; remove it with \
             `sed -i '1s/^\\xEF\\xBB\\xBF//' {}`",
            program.display()
        );
    }
    if let Some(machine) = elf_machine(&start) {
        return match machine_name(machine) {
            name if machine == THIS_MACHINE => format!("it is a damaged or unsupported executable for {name}"),
            name => format!(
                "it is an executable for {name}, and this machine is {}; build or install it for this one",
                std::env::consts::ARCH
            ),
        };
    }
    if start.starts_with(b"MZ") {
        return "it is a Windows program".to_owned();
    }
    if start.iter().all(|byte| *byte >= b' ' || byte.is_ascii_whitespace()) {
        return "it is a text file without `#!` in its first line; make that line name the interpreter, as in `#!/bin/sh`, \
                or name it in the command, as in [sh, FILE]"
            .to_owned();
    }
    "it is not a program of this machine: neither an executable for this processor nor a script whose first line names its \
     interpreter, as in `#!/bin/sh`"
        .to_owned()
}

/// The first bytes of a file; none if it cannot be read.
fn start_of(path: &Path) -> Vec<u8> {
    let mut start = Vec::with_capacity(START_BYTES);
    // A program may be executable without being readable.
    let _ = File::open(path).and_then(|file| file.take(START_BYTES as u64).read_to_end(&mut start));
    start
}

/// The first line of a script, without its line feed.
fn first_line(start: &[u8]) -> Option<&[u8]> {
    let line = start.split(|byte| *byte == b'\n').next()?;
    line.starts_with(b"#!").then_some(line)
}

/// The interpreter that the first line of a script names. The kernel ends it at a blank; a carriage return is none.
fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = first_line(start)?.strip_prefix(b"#!")?;
    let word = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Some(OsStr::from_bytes(word).into())
}

const THIS_MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else {
    0
};

/// The architecture of an ELF file.
fn elf_machine(start: &[u8]) -> Option<u16> {
    let bytes = start.strip_prefix(b"\x7fELF").and_then(|_| start.get(18..20))?;
    let bytes = [bytes[0], bytes[1]];
    // Byte 5 says in which order the others are.
    Some(if start[5] == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bits)".to_owned(),
        8 => "mips".to_owned(),
        20 | 21 => "powerpc".to_owned(),
        22 => "s390".to_owned(),
        40 => "arm (32 bits)".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        other => format!("another architecture (ELF machine {other})"),
    }
}

/// The dynamic loader that a 64-bit little-endian ELF file names.
fn loader(path: &Path) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    const MAX_HEADERS: u16 = 1024;
    const MAX_PATH: usize = 4096;
    let file = File::open(path).ok()?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let u16_at = |bytes: &[u8], at: usize| bytes.get(at..at + 2).map(|it| u16::from_le_bytes([it[0], it[1]]));
    let u64_at = |bytes: &[u8], at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (table, size, count) = (u64_at(&header, 32)?, u16_at(&header, 54)?, u16_at(&header, 56)?);
    for index in 0..count.min(MAX_HEADERS) {
        let mut entry = [0; 56];
        let at = table.checked_add(u64::from(index) * u64::from(size))?;
        file.read_exact_at(&mut entry, at).ok()?;
        if entry.first_chunk().copied().map(u32::from_le_bytes) != Some(PT_INTERP) {
            continue;
        }
        let (at, length) = (u64_at(&entry, 8)?, usize::try_from(u64_at(&entry, 32)?).ok()?);
        let mut path = vec![0; length.min(MAX_PATH)];
        file.read_exact_at(&mut path, at).ok()?;
        let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
        return Some(OsStr::from_bytes(&path[..end]).into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Explains why the kernel has refused an executable file that begins with these bytes.
    fn said(bytes: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        explain_exec(&path, &refused(&path))
    }

    /// The kernel's own answer.
    fn refused(path: &Path) -> io::Error {
        Command::new(path).status().expect_err("the kernel refuses it")
    }

    #[test]
    fn windows_line_ends_are_named_with_their_remedy() {
        let text = said(b"#!/bin/sh\r\nexit 0\r\n");
        assert!(text.contains("`/bin/sh`") && text.contains("Windows line ends"), "{text}");
        assert!(text.contains(r"sed -i 's/\r$//' ") && text.contains("dos2unix"), "{text}");
        assert!(!text.contains("does not exist"), "{text}");
        // A carriage return further down is not what keeps it from running.
        let text = said(b"#!/no/such/sh\necho\r\n");
        assert!(text.contains("`/no/such/sh`, which does not exist"), "{text}");
    }

    #[test]
    fn a_script_whose_interpreter_is_found_by_env_has_windows_line_ends_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        for (text, expected) in [("#!/usr/bin/env sh\r\n", true), ("#!/usr/bin/env sh\n\r\n", false), ("x\r\n", false)]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(explain_line_ends(&path).is_some(), expected, "{text:?}");
        }
        assert_eq!(explain_line_ends(&directory.path().join("missing")), None);
    }

    #[test]
    fn files_that_are_not_programs_are_distinguished() {
        let foreign = {
            let mut elf = fs::read("/proc/self/exe").unwrap();
            elf[18] = if THIS_MACHINE == 183 { 62 } else { 183 };
            elf.truncate(4096);
            elf
        };
        let cases: [(&[u8], &str); 6] = [
            (b"", "empty"),
            (b"\xEF\xBB\xBF#!/bin/sh\n", "byte order mark"),
            (b"echo hello\n", "without `#!`"),
            (&foreign, "this machine is"),
            (b"MZ\x90\0\x03", "Windows program"),
            (b"\x01\x02\x03\x04", "not a program of this machine"),
        ];
        for (bytes, expected) in cases {
            // `execvp` passes a text file to the shell, so the error for those is created here.
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("tool");
            fs::write(&path, bytes).unwrap();
            let text = explain_exec(&path, &io::Error::from_raw_os_error(libc::ENOEXEC));
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn a_missing_loader_is_named() {
        let mut elf = fs::read("/proc/self/exe").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        fs::write(&path, &elf).unwrap();
        let Some(known) = loader(&path) else { return };
        let known = known.into_os_string().into_encoded_bytes();
        let at = elf.windows(known.len()).position(|window| window == known).unwrap();
        elf[at + 1..at + 4].copy_from_slice(b"xyz");
        let text = said(&elf);
        assert!(text.contains("dynamic loader") && text.contains("`/xyz"), "{text}");
    }

    #[test]
    fn missing_files_dangling_links_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/no/such/tool", &link).unwrap();
        let text = explain_exec(&link, &refused(&link));
        assert!(text.contains("symbolic link to `/no/such/tool`"), "{text}");
        let missing = directory.path().join("missing");
        assert!(explain_exec(&missing, &refused(&missing)).contains("no such file"));
        assert!(explain_exec(directory.path(), &refused(directory.path())).contains("a directory"));
        let plain = directory.path().join("plain");
        fs::write(&plain, "#!/bin/sh\n").unwrap();
        assert!(explain_exec(&plain, &refused(&plain)).contains("chmod +x"));
    }
}
