use dflow_worker::report::{AttemptState, NodeReport};

use super::*;
use crate::samples::{LOOK, MS, attempt, wordcount};

/// The lines of a timeline that show instances.
fn rows_of(report: &RunReport, look: &Look) -> Vec<String> {
    let text = render(report, look);
    text.lines().skip(1).take_while(|line| !line.starts_with(['·', '.'])).map(str::to_owned).collect()
}

#[test]
fn a_word_count() {
    // Quoted lines, because the first one begins with spaces.
    let expected = [
        "                     start ms  end ms  0                                  100 ms        in       out",
        "split                     2.0    70.0  ░▒███████████████████████████              1.00 MiB  1.00 KiB",
        "count[0]                  6.0    80.0  ··░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒████          1.00 MiB  1.00 KiB",
        "count[1]                  7.0    81.0  ··░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒█████         1.00 MiB  1.00 KiB",
        "count[2]                  8.0    82.0  ···░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒█████         1.00 MiB  1.00 KiB",
        "count[3…7] (5 more)       9.0    87.0  ···░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒███████       5.00 MiB  5.00 KiB",
        "merge                    75.0    99.0  ······························░▒▒▒▒▒█████  1.00 MiB  1.00 KiB",
        "output:total             91.0    99.0                                       ████     300 B",
        "· ready, waits for its gate or slot   ░ runs, no byte yet   ▒ reads   █ since its first output byte",
    ];
    let text = render(&wordcount(), &LOOK);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

#[test]
fn several_nodes_have_a_column() {
    let mut report = wordcount();
    report.nodes = ["here", "there"].map(|name| NodeReport { name: name.into(), slots: 2 }).into();
    for life in &mut report.instances[2..8] {
        life.node = "there".into();
    }
    report.instances[9].node = "a-node-with-a-long-name".into();
    let expected = [
        "                     node              start ms  end ms  0                100 ms        in       out",
        "split                here                   2.0    70.0  ▒████████████████        1.00 MiB  1.00 KiB",
        "count[0]             here                   6.0    80.0  ·▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒███      1.00 MiB  1.00 KiB",
        "count[1]             there                  7.0    81.0  ·░▒▒▒▒▒▒▒▒▒▒▒▒▒▒███      1.00 MiB  1.00 KiB",
        "count[2]             there                  8.0    82.0  ·░▒▒▒▒▒▒▒▒▒▒▒▒▒▒███      1.00 MiB  1.00 KiB",
        "count[3…7] (5 more)  2 nodes                9.0    87.0  ··▒▒▒▒▒▒▒▒▒▒▒▒▒▒█████    5.00 MiB  5.00 KiB",
        "merge                a-node-w…ng-name      75.0    99.0  ·················▒▒▒███  1.00 MiB  1.00 KiB",
        "output:total         here                  91.0    99.0                      ███     300 B",
        "· ready, waits for its gate or slot   ░ runs, no byte yet   ▒ reads   █ since its first output byte",
    ];
    let text = render(&report, &LOOK);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

#[test]
fn any_width_and_ascii() {
    for width in 60..=200 {
        let text = render(&wordcount(), &Look { width, unicode: false, ..LOOK });
        assert!(text.is_ascii(), "{text}");
        let longest = text.lines().map(str::len).max();
        assert!(longest <= Some(width.max(72)) && longest > Some(width - 10), "{width}: {longest:?}\n{text}");
    }
    let ascii = rows_of(&wordcount(), &Look { unicode: false, ..LOOK });
    assert!(ascii[1].contains("..-==========") && ascii[4].starts_with("count[3...7] (5 more)"), "{ascii:#?}");
}

#[test]
fn colours_change_nothing_but_colours() {
    let mut report = wordcount();
    report.instances[3].end = AttemptState::Failed;
    let colored = render(&report, &Look { color: true, ..LOOK });
    assert!(colored.contains("\x1b[1;31m✗\x1b[0m"), "{colored:?}");
    let mut plain = colored;
    while let Some(start) = plain.find('\x1b') {
        let end = plain[start..].find('m').unwrap();
        plain.replace_range(start..=start + end, "");
    }
    assert_eq!(plain, render(&report, &LOOK));
}

#[test]
fn rows_are_in_the_order_of_their_starts() {
    let mut report = wordcount();
    report.instances.swap(0, 9);
    let never = attempt("late", [0; 6]);
    report.instances.insert(0, never);
    (report.instances[0].started_ns, report.instances[0].ended_ns, report.instances[0].end) =
        (None, None, AttemptState::Running);
    let rows = rows_of(&report, &LOOK);
    let names: Vec<&str> = rows.iter().map(|row| row.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["split", "count[0]", "count[1]", "count[2]", "count[3…7]", "merge", "late", "output:total"]);
    assert!(rows[6].ends_with("not started"), "{}", rows[6]);
}

#[test]
fn failed_attempts_are_not_collapsed() {
    let mut report = wordcount();
    report.instances[6].end = AttemptState::Failed;
    let mut retry = attempt("count[5]", [20 * MS; 6]);
    retry.attempt = 2;
    report.instances.push(retry);
    let rows = rows_of(&report, &LOOK);
    let named =
        |name: &str| rows.iter().find(|row| row.starts_with(name)).unwrap_or_else(|| panic!("{name}: {rows:#?}"));
    assert!(named("count[5] ").ends_with("failed") && named("count[5] ").contains('✗'));
    assert!(named("count[5] attempt 2").contains(" 20.0 "));
    // A range would include the part that has its own row.
    assert!(named("count[…] (4 more)").contains("4.00 MiB"));
}

#[test]
fn thousands_of_instances() {
    let mut report = wordcount();
    report.instances =
        (0..20_000).map(|part| attempt(&format!("count[{part}]"), [part, 0, part, part, part, part])).collect();
    for life in &mut report.instances[5000..6000] {
        life.end = AttemptState::Failed;
    }
    let rows = rows_of(&report, &LOOK);
    assert_eq!(rows.len(), 3 + 6 + 1, "{rows:#?}");
    assert!(rows[3].starts_with("count[…] (19991 more)") && rows[3].ends_with("994 failed"), "{}", rows[3]);
}

#[test]
fn hundreds_of_functions() {
    let mut report = wordcount();
    report.instances = (0..300).map(|number| attempt(&format!("f{number}"), [number; 6])).collect();
    let text = render(&report, &LOOK);
    assert_eq!(text.lines().count(), 1 + 100 + 1 + 1);
    assert!(text.contains("\n… 200 more instances;"), "{text}");
}

#[test]
fn long_names_keep_their_ends() {
    let mut report = wordcount();
    let name = format!("{}[17]", "a-very-long-name-of-a-function".repeat(2));
    report.instances = vec![attempt(&name, [0, 0, 0, 0, 0, 100 * MS])];
    assert!(rows_of(&report, &LOOK)[0].starts_with("a-very-long-name…-a-function[17] "));
}

#[test]
fn nothing_was_started() {
    let mut report = wordcount();
    report.instances.clear();
    assert_eq!(render(&report, &LOOK), "");
}
