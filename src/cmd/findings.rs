//! What checks found, as data, as lines and as JUnit: the same for `horde doctor`, `executor check` and `miner check`.

use schemars::JsonSchema;
use serde::Serialize;

use super::table::printable;
use crate::core::host::checks::{Finding, Status};

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// As it must be.
    Held,
    /// Not as it must be.
    Failed,
    /// Not as it must be, and the operator takes the risk.
    Accepted,
    /// Nobody can tell.
    Unknown,
    /// As it may be; better were otherwise.
    Advice,
    /// Not looked at; `actual` says why.
    Skipped,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct FindingRow {
    /// Whose: the name of the role's directory, `machine`, `executor` or `client`; where several are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    /// The check's name.
    pub(super) check: String,
    /// What came of it.
    pub(super) status: Outcome,
    /// What is.
    pub(super) actual: String,
    /// What must be.
    pub(super) required: String,
    /// What it is good for.
    pub(super) purpose: String,
    /// What an operator can do.
    pub(super) remedy: String,
    /// The vulnerabilities that set the bar.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cves: Vec<String>,
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

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        match status {
            Status::Held => Self::Held,
            Status::Failed => Self::Failed,
            Status::Accepted => Self::Accepted,
            Status::Unknown => Self::Unknown,
            Status::Advice => Self::Advice,
            Status::Skipped => Self::Skipped,
        }
    }
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        Self {
            role: None,
            check: finding.check.clone(),
            status: finding.status.into(),
            actual: finding.actual.clone(),
            required: finding.required.clone(),
            purpose: finding.purpose.clone(),
            remedy: finding.remedy.clone(),
            cves: finding.cves.clone(),
            duration_ms: None,
        }
    }
}

impl Outcome {
    /// Returns the word by which people read it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Failed => "FAILED",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
            Self::Advice => "advice",
            Self::Skipped => "skipped",
        }
    }

    /// Returns the sign that stands before the word.
    const fn sign(self, is_ascii: bool) -> char {
        match (self, is_ascii) {
            (Self::Held, false) => '✓',
            (Self::Failed, false) => '✗',
            (Self::Held, true) => '+',
            (Self::Failed, true) => 'x',
            (Self::Accepted, _) => '~',
            (Self::Unknown, _) => '?',
            (Self::Advice, _) => '!',
            (Self::Skipped, _) => '-',
        }
    }

    /// Tells whether people want to know what helps.
    const fn needs_help(self) -> bool {
        matches!(self, Self::Failed | Self::Advice)
    }
}

/// Returns the word by which people read what came of a check.
pub(super) fn status_word(status: Status) -> &'static str {
    Outcome::from(status).word()
}

/// Returns the rows as lines, under the name of whose they are; what helps stands where help is needed.
pub(super) fn lines(rows: &[FindingRow], is_ascii: bool) -> Vec<String> {
    let width = rows
        .iter()
        .map(|row| row.check.chars().count())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    let mut whose = None;
    for row in rows {
        if whose != Some(&row.role) {
            whose = Some(&row.role);
            lines.extend(row.role.as_deref().map(printable));
        }
        let (sign, word) = (row.status.sign(is_ascii), row.status.word());
        lines.push(format!(
            "  {sign} {word:<8}  {:<width$}  {}",
            row.check,
            printable(&row.actual)
        ));
        if row.status.needs_help() {
            for (name, text) in [("required", &row.required), ("remedy", &row.remedy)] {
                lines.push(format!("{:12}  {name:<width$}  {}", "", printable(text)));
            }
        }
    }
    lines
}

/// Returns the rows as a report of JUnit: what failed is a failure, what was not looked at is skipped.
pub(super) fn junit(suite: &str, rows: &[FindingRow]) -> String {
    let count = |wanted: Outcome| rows.iter().filter(|row| row.status == wanted).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
        escaped(suite),
        rows.len(),
        count(Outcome::Failed),
        count(Outcome::Skipped)
    );
    for row in rows {
        let whose = row.role.as_deref().unwrap_or(suite);
        #[expect(clippy::cast_precision_loss, reason = "a check takes seconds")]
        let seconds = row.duration_ms.unwrap_or(0) as f64 / 1000.0;
        let (whose, check, actual) = (escaped(whose), escaped(&row.check), escaped(&row.actual));
        let outcome = match row.status {
            Outcome::Failed => format!("<failure message=\"{actual}\">{}</failure>", escaped(&row.remedy)),
            Outcome::Skipped => format!("<skipped message=\"{actual}\"/>"),
            Outcome::Held | Outcome::Accepted | Outcome::Unknown | Outcome::Advice => {
                format!("<system-out>{}: {actual}</system-out>", row.status.word())
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

    fn row(role: &str, check: &str, status: Outcome, actual: &str) -> FindingRow {
        FindingRow {
            role: Some(role.to_owned()),
            check: check.to_owned(),
            status,
            actual: actual.to_owned(),
            required: "private".to_owned(),
            purpose: "secrets".to_owned(),
            remedy: "chmod 600 <it>".to_owned(),
            cves: Vec::new(),
            duration_ms: Some(1500),
        }
    }

    fn rows() -> Vec<FindingRow> {
        vec![
            row("machine", "memory", Outcome::Held, "9 GiB"),
            row("miner", "key-file", Outcome::Failed, "mode\n0644 & \"more\""),
            row("miner", "systemd", Outcome::Skipped, "none"),
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
