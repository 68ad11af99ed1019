//! When deterministic functions fail, their readers continue; functions that are wrongly declared so do no harm.

use crate::support::{Case, Ran, test_bytes};

const LENGTH: u64 = 6_000_000;

/// `a` fails `attempts` times; its readers use every way of reading.
fn failing(params: &str, retries: u32, more: &str) -> Case {
    Case::new(
        &format!(
            "a: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH}, {params} }}, deterministic: true, retries: {{ count: {retries}, backoff: 1ms }}, {more} }}
             b: {{ program: dflow-probe, inputs: {{ i: a.o }}, outputs: [o], params: {{ check: true }} }}
             slow: {{ program: dflow-probe, inputs: {{ i: a.o }}, outputs: [o], params: {{ check: true, pause_us: 2000 }} }}
             whole: {{ program: dflow-probe, inputs: {{ i: {{ from: a.o, gate: whole }} }}, outputs: [o], params: {{ check: true }} }}
             early: {{ program: dflow-probe, inputs: {{ i: a.o }}, outputs: [o], params: {{ check: true, read: 1000 }} }}
             lines: {{ command: [wc, -c], inputs: [a.o] }}"
        ),
        "{ o: b.o, slow: slow.o, whole: whole.o, direct: a.o, count: lines.out }",
    )
}

fn spared(case: &Case, ran: &Ran, attempts: usize) {
    ran.succeeded();
    assert_eq!(ran.attempts("a").len(), attempts);
    for reader in ["b", "slow", "whole", "early", "lines", "output:o", "output:direct"] {
        assert_eq!(ran.attempts(reader).len(), 1, "{reader} was started again: {:?}", ran.attempts(reader));
    }
    for output in ["o", "slow", "whole", "direct"] {
        assert!(case.output(output) == test_bytes(LENGTH), "{output} is wrong");
    }
    assert_eq!(String::from_utf8_lossy(&case.output("count")).trim(), LENGTH.to_string());
}

#[test]
fn its_readers_continue() {
    for how in ["error", "exit", "kill", "kill-in-chunk", "abort"] {
        let case = failing(&format!("fail: {how}, fail_at: 3000000, fail_attempts: 2, pause_us: 100"), 2, "");
        let ran = case.run(&["--slots", "6"]);
        spared(&case, &ran, 3);
    }
}

#[test]
fn its_readers_continue_when_it_hangs() {
    let case = failing("fail: hang, fail_at: 3000000, fail_attempts: 1", 1, "timeout: 1s");
    let ran = case.run(&["--slots", "6"]);
    spared(&case, &ran, 2);
}

#[test]
fn its_readers_continue_with_little_memory_and_one_slot() {
    let case = failing("fail: kill, fail_at: 5999999, fail_attempts: 1", 1, "");
    for args in [&["--memory", "1MiB", "--slots", "1"][..], &["--memory", "1MiB", "--slots", "6"]] {
        let ran = case.run(args);
        spared(&case, &ran, 2);
        assert!(ran.report["memory"]["spilled_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn parts_are_continued() {
    for partition in ["5", "discovered"] {
        let case = Case::new(
            &format!(
                "a: {{ program: dflow-probe, outputs: {{ o: {{ partition: {partition} }} }}, params: {{ bytes: 300000, parts: 5, fail: kill, fail_at: 200000, fail_attempts: 1 }}, deterministic: true, retries: {{ count: 1, backoff: 1ms }} }}
                 b: {{ program: dflow-probe, foreach: a.o, outputs: [n], params: {{ check: true }} }}
                 c: {{ program: dflow-probe, inputs: {{ i: b.n }}, outputs: [o] }}"
            ),
            "{ o: c.o, parts: b.n }",
        );
        let ran = case.run(&["--slots", "8"]);
        ran.succeeded();
        assert_eq!(ran.attempts("a").len(), 2);
        assert_eq!(ran.attempts("c").len(), 1);
        for part in 0..5 {
            assert_eq!(ran.attempts(&format!("b[{part}]")).len(), 1, "{partition}: part {part} was started again");
            assert!(case.output(&format!("parts/{part:05}")) == test_bytes(300_000), "{partition}: part {part}");
        }
        assert_eq!(case.output("o").len(), 5 * 300_000);
    }
}

/// The failure spends the retry; restarts because of the difference do not.
#[test]
fn readers_of_a_function_that_is_not_deterministic_restart() {
    for vary in [0, 65_535, 65_536, 2_999_999] {
        let case = Case::new(
            &format!(
                "a: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH}, vary: {vary}, fail: kill, fail_at: 3000000, fail_attempts: 1, pause_us: 100 }}, deterministic: true, retries: {{ count: 1, backoff: 1ms }} }}
                 b: {{ program: dflow-probe, inputs: {{ i: a.o }}, outputs: [o] }}"
            ),
            "{ o: b.o }",
        );
        let ran = case.run(&[]);
        ran.succeeded();
        assert_eq!(ran.attempts("a").len(), 3, "{vary}");
        assert!(ran.attempts("b").len() >= 2, "{vary}: it has read what is void");
        let mut expected = test_bytes(LENGTH);
        expected[vary] = expected[vary].wrapping_add(3);
        assert!(case.output("o") == expected, "{vary}: the output is wrong");
    }
}

#[test]
fn a_function_that_ends_earlier_the_second_time_is_not_deterministic() {
    let case = Case::new(
        "a: { command: [sh, -c, 'test -e {params.mark} && printf ab && exit; touch {params.mark}; printf abc; sleep 0.2; exit 1'], params: { mark: MARK }, deterministic: true, retries: { count: 1, backoff: 1ms } }
         b: { command: [cat], inputs: [a.out] }",
        "{ o: b.out }",
    );
    let text = std::fs::read_to_string(case.path("case.yaml")).unwrap();
    std::fs::write(case.path("case.yaml"), text.replace("MARK", case.path("mark").to_str().unwrap())).unwrap();
    let ran = case.run(&[]);
    ran.succeeded();
    assert_eq!(ran.attempts("a").len(), 3);
    assert_eq!(case.output("o"), b"ab");
}

#[test]
fn a_hostile_function_only_fails_its_run() {
    for how in ["words", "messages", "packets"] {
        let case = Case::new(
            &format!(
                "bad: {{ program: dflow-probe, outputs: [o], env: {{ PROBE_HOSTILE: {how} }}, deterministic: true, retries: {{ count: 3, backoff: 1ms }} }}
                 good: {{ program: dflow-probe, outputs: [o], params: {{ bytes: 100000000000, pause_us: 300 }} }}
                 reader: {{ program: dflow-probe, inputs: {{ i: bad.o, j: good.o }}, outputs: [o] }}"
            ),
            "{ bad: reader.o }",
        );
        // Its reader may detect the invalid data before the daemon does.
        let ran = case.run(&["--slots", "4"]);
        assert_eq!(ran.code, Some(1), "{how}: {}\n{}", ran.stderr, ran.report);
        for attempt in ran.attempts("good") {
            assert_ne!(attempt["end"], "failed", "{how}: {}", attempt["reason"]);
        }
    }
}
