//! Functions in Rust, C, C++ and Fortran in one workflow. ffi/python/tests runs the one with Python, too.

#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "../../support/dflow.rs"]
mod dflow;
#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "../../../../ffi/c/tests/support/native.rs"]
mod native;

use native::{Installed, succeed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs, built as README.md says, beside the workflow file.
struct Example {
    installed: Installed,
    workflow: PathBuf,
}

impl Example {
    fn build() -> Self {
        let installed = Installed::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut make = Command::new("make");
        installed.environment(&mut make).arg(format!("OUT={}", installed.folder().display())).current_dir(source);
        succeed(make);
        let workflow = installed.folder().join("native.yaml");
        std::fs::copy(source.join("tests/native.yaml"), &workflow).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_climate-report"), installed.folder().join("climate-report"))
            .unwrap();
        Self { installed, workflow }
    }

    fn start(&self, readings: &[u8], more: &[&str]) -> dflow::Started {
        let input = self.installed.folder().join("readings");
        std::fs::write(&input, readings).unwrap();
        let input = format!("readings={}", input.display());
        let arguments = [&[self.workflow.to_str().unwrap(), "--input", &input], more].concat();
        dflow::start(env!("CARGO_BIN_EXE_climate-report"), &arguments)
    }
}

/// Readings with one wrong line in a hundred, and the numbers in them.
fn readings(count: usize) -> (Vec<u8>, Vec<f64>) {
    let (mut text, mut numbers) = (String::new(), Vec::new());
    let mut state = 1_u64;
    for line in 0..count {
        // The multiplier of Knuth's MMIX.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let tenths = ((state >> 33) % 600) as i64 - 200;
        if line % 100 == 99 {
            text.push_str("a line without a number;none\n");
            continue;
        }
        let number = format!("{}{}.{}", if tenths < 0 { "-" } else { "" }, tenths.abs() / 10, tenths.abs() % 10);
        text.push_str(&format!("Station {};{number}\n", line % 413));
        numbers.push(number.parse().unwrap());
    }
    (text.into_bytes(), numbers)
}

/// The lines of the histogram in the report, computed in the plainest way.
fn expected(numbers: &[f64], window: usize) -> Vec<(i64, u64)> {
    let mut bins = BTreeMap::new();
    for at in 0..numbers.len() {
        let first = (at + 1).saturating_sub(window);
        let mut sum = 0.0;
        for number in &numbers[first..=at] {
            sum += number;
        }
        *bins.entry((sum / (at + 1 - first) as f64).floor() as i64).or_insert(0) += 1;
    }
    bins.into_iter().collect()
}

/// The bytes that `figures` has counted, and the degrees with their counts.
fn parse(report: &[u8]) -> (u64, Vec<(i64, u64)>) {
    let text = std::str::from_utf8(report).unwrap();
    let (bytes, bins) = text.split_once('\n').unwrap();
    let bin = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ([degree, count] | [degree, _, count]) = words[..] else { panic!("{line}") };
        (degree.parse().unwrap(), count.parse().unwrap())
    };
    (bytes.trim().parse().unwrap(), bins.lines().map(bin).collect())
}

#[test]
fn four_languages_compute_one_report() {
    let example = Example::build();
    let (text, numbers) = readings(300_000);
    for (window, more) in [(5, &[][..]), (3, &["--param", "window=3", "--slots", "1"])] {
        let run = example.start(&text, more).succeed();
        let (bytes, bins) = parse(&run.output("report"));
        assert_eq!(bytes, 8 * numbers.len() as u64);
        assert!(bins == expected(&numbers, window), "window {window}: the bins differ");
    }
}

#[test]
fn a_function_in_each_language_fails_with_its_reason() {
    let example = Example::build();
    let error = example.start(b"A;1\n", &["--param", "window=0"]).fail();
    assert_eq!(error.instance.as_deref(), Some("smooth"));
    assert!(error.reason.contains("the parameter 'window' is not between 1 and 1000000"), "{}", error.reason);
    let error = example.start(b"A;1\n", &["--param", "window=many"]).fail();
    assert!(error.reason.contains("'many', which is not a whole number"), "{}", error.reason);

    // In C, the function says in which line; in C++, it throws.
    let workflow = std::fs::read_to_string(&example.workflow).unwrap();
    let strict = workflow.replace("outputs: [values] }", "outputs: [values], params: { strict: 1 } }");
    std::fs::write(&example.workflow, strict).unwrap();
    let error = example.start(b"A;1\nB\n", &[]).fail();
    assert!(error.reason.contains("line 2 has no number behind a ';'"), "{}", error.reason);
    let cut = workflow.replace("{ values: smooth.values }", "{ values: inputs.readings }");
    std::fs::write(&example.workflow, cut).unwrap();
    let error = example.start(b"A;1\n", &[]).fail();
    assert!(error.reason.contains("the input ends within a number"), "{}", error.reason);
}

#[test]
fn the_functions_run_alone_in_a_pipe() {
    let example = Example::build();
    let (text, numbers) = readings(10_000);
    let folder = example.installed.folder();
    std::fs::write(folder.join("readings"), text).unwrap();
    let pipe = "./climate-parse --in lines=readings --out values=- |
        ./climate-smooth --in values=- --out values=- --param window=2 |
        ./climate-histogram --in values=- --out bins=bins";
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", pipe]).current_dir(folder).env_remove("DFLOW_SOCKET");
    succeed(shell);
    let bins = std::fs::read_to_string(folder.join("bins")).unwrap();
    let lines: Vec<String> = expected(&numbers, 2).iter().map(|(bin, count)| format!("{bin} {count}")).collect();
    assert!(bins.lines().eq(lines.iter().map(String::as_str)), "the bins differ");
}
