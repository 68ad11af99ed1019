//! The workflow under the real `dflow`: the same bytes as the reference, and `count` at work before `split` has ended.

#[path = "../../support/dflow.rs"]
mod dflow;

use dflow::{Instance, Run, Started};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// As many as `wordcount.yaml` says.
const PARTS: usize = 8;

fn start(input: &str, more: &[&str]) -> Started {
    let workflow = Path::new(env!("CARGO_MANIFEST_DIR")).join("wordcount.yaml");
    let input = format!("text={input}");
    let arguments = [&[workflow.to_str().unwrap(), "--input", &input], more].concat();
    dflow::start(env!("CARGO_BIN_EXE_wordcount-split"), &arguments)
}

fn reference(text: &Path) -> Vec<u8> {
    dflow::reference(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reference.sh"), &[text])
}

/// Runs the workflow on a text and compares its output with the reference.
fn compare(text: &[u8], more: &[&str]) -> Run {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let run = start(file.path().to_str().unwrap(), more).succeed();
    let (total, expected) = (run.output("total"), reference(file.path()));
    assert!(total == expected, "differs from the reference in line {}", first_difference(&total, &expected));
    run
}

fn first_difference(one: &[u8], other: &[u8]) -> usize {
    let lines = |text: &[u8]| text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    lines(one).iter().zip(&lines(other)).take_while(|(one, other)| one == other).count() + 1
}

/// About `length` bytes: words short and long, frequent and rare, in both cases, between all kinds of bytes, and one
/// that is longer than any block. Ends with a newline.
fn text(length: usize) -> Vec<u8> {
    const SEPARATORS: [&[u8]; 6] = [b" ", b"\n", b", ", b"--", b"\x00", "\u{e9}".as_bytes()];
    let mut state = 1_u64;
    let mut random = |bound: u64| {
        // The multiplier of Knuth's MMIX.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut text = Vec::new();
    while text.len() < length {
        // Lower numbers are more frequent.
        let bound = random(20_000) + 1;
        let mut number = random(bound);
        let capital = random(5) == 0;
        let start = text.len();
        for _ in 0..=number % 17 {
            text.push(b'a' + (number % 26) as u8);
            number = (number * 31 + 7) % 1_000_003;
        }
        if capital {
            text[start].make_ascii_uppercase();
        }
        text.extend_from_slice(SEPARATORS[random(6).saturating_sub(random(4)) as usize]);
        if start < length / 2 && text.len() >= length / 2 {
            text.extend(std::iter::repeat_n(b"Long", 100_000).flatten());
            text.push(b' ');
        }
    }
    text.push(b'\n');
    text
}

#[test]
fn equals_the_reference() {
    let run = compare(&text(3 << 20), &[]);
    assert_eq!([1, PARTS, 1], ["split", "count", "merge"].map(|function| run.instances(function).len()));
}

#[test]
fn equals_the_reference_with_one_slot() {
    compare(&text(3 << 20), &["--slots", "1"]);
}

#[test]
fn equals_the_reference_by_control_flow() {
    let run = compare(&text(3 << 20), &["--invocation", "control-flow"]);
    for (before, after) in [("split", "count"), ("count", "merge")] {
        let ended = run.instances(before).into_iter().map(|instance| instance.ended_ns).max().unwrap();
        let started = run.instances(after).into_iter().map(|instance| instance.started_ns).min().unwrap();
        assert!(ended.is_some() && ended <= started, "{after} started at {started:?}, {before} ended at {ended:?}");
    }
}

#[test]
fn texts_with_few_or_no_words() {
    for text in ["", " \n", "word", "\u{e9}t\u{e9}", "A a\nB"] {
        compare(text.as_bytes(), &[]);
    }
}

#[test]
fn top_cuts_the_list() {
    let text = text(1 << 20);
    let all = compare(&text, &[]).output("total");
    let mut child = start("-", &["--param", "top=3"]);
    child.child.stdin.take().unwrap().write_all(&text).unwrap();
    let top = child.succeed().output("total");
    assert_eq!(top, all.split_inclusive(|&byte| byte == b'\n').take(3).collect::<Vec<_>>().concat());
}

#[test]
fn a_wrong_parameter_is_named() {
    let error = start("/dev/null", &["--param", "top=many"]).fail();
    assert_eq!(error.instance.as_deref(), Some("merge"));
    assert!(error.reason.contains("'top'") && error.reason.contains("'many'"), "{}", error.reason);
}

/// The text does not end before instances of `count` have worked for a while: they cannot have waited for its end.
#[test]
fn count_works_while_split_does() {
    const MOST: u64 = 512;
    let text = text(1 << 20);
    let mut run = start("-", &[]);
    let mut stdin = run.child.stdin.take().unwrap();
    let mut repeats = 0;
    while processor_time("wordcount-count", run.child.id()) < 5 {
        assert!(repeats < MOST, "no instance of count works on the first {repeats} MiB of the text");
        stdin.write_all(&text).unwrap();
        repeats += 1;
    }
    drop(stdin);

    let run = run.succeed();
    let counts = run.instances("count");
    let first_read = counts.iter().filter_map(|count| count.first_input_byte_ns).min().expect("count has read");
    let &[&Instance { ended_ns: Some(split_ended), .. }] = &run.instances("split")[..] else {
        panic!("one split ends")
    };
    assert!(first_read < split_ended, "count read at {first_read} ns, split ended at {split_ended} ns");

    // As often as the text came, each word came.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&text).unwrap();
    let mut expected = Vec::new();
    for line in String::from_utf8(reference(file.path())).unwrap().lines() {
        let (count, word) = line.split_once(' ').unwrap();
        writeln!(expected, "{} {word}", count.parse::<u64>().unwrap() * repeats).unwrap();
    }
    assert!(run.output("total") == expected);
}

/// How long the descendants of a process that have this name have been on a processor, in ticks of the kernel's clock,
/// which are 10 ms.
fn processor_time(name: &str, ancestor: u32) -> u64 {
    let ids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let processes: HashMap<u32, Process> = ids.filter_map(|id| Some((id, Process::read(id)?))).collect();
    let descends = |mut id: u32| {
        while id != ancestor {
            match processes.get(&id) {
                Some(process) => id = process.parent,
                None => return false,
            }
        }
        true
    };
    let wanted = processes.iter().filter(|&(&id, process)| process.name == name && descends(id));
    wanted.map(|(_, process)| process.ticks).sum()
}

struct Process {
    name: String,
    parent: u32,
    ticks: u64,
}

impl Process {
    /// As `/proc` shows it; `None` if it has ended.
    fn read(id: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = tail.split(' ').collect();
        // proc(5): the third field, which is the first here, is the state; then the parent; the 14th and 15th are
        // times.
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Self { name: head.split_once('(')?.1.into(), parent: fields.get(1)?.parse().ok()?, ticks })
    }
}
