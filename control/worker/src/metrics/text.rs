//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

/// A metrics page under construction.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// The samples of one metric.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// The content type of the page.
    pub(super) const TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// A gauge.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// A counter; its name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(help, false));
        Family { text: &mut self.0, name }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One sample, distinguished from others of the family by its labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.text.push_str(self.name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value, true));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
        self
    }
}

fn escaped(text: &str, quoted: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quoted => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_follows_the_format() {
        let mut text = Text::default();
        text.gauge("dflow_slots", "Instances that may compute\nat once.").sample(&[], 3);
        text.counter("dflow_x_total", "Back\\slash \"quoted\".")
            .sample(&[("peer", "b"), ("reason", "a \"b\"\n\\c")], 7)
            .sample(&[("peer", "c")], u64::MAX);
        assert_eq!(
            text.into_string(),
            "\
# HELP dflow_slots Instances that may compute\\nat once.
# TYPE dflow_slots gauge
dflow_slots 3
# HELP dflow_x_total Back\\\\slash \"quoted\".
# TYPE dflow_x_total counter
dflow_x_total{peer=\"b\",reason=\"a \\\"b\\\"\\n\\\\c\"} 7
dflow_x_total{peer=\"c\"} 18446744073709551615
"
        );
    }
}
