//! A file size limit on the process. The limit and the signal are the process's, so this test has a program of its own.

use dflow_disk::{DiskError, IoChoice, SharedBytes, SpillDir, choose};
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn a_file_size_limit_is_named() {
    // SAFETY: no handler runs; the default action of the signal would end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    setrlimit(Resource::Fsize, Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) }).unwrap();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = SpillDir::open(place.path()).unwrap();
    for setting in [IoChoice::Auto, IoChoice::Plain] {
        let (mut io, _) = choose(setting).unwrap();
        let file = dir.create().unwrap();
        match io.write(&file, 0, SharedBytes::from(&vec![1; 3 << 20][..])) {
            Err(error @ DiskError::FileTooLarge { end, .. }) => {
                assert_eq!(end, 3 << 20);
                assert!(error.to_string().contains("ulimit -f"), "{error}");
            }
            other => panic!("{}: {other:?}", io.name()),
        }
    }
}
