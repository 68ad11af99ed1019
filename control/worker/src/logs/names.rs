//! File names of instances and workflows.

use std::fmt::Write;

/// Maximum length of the escaped name of an instance: a file name may have 255 bytes, and `.ATTEMPT.log` follows.
const MAX_ESCAPED: usize = 200;

/// The name of the log file of an attempt.
pub(super) fn log_file(instance: &str, attempt: u32) -> String {
    format!("{}.{attempt}.log", escape(instance))
}

/// The escaped name and the attempt of a log file; `None` for other files.
pub(super) fn parse_log_file(file: &str) -> Option<(&str, u32)> {
    let (name, attempt) = file.strip_suffix(".log")?.rsplit_once('.')?;
    (!name.is_empty()).then_some((name, attempt.parse().ok()?))
}

/// Escapes the name of an instance or a workflow for a file name. Different names stay different.
///
/// Letters, digits and `_ - . [ ]` are unchanged, everything else is written as `%XX`. A name that gets too long is
/// truncated, and ends with `~` and a hash of the whole name.
pub(crate) fn escape(instance: &str) -> String {
    let mut escaped = String::with_capacity(instance.len());
    for (index, byte) in instance.bytes().enumerate() {
        // A file whose name begins with a dot would be hidden.
        let plain = byte.is_ascii_alphanumeric() || b"_-[]".contains(&byte) || byte == b'.' && index > 0;
        if plain {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    if escaped.len() > MAX_ESCAPED {
        const HASH_DIGITS: usize = 16;
        escaped.truncate(MAX_ESCAPED - HASH_DIGITS - 1);
        let _ = write!(escaped, "~{:016x}", fnv(instance.as_bytes()));
    }
    escaped
}

/// The name that was escaped, or the beginning of a truncated one.
pub(super) fn unescape(escaped: &str) -> String {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// FNV-1a: the same in every release, which the standard library's hasher does not guarantee.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_file_names_and_back() {
        for (name, file) in [
            ("count[3]", "count[3].2.log"),
            ("count[3/1]", "count[3%2F1].2.log"),
            (".hidden", "%2Ehidden.2.log"),
            ("..", "%2E..2.log"),
            ("a%b", "a%25b.2.log"),
            ("v1.2", "v1.2.2.log"),
        ] {
            assert_eq!(log_file(name, 2), file);
            let (escaped, attempt) = parse_log_file(file).unwrap();
            assert_eq!((unescape(escaped).as_str(), attempt), (name, 2));
        }
        for other in ["x.log", "x.y.log", ".1.log", "x.1.txt", "x.1.log.new"] {
            assert_eq!(parse_log_file(other), None, "{other}");
        }
        assert_eq!(unescape("%zz%4"), "%zz%4");
    }

    #[test]
    fn long_names_fit_and_stay_different() {
        let (a, b) = ("x".repeat(300), "x".repeat(301));
        let files = [log_file(&a, u32::MAX), log_file(&b, u32::MAX), log_file(&"é".repeat(255), 1)];
        assert!(files.iter().all(|file| file.len() <= 255), "{files:?}");
        assert_ne!(files[0], files[1]);
    }
}
