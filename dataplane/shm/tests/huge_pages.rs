//! Segments of huge pages where the machine has reserved some, of ordinary ones where it has not or none is left: the
//! same bytes either way.

use dflow_shm::{Access, HUGE_PAGE, Memory, Segment, SegmentKind, Span};
use std::os::fd::AsFd;

const SIZE: usize = HUGE_PAGE as usize;

/// Huge pages that are reserved, free, and not promised to a mapping.
fn free_huge_pages() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |rest| rest.trim().parse::<u64>().unwrap())
    };
    let size = info.lines().any(|line| line.split_whitespace().eq(["Hugepagesize:", "2048", "kB"]));
    if size { value("HugePages_Free:").saturating_sub(value("HugePages_Rsvd:")) } else { 0 }
}

fn backed(length: usize, huge: bool) -> Segment {
    let segment = Segment::create_backed("test", length, SegmentKind::FunctionWritten, huge).unwrap();
    assert!(segment.is_huge() <= huge);
    segment
}

fn fill(memory: &Memory, range: std::ops::Range<usize>, seed: usize) {
    assert!(range.end <= memory.length());
    for index in range {
        // SAFETY: within the mapping, which this test alone writes.
        unsafe { memory.start().add(index).write((index / 4096 + seed) as u8) };
    }
}

fn byte(memory: &Memory, index: usize) -> u8 {
    assert!(index < memory.length());
    // SAFETY: within the mapping, which no other thread or process writes.
    unsafe { memory.start().add(index).read() }
}

#[test]
fn huge_pages_are_used_while_there_are_some() {
    for (length, huge) in [(SIZE, false), (SIZE - 4096, true), (SIZE / 2, true), (4096, true)] {
        assert!(!backed(length, huge).is_huge(), "{length} {huge}");
    }
    // Others may take some at the same moment, so it may take a few attempts.
    for _ in 0..100 {
        let free = free_huge_pages();
        let huge = backed(2 * SIZE, true).is_huge();
        eprintln!("{free} huge pages are free; the segment has huge ones: {huge}");
        if huge || free_huge_pages() < 2 {
            return;
        }
    }
    panic!("huge pages are free and not used");
}

#[test]
fn when_none_is_left_ordinary_pages_do() {
    let mut segments = Vec::new();
    // More than are reserved, but not gigabytes on a machine with very many.
    for _ in 0..free_huge_pages().min(256) / 2 + 2 {
        segments.push(backed(2 * SIZE, true));
    }
    if free_huge_pages() < 256 {
        assert!(segments.iter().any(|segment| !segment.is_huge()), "there is no end to the huge pages");
    }
    for (number, segment) in segments.iter().enumerate() {
        fill(&segment.map(Access::Write).unwrap(), 0..2 * SIZE, number);
    }
    for (number, segment) in segments.iter().enumerate() {
        let memory = segment.map(Access::Read).unwrap();
        assert!((0..2 * SIZE).step_by(4096).all(|index| byte(&memory, index) == (index / 4096 + number) as u8));
    }
}

#[test]
fn a_ring_of_either_pages_is_mapped_twice() {
    for huge in [false, true] {
        for length in [SIZE, 2 * SIZE] {
            let segment = backed(length, huge);
            let written = Memory::ring(segment.as_fd(), 0, length, Access::Write).unwrap();
            let fd = segment.read_only().unwrap();
            let read = Memory::ring(fd.as_fd(), 0, length, Access::Read).unwrap();
            fill(&written, length - 5000..length + 5000, 1);
            assert!((length - 5000..length + 5000).all(|index| byte(&read, index) == (index / 4096 + 1) as u8));
            assert_eq!(byte(&read, 0), byte(&read, length));
            assert_eq!(read.length(), 2 * length);
        }
    }
}

#[test]
fn windows_of_either_pages_make_one_slice() {
    let first = backed(SIZE, false);
    let second = backed(2 * SIZE, true);
    fill(&first.map(Access::Write).unwrap(), 0..SIZE, 0);
    fill(&second.map(Access::Write).unwrap(), 0..2 * SIZE, SIZE / 4096);
    let mut span = Span::default();
    span.place_segment(first.read_only().unwrap().as_fd(), 0, 0, HUGE_PAGE).unwrap();
    span.place_segment(second.read_only().unwrap().as_fd(), 0, HUGE_PAGE, 2 * HUGE_PAGE).unwrap();
    let all = span.slice(3 * HUGE_PAGE);
    assert_eq!(all.len(), 3 * SIZE);
    assert!(all.iter().step_by(1000).zip((0..).step_by(1000)).all(|(byte, index)| *byte == (index / 4096) as u8));
    // A gap is refused.
    assert!(span.place_segment(first.as_fd(), 0, 8 * HUGE_PAGE, HUGE_PAGE).is_err());
}

#[test]
fn a_backed_segment_has_all_its_memory_whatever_its_pages() {
    for length in [4096, SIZE - 4096, SIZE, SIZE + 4096, 8 * SIZE] {
        let segment = backed(length, false);
        let stat = rustix::fs::fstat(&segment).unwrap();
        assert_eq!(stat.st_blocks * 512, length as i64, "{length}");
        let memory = Memory::window(segment.as_fd(), 0, length, Access::Write).unwrap();
        assert!((0..length).step_by(4096).all(|index| byte(&memory, index) == 0));
        if length.is_multiple_of(SIZE) {
            assert_eq!(memory.start().as_ptr().align_offset(SIZE), 0, "joined pages need an aligned place");
        }
        fill(&memory, 0..length, 7);
        let read = Memory::window(segment.read_only().unwrap().as_fd(), 0, length, Access::Read).unwrap();
        assert!((0..length).step_by(4096).all(|index| byte(&read, index) == (index / 4096 + 7) as u8));
    }
}
