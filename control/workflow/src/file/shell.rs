//! A command that is written as one line, as for a shell: the list that it should have been.

/// The longest line for which a list is suggested, in bytes.
const MAX_LINE_BYTES: usize = 400;

/// The list, in the flow style of YAML, that does what a shell would do with this line: its words, or a call of the
/// shell if the line uses more of its syntax.
pub(super) fn as_list(line: &str) -> String {
    if line.len() > MAX_LINE_BYTES {
        return "[sh, -c, \"…\"]".into();
    }
    match shlex::split(line).filter(|words| !words.is_empty() && !needs_shell(line)) {
        Some(words) => list(words.iter().map(String::as_str)),
        None => list(["sh", "-c", line.trim()]),
    }
}

/// Whether a line has anything in it that only a shell does: pipes, redirections, variables, globs, comments, several
/// commands, or a quote that is not closed.
fn needs_shell(line: &str) -> bool {
    let mut quote = None;
    let mut characters = line.trim().chars();
    let mut word_begins = true;
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None | Some('"'), '\\') => _ = characters.next(),
            (None | Some('"'), '$' | '`') => return true,
            (None, '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?' | '[' | '\n') => return true,
            (None, '~' | '#') if word_begins => return true,
            _ => {}
        }
        word_begins = c.is_whitespace();
    }
    quote.is_some() || assigns(line)
}

/// Whether the line begins with an assignment to a variable: `A=b command`.
fn assigns(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or("");
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn list<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    format!("[{}]", words.into_iter().map(word).collect::<Vec<_>>().join(", "))
}

/// A word of a list, in quotes where YAML would take it for something else. The strings of JSON are strings of YAML.
fn word(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '.' | '_'))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '=' | '%'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | ".inf" | ".nan"
        );
    let is_option = text.starts_with('-')
        && text[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '=' | '_' | '/' | '.'));
    let is_number_like = text.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if (is_plain || is_option) && !is_number_like { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_by_a_shell() {
        for (line, list) in [
            ("sort -k1 -rn", "[sort, -k1, -rn]"),
            ("awk '$9 >= 400'", r#"[awk, "$9 >= 400"]"#),
            ("grep -e \"a b\" 'it''s'", r#"[grep, -e, "a b", its]"#),
            (r"printf %s\\n a\ b", r#"[printf, "%s\\n", "a b"]"#),
            ("head -n 3", r#"[head, -n, "3"]"#),
            ("jq '.[] | .name' -", r#"[jq, ".[] | .name", "-"]"#),
            ("echo true '' a#b", r#"[echo, "true", "", "a#b"]"#),
            ("dd if=/dev/zero bs=1M", "[dd, if=/dev/zero, bs=1M]"),
        ] {
            assert_eq!(as_list(line), list, "{line}");
        }
    }

    #[test]
    fn shell_syntax_calls_a_shell() {
        for line in [
            "sort | uniq -c",
            "cat < a",
            "ls *.txt",
            "echo $HOME",
            "echo \"$HOME\"",
            "a; b",
            "a && b",
            "echo `date`",
            "cat ~/x",
            "a # b",
            "LC_ALL=C sort",
            "echo 'not closed",
            "(a)",
        ] {
            assert_eq!(as_list(line), format!("[sh, -c, {}]", serde_json::Value::from(line)), "{line}");
        }
        assert_eq!(as_list(&"x ".repeat(500)), "[sh, -c, \"…\"]");
    }
}
