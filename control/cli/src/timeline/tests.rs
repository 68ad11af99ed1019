use super::*;
use crate::samples::{LOOK, wordcount};

#[test]
fn a_word_count() {
    let expected = "\
                     start ms  end ms  0                                      100 ms        in       out
split                     2.0    70.0  ░▒███████████████████████████               1.00 MiB  1.00 KiB
count[0]                  6.0    80.0    ░▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒███            1.00 MiB  1.00 KiB
";
    let text = render(&wordcount(), &LOOK);
    let head: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
    assert_eq!(head, expected, "\n{text}");
}
