//! What checks found, as data, as lines and as JUnit: the same for `horde doctor`, `executor check` and `miner check`.

use schemars::JsonSchema;
use serde::Serialize;

use super::table::printable;
use crate::core::host::checks::{Finding, Status};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct FindingRow {
    /// Whose: the name of the role's directory, `machine`, `executor` or `client`; where several are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    #[serde(flatten)]
    pub(super) finding: Finding,
    /// How long it took, in milliseconds; of checks that are made together, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration_ms: Option<u64>,
}

/// What all checks found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Findings {
    /// In the order in which they are told.
    checks: Vec<FindingRow>,
}

impl Findings {
    /// Takes rows.
    pub(super) fn of(rows: impl Iterator<Item = FindingRow>) -> Self {
        Self {
            checks: rows.collect(),
        }
    }
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        Self {
            role: None,
            finding: finding.clone(),
            duration_ms: None,
        }
    }
}

/// Returns the word by which people read what came of a check.
pub(super) const fn status_word(status: Status) -> &'static str {
    match status {
        Status::Held => "held",
        Status::Failed => "FAILED",
        Status::Accepted => "accepted",
        Status::Unknown => "unknown",
        Status::Advice => "advice",
        Status::Skipped => "skipped",
    }
}

/// Returns the sign that stands before the word.
const fn sign(status: Status, is_ascii: bool) -> char {
    match (status, is_ascii) {
        (Status::Held, false) => '✓',
        (Status::Failed, false) => '✗',
        (Status::Held, true) => '+',
        (Status::Failed, true) => 'x',
        (Status::Accepted, _) => '~',
        (Status::Unknown, _) => '?',
        (Status::Advice, _) => '!',
        (Status::Skipped, _) => '-',
    }
}

/// Tells whether people want to know what helps.
const fn needs_help(status: Status) -> bool {
    matches!(status, Status::Failed | Status::Advice)
}

/// Returns the rows as lines, under the name of whose they are; what helps stands where help is needed.
pub(super) fn lines(rows: &[FindingRow], is_ascii: bool) -> Vec<String> {
    let width = rows
        .iter()
        .map(|row| row.finding.check.chars().count())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    let mut whose = None;
    for row in rows {
        let finding = &row.finding;
        if whose != Some(&row.role) {
            whose = Some(&row.role);
            lines.extend(row.role.as_deref().map(printable));
        }
        let (sign, word) = (sign(finding.status, is_ascii), status_word(finding.status));
        lines.push(format!(
            "  {sign} {word:<8}  {:<width$}  {}",
            finding.check,
            printable(&finding.actual)
        ));
        if needs_help(finding.status) {
            for (name, text) in [("required", &finding.required), ("remedy", &finding.remedy)] {
                lines.push(format!("{:12}  {name:<width$}  {}", "", printable(text)));
            }
        }
    }
    lines
}

/// Returns the rows as a report of JUnit: what failed is a failure, what was not looked at is skipped.
pub(super) fn junit(suite: &str, rows: &[FindingRow]) -> String {
    let count = |wanted: Status| rows.iter().filter(|row| row.finding.status == wanted).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
        escaped(suite),
        rows.len(),
        count(Status::Failed),
        count(Status::Skipped)
    );
    for row in rows {
        let finding = &row.finding;
        let whose = row.role.as_deref().unwrap_or(suite);
        #[expect(clippy::cast_precision_loss, reason = "a check takes seconds")]
        let seconds = row.duration_ms.unwrap_or(0) as f64 / 1000.0;
        let (whose, check, actual) = (escaped(whose), escaped(&finding.check), escaped(&finding.actual));
        let outcome = match finding.status {
            Status::Failed => format!(
                "<failure message=\"{actual}\">{}</failure>",
                escaped(&finding.remedy)
            ),
            Status::Skipped => format!("<skipped message=\"{actual}\"/>"),
            Status::Held | Status::Accepted | Status::Unknown | Status::Advice => {
                format!(
                    "<system-out>{}: {actual}</system-out>",
                    status_word(finding.status)
                )
            }
        };
        text.extend([
            "  <testcase classname=\"",
            &whose,
            "\" name=\"",
            &check,
            &format!("\" time=\"{seconds:.3}\">"),
            &outcome,
            "</testcase>\n",
        ]);
    }
    text.push_str("</testsuite>\n");
    text
}

/// Escapes a text for XML; what XML cannot hold is replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(role: &str, check: &str, status: Status, actual: &str) -> FindingRow {
        FindingRow {
            role: Some(role.to_owned()),
            finding: Finding::new(check, status, actual, ("private", "secrets", "chmod 600 <it>")),
            duration_ms: Some(1500),
        }
    }

    fn rows() -> Vec<FindingRow> {
        vec![
            row("machine", "memory", Status::Held, "9 GiB"),
            row("miner", "key-file", Status::Failed, "mode\n0644 & \"more\""),
            row("miner", "systemd", Status::Skipped, "none"),
        ]
    }

    #[test]
    fn lines_have_a_sign_and_a_word_and_help_where_it_is_needed() {
        assert_eq!(
            lines(&rows(), false),
            [
                "machine",
                "  ✓ held      memory    9 GiB",
                "miner",
                "  ✗ FAILED    key-file  mode\u{fffd}0644 & \"more\"",
                "              required  private",
                "              remedy    chmod 600 <it>",
                "  - skipped   systemd   none",
            ]
        );
        let ascii = lines(&rows(), true);
        assert!(ascii[1].starts_with("  + held") && ascii[3].starts_with("  x FAILED"));
    }

    #[test]
    fn a_junit_report_counts_and_escapes() {
        let text = junit("horde doctor", &rows());
        assert!(
            text.contains("tests=\"3\" failures=\"1\" skipped=\"1\""),
            "{text}"
        );
        let failure =
            "<failure message=\"mode\u{fffd}0644 &amp; &quot;more&quot;\">chmod 600 &lt;it&gt;</failure>";
        assert!(text.contains(failure), "{text}");
        assert!(
            text.contains("classname=\"miner\" name=\"key-file\" time=\"1.500\""),
            "{text}"
        );
    }
}
