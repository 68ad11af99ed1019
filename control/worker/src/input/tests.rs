//! Tests with real files, pipes and directories.

use super::directory::list;
use super::*;
use rustix::fs::{CWD, Mode};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

fn open(paths: &[&Path], partitioned: bool, descriptors: u64) -> Result<(Vec<InputStream>, Opener), InputError> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let mut opener = Opener::new(descriptors);
    let (streams, _) = opener.open("in", partitioned, &paths.iter().collect::<Vec<_>>())?;
    Ok((streams, opener))
}

/// All bytes of live streams, and the notes.
fn read(streams: Vec<InputStream>) -> (Vec<u8>, Vec<String>) {
    let (mut bytes, mut notes) = (Vec::new(), Vec::new());
    for stream in streams {
        let InputStream::Live(files) = stream else { panic!("not read by a thread: {stream:?}") };
        let mut reader = LiveReader::new(files);
        let mut buffer = [0; 100];
        loop {
            match reader.read(&mut buffer, &mut |note| notes.push(note)).unwrap() {
                0 => break,
                length => bytes.extend(&buffer[..length]),
            }
        }
    }
    (bytes, notes)
}

fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("p");
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    path
}

#[test]
fn a_file_has_its_size_and_proc_is_read_to_its_end() {
    let place = tempfile::tempdir().unwrap();
    let (full, empty) = (place.path().join("full"), place.path().join("empty"));
    fs::write(&full, "12345").unwrap();
    fs::write(&empty, "").unwrap();
    let (streams, opener) = open(&[&full, &empty], false, 10).unwrap();
    let [InputStream::Files(files)] = &streams[..] else { panic!("{streams:?}") };
    assert_eq!(files.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [5, 0]);
    assert_eq!(opener.seen.len(), 2);
    let proc = Path::new("/proc/self/status");
    assert_eq!(proc.metadata().unwrap().len(), 0);
    let (streams, _) = open(&[proc], false, 10).unwrap();
    assert!(read(streams).0.starts_with(b"Name:"));
    // Files of /sys have a size of one page, regardless of their contents.
    let sys = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if sys.exists() {
        let (streams, _) = open(&[sys], false, 10).unwrap();
        assert_eq!(read(streams).0, fs::read(sys).unwrap());
    }
    // Together they are one stream, in the order of the command line.
    let (streams, _) = open(&[&full, proc, &full], false, 10).unwrap();
    let bytes = read(streams).0;
    assert!(bytes.starts_with(b"12345Name:") && bytes.ends_with(b"12345"));
}

#[test]
fn beyond_the_descriptors_files_are_opened_when_they_are_read() {
    let place = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(place.path().join(name), name).unwrap();
    }
    let (streams, _) = open(&[place.path()], false, 2).unwrap();
    let [InputStream::Files(files)] = &streams[..] else { panic!("{streams:?}") };
    let open_now = files.iter().filter(|(file, _)| matches!(file, InputFile::Open(_))).count();
    assert_eq!((files.len(), open_now), (3, 2));
    assert!(matches!(&files[2].0, InputFile::Later { path, .. } if path.ends_with("c")));
    let (streams, _) = open(&[Path::new("/proc/self/status"), Path::new("/proc/self/status")], false, 1).unwrap();
    assert!(read(streams).0.starts_with(b"Name:"));
}

#[test]
fn a_named_pipe_is_opened_once_and_its_writer_may_come_later() {
    let place = tempfile::tempdir().unwrap();
    let path = fifo(place.path());
    let (streams, _) = open(&[&path], false, 10).unwrap();
    // Opening succeeds at once, because the pipe already has its reader.
    let mut writer = File::options().write(true).open(&path).unwrap();
    let reader = std::thread::spawn(move || read(streams));
    writer.write_all(b"hello").unwrap();
    drop(writer);
    assert_eq!(reader.join().unwrap(), (b"hello".to_vec(), Vec::new()));
}

#[test]
fn a_pipe_without_a_writer_is_waited_for_and_named() {
    let place = tempfile::tempdir().unwrap();
    let path = fifo(place.path());
    let (streams, _) = open(&[&path], false, 10).unwrap();
    let InputStream::Live(files) = { streams }.remove(0) else { panic!() };
    let mut reader = LiveReader::new(files);
    let mut buffer = [0; 10];
    let (mut noted, mut writer) = (String::new(), None);
    let length = reader.read(&mut buffer, &mut |note| {
        noted = note;
        let mut opened = File::options().write(true).open(&path).unwrap();
        opened.write_all(b"late").unwrap();
        writer = Some(opened);
    });
    assert_eq!((length.unwrap(), &buffer[..4]), (4, &b"late"[..]));
    assert_eq!(noted, format!("waiting for a writer of {}", path.display()));
    // A writer that writes nothing ends it, too.
    drop(writer);
    assert_eq!(reader.read(&mut buffer, &mut |_| panic!("it had a writer")).unwrap(), 0);
}

#[test]
fn a_pipe_whose_only_writer_writes_nothing_is_empty() {
    let place = tempfile::tempdir().unwrap();
    let path = fifo(place.path());
    let (streams, _) = open(&[&path], false, 10).unwrap();
    drop(File::options().write(true).open(&path).unwrap());
    assert_eq!(read(streams).0, b"");
}

#[test]
fn a_pipe_without_a_name_whose_writer_is_gone_is_at_its_end() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(writer);
    use std::os::fd::AsRawFd;
    let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
    let (streams, _) = open(&[&path], false, 10).unwrap();
    assert_eq!(read(streams).0, b"");
}

#[test]
fn the_files_of_a_directory_that_are_data() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    for name in ["b", "a", "a.md5", "B", ".hidden", ".dflow-result", "ä"] {
        fs::write(root.join(name), name).unwrap();
    }
    fs::create_dir(root.join("sub")).unwrap();
    fs::create_dir(root.join(".dflow-staging-1")).unwrap();
    fifo(root);
    std::os::unix::fs::symlink("a", root.join("link")).unwrap();
    std::os::unix::fs::symlink("sub", root.join("sublink")).unwrap();
    let listing = list(root).unwrap();
    let names: Vec<_> = listing.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["B", "a", "a.md5", "b", "link", "ä"]);
    assert_eq!(
        listing.describe_left_out(),
        ".hidden (hidden), p (not a regular file), sub (a directory), sublink (a directory)"
    );
    let (_, opener) = open(&[root], false, 100).unwrap();
    assert!(opener.notes[0].contains(": .hidden (hidden), p"), "{:?}", opener.notes);
    std::os::unix::fs::symlink("nowhere", root.join("broken")).unwrap();
    let error = open(&[root], false, 100).unwrap_err().to_string();
    assert!(error.contains("broken is a link to nowhere"), "{error}");
}

#[test]
fn directories_without_data_and_sockets_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let error = open(&[place.path()], false, 10).unwrap_err().to_string();
    assert!(error.ends_with("holds no files to read"), "{error}");
    assert_eq!(open(&[place.path()], true, 10).unwrap().0.len(), 0);
    fs::write(place.path().join(".x"), "").unwrap();
    let error = open(&[place.path()], false, 10).unwrap_err().to_string();
    assert!(error.ends_with("left out: .x (hidden)"), "{error}");
    let socket = place.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(open(&[&socket], false, 10), Err(InputError::Socket { .. })));
}

#[test]
fn files_that_changed_while_they_were_read_are_named() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    for name in ["same", "grown", "cut", "written", "replaced"] {
        fs::write(path(name), "12345").unwrap();
    }
    let (_, opener) = open(&[place.path()], false, 100).unwrap();
    assert_eq!(SeenFile::changes(&opener.seen), Vec::<String>::new());
    fs::write(path("grown"), "1234567").unwrap();
    fs::write(path("cut"), "123").unwrap();
    let written = File::options().write(true).open(path("written")).unwrap();
    written.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::write(path("new"), "1234567").unwrap();
    fs::rename(path("new"), path("replaced")).unwrap();
    let notes = SeenFile::changes(&opener.seen);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("grown grew from 5 to 7 bytes; the first 5 were read")));
    assert!(notes.iter().any(|note| note.contains("cut was truncated from 5 to 3 bytes")));
    assert!(notes.iter().any(|note| note.contains("written was overwritten")));
}
