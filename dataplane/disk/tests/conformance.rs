//! The guarantees of every implementation of spill I/O, tested against each of them.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dflow_disk::{DiskError, IoChoice, SharedBytes, SpillDir, SpillIo, choose};
use proptest::prelude::*;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

/// Runs a test against each sibling.
macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        mod io_uring { $(#[test] fn $test() { super::$test(super::IoChoice::IoUring); })* }
        mod plain { $(#[test] fn $test() { super::$test(super::IoChoice::Plain); })* }
    };
}

conformance![
    any_bytes_at_any_offset_come_back,
    a_large_aligned_spill_comes_back,
    readers_see_every_byte_below_the_watermark,
    reading_past_the_end_is_an_error,
    an_impossible_range_is_refused,
    memory_that_is_gone_fails_the_write_alone,
    a_full_disk_is_named,
    punched_ranges_are_freed,
    nothing_is_left_in_the_directory,
];

/// The sibling under test. A machine that forbids io_uring still has the fall-back to test, under the same name.
fn sibling(choice: IoChoice) -> Box<dyn SpillIo> {
    match choose(choice) {
        Ok((io, _)) => io,
        Err(error) => {
            eprintln!("{error}");
            choose(IoChoice::Auto).unwrap().0
        }
    }
}

/// A directory on a real disk, where direct I/O works.
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Bytes that tell where in the file they belong.
fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A buffer on page boundaries, so that direct I/O can take it.
fn aligned(len: usize) -> memmap2::MmapMut {
    memmap2::MmapMut::map_anon(len).unwrap()
}

fn any_bytes_at_any_offset_come_back(choice: IoChoice) {
    let place = place();
    let dir = SpillDir::open(place.path()).unwrap();
    let io = RefCell::new(sibling(choice));
    let write = (0u64..3 << 20, 0usize..4096, 0usize..2 << 20);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(24));
    runner
        .run(&(proptest::collection::vec(write, 1..4), any::<bool>()), |(writes, same_phase)| {
            let file = dir.create().unwrap();
            let mut io = io.borrow_mut();
            let mut expected = Vec::new();
            let mut memory = aligned(4 << 20);
            for (round, (offset, shift, len)) in writes.into_iter().enumerate() {
                let from = if same_phase { (offset % 4096) as usize } else { shift };
                let bytes = pattern(offset + round as u64, len);
                memory[from..from + len].copy_from_slice(&bytes);
                io.write(&file, offset, SharedBytes::from(&memory[from..from + len])).unwrap();
                let end = offset as usize + len;
                if len > 0 {
                    expected.resize(expected.len().max(end), 0);
                    expected[offset as usize..end].copy_from_slice(&bytes);
                }
                memory[from..from + len].fill(0xee);
                io.read(&file, offset, &mut memory[from..from + len]).unwrap();
                prop_assert!(memory[from..from + len] == bytes);
            }
            prop_assert_eq!(file.len().unwrap(), expected.len() as u64);
            let mut all = vec![0; expected.len()];
            io.read(&file, 0, &mut all).unwrap();
            prop_assert!(all == expected);
            Ok(())
        })
        .unwrap();
}

fn a_large_aligned_spill_comes_back(choice: IoChoice) {
    const LEN: usize = 24 << 20;
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    let mut io = sibling(choice);
    let mut memory = aligned(LEN);
    memory.copy_from_slice(&pattern(0, LEN));
    io.write(&file, 0, SharedBytes::from(&memory[..])).unwrap();
    memory.fill(0);
    io.read(&file, 0, &mut memory).unwrap();
    assert!(memory[..] == pattern(0, LEN));
    assert_eq!(file.len().unwrap(), LEN as u64);
    assert_eq!(io.name(), sibling(choice).name(), "the sibling gave up");
}

fn readers_see_every_byte_below_the_watermark(choice: IoChoice) {
    const LEN: usize = 8 << 20;
    // Odd pieces: every one ends in a tail that goes through the page cache, beside direct blocks.
    const PIECE: usize = 301_007;
    let place = place();
    let dir = SpillDir::open(place.path()).unwrap();
    let file = dir.create().unwrap();
    let mut io = sibling(choice);
    let mut memory = aligned(LEN);
    memory.copy_from_slice(&pattern(0, LEN));
    let watermark = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for mapped in [false, true, false] {
            let (reader, watermark) = (file.reader().unwrap(), &watermark);
            scope.spawn(move || {
                let expected = pattern(0, LEN);
                let mut seen = 0;
                let mut bytes = vec![0; PIECE * 2];
                while seen < LEN {
                    let end = (watermark.load(Ordering::Acquire) as usize).min(seen + bytes.len());
                    if end == seen {
                        std::thread::yield_now();
                        continue;
                    }
                    if mapped {
                        // SAFETY: the file neither shrinks nor changes below the watermark, which is where the slice
                        // ends.
                        let map = unsafe { memmap2::MmapOptions::new().len(end).map(&reader).unwrap() };
                        assert!(map[seen..end] == expected[seen..end], "bytes {seen}..{end} of the map");
                    } else {
                        let part = &mut bytes[..end - seen];
                        let mut done = 0;
                        while done < part.len() {
                            done += rustix::io::pread(&reader, &mut part[done..], (seen + done) as u64).unwrap();
                        }
                        assert!(part[..] == expected[seen..end], "bytes {seen}..{end}");
                    }
                    seen = end;
                }
            });
        }
        for start in (0..LEN).step_by(PIECE) {
            let end = LEN.min(start + PIECE);
            io.write(&file, start as u64, SharedBytes::from(&memory[start..end])).unwrap();
            watermark.store(end as u64, Ordering::Release);
        }
    });
    let refused = rustix::io::pwrite(file.reader().unwrap(), b"x", 0);
    assert_eq!(refused, Err(rustix::io::Errno::BADF), "a reader's descriptor can write");
}

fn reading_past_the_end_is_an_error(choice: IoChoice) {
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    let mut io = sibling(choice);
    io.write(&file, 0, SharedBytes::from(&[1u8; 10_000][..])).unwrap();
    let mut into = aligned(1 << 20);
    match io.read(&file, 0, &mut into) {
        Err(DiskError::Io { source, .. }) => {
            assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof)
        }
        other => panic!("{other:?}"),
    }
    // The sibling still works after an error.
    io.read(&file, 0, &mut into[..10_000]).unwrap();
    assert!(into[..10_000].iter().all(|byte| *byte == 1));
}

fn an_impossible_range_is_refused(choice: IoChoice) {
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    let mut io = sibling(choice);
    for offset in [u64::MAX, u64::MAX - 3, i64::MAX as u64] {
        match io.write(&file, offset, SharedBytes::from(&b"four"[..])) {
            Err(DiskError::Io { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::InvalidInput)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn memory_that_is_gone_fails_the_write_alone(choice: IoChoice) {
    const LEN: usize = 3 << 20;
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    let mut io = sibling(choice);
    let segment = rustix::fs::memfd_create("segment", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&segment, LEN as u64).unwrap();
    // SAFETY: only the kernel looks at the map, and it answers with an error where there are no pages.
    let map = unsafe { memmap2::MmapOptions::new().len(LEN).map(&segment).unwrap() };
    rustix::fs::ftruncate(&segment, LEN as u64 / 2).unwrap();
    // SAFETY: the mapping outlives the call.
    let bytes = unsafe { SharedBytes::new(map.as_ptr(), LEN) };
    match io.write(&file, 0, bytes) {
        Err(DiskError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EFAULT)),
        other => panic!("{other:?}"),
    }
    io.write(&file, 0, bytes.slice(0..LEN / 2)).unwrap();
}

fn a_full_disk_is_named(choice: IoChoice) {
    const ROOM: usize = 2 << 20;
    let Some(small) = SmallFilesystem::of(ROOM) else {
        return;
    };
    let dir = SpillDir::open(&small.path()).unwrap();
    let file = dir.create().unwrap();
    let mut io = sibling(choice);
    let memory = aligned(ROOM * 2);
    match io.write(&file, 0, SharedBytes::from(&memory[..])) {
        Err(error @ DiskError::NoSpace { needed, .. }) => {
            assert!((ROOM..=ROOM * 2).contains(&(needed as usize)), "{needed}");
            assert!(error.to_string().contains("--spill-dir"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // Once there is room, the same bytes go in.
    drop(file);
    let file = dir.create().unwrap();
    io.write(&file, 0, SharedBytes::from(&memory[..ROOM / 2])).unwrap();
}

fn punched_ranges_are_freed(choice: IoChoice) {
    const LEN: usize = 1 << 20;
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    let mut io = sibling(choice);
    let mut memory = aligned(LEN);
    memory.copy_from_slice(&pattern(0, LEN));
    io.write(&file, 0, SharedBytes::from(&memory[..])).unwrap();
    if !file.punch(0..LEN as u64 / 2 + 100) {
        eprintln!("this filesystem cannot punch holes");
        return;
    }
    assert!(file.allocated().unwrap() <= LEN as u64 / 2 + 64 * 1024);
    assert_eq!(file.len().unwrap(), LEN as u64);
    io.read(&file, 0, &mut memory).unwrap();
    assert!(memory[..LEN / 2].iter().all(|byte| *byte == 0));
    assert!(memory[LEN / 2..] == pattern(LEN as u64 / 2, LEN / 2));
}

fn nothing_is_left_in_the_directory(choice: IoChoice) {
    let place = place();
    let dir = SpillDir::open(place.path()).unwrap();
    let mut io = sibling(choice);
    let files: Vec<_> = (0..16).map(|_| dir.create().unwrap()).collect();
    for file in &files {
        io.write(file, 0, SharedBytes::from(&b"some bytes"[..])).unwrap();
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let place = place();
    let missing = place.path().join("missing");
    let error = SpillDir::open(&missing).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
    let plain_file = place.path().join("file");
    fs::write(&plain_file, "").unwrap();
    let error = SpillDir::open(&plain_file).unwrap_err();
    assert!(error.to_string().contains("--spill-dir"), "{error}");
}

#[test]
fn a_sandbox_that_forbids_io_uring_gets_plain_io_and_the_reason() {
    forbid_in_this_thread(libc::SYS_io_uring_setup);
    let (mut io, why) = choose(IoChoice::Auto).unwrap();
    assert_eq!(io.name(), "plain");
    assert!(why.contains("forbidden"), "{why}");
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    io.write(&file, 5, SharedBytes::from(&b"bytes"[..])).unwrap();

    match choose(IoChoice::IoUring) {
        Err(error @ DiskError::Unsupported { .. }) => {
            assert!(error.to_string().contains("seccomp"), "{error}")
        }
        Err(other) => panic!("{other}"),
        Ok((io, why)) => panic!("{} {why}", io.name()),
    }
}

#[test]
fn plain_io_takes_over_from_a_ring_that_fails_in_mid_flight() {
    const LEN: usize = 3 << 20;
    let (mut io, _) = choose(IoChoice::Auto).unwrap();
    forbid_in_this_thread(libc::SYS_io_uring_enter);
    let place = place();
    let file = SpillDir::open(place.path()).unwrap().create().unwrap();
    let bytes = pattern(0, LEN);
    io.write(&file, 0, SharedBytes::from(&bytes[..])).unwrap();
    assert_eq!(io.name(), "plain");
    let mut back = vec![0; LEN];
    io.read(&file, 0, &mut back).unwrap();
    assert!(back == bytes);
}

#[test]
fn settings_read_back_as_they_are_written() {
    for choice in [IoChoice::Auto, IoChoice::IoUring, IoChoice::Plain] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    assert!("ring".parse::<IoChoice>().unwrap_err().to_string().contains("io-uring"));
}

/// A tmpfs of a given size that is mounted nowhere, so that it is gone with its descriptor.
struct SmallFilesystem(std::os::fd::OwnedFd);

impl SmallFilesystem {
    /// `None`, with a note, where this user may not make one.
    fn of(bytes: usize) -> Option<SmallFilesystem> {
        let made = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
            fsconfig_set_string(context.as_fd(), "size", bytes.to_string())?;
            fsconfig_create(context.as_fd())?;
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        });
        made.inspect_err(|errno| eprintln!("no small filesystem to fill (it takes root): {errno}")).ok().map(Self)
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string())
    }
}

/// Makes a system call answer EPERM in the calling thread, as the seccomp filter of a container does.
fn forbid_in_this_thread(call: libc::c_long) {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0),
        step(SKIP_UNLESS_EQUAL, call as u32, 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter is well formed and lives until both calls, which only affect this thread, have returned.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    assert!(!failed, "{}", io::Error::last_os_error());
}
