//! Samples and figures, and how they are shown.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Measurements of one thing.
#[derive(Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// Adds a measurement.
    pub(crate) fn add(&mut self, value: f64) {
        let place = self.0.partition_point(|other| *other < value);
        self.0.insert(place, value);
    }

    /// Returns the middle measurement, the mean of the two middle ones, or NaN where there is none.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match (self.0.get(middle), self.0.len() % 2) {
            (Some(upper), 1) => *upper,
            (Some(upper), _) => f64::midpoint(
                *upper,
                self.0.get(middle.wrapping_sub(1)).copied().unwrap_or(*upper),
            ),
            (None, _) => f64::NAN,
        }
    }

    /// Returns median, minimum and maximum in words.
    pub(crate) fn summary(&self, decimals: usize) -> String {
        let (least, most) = (self.0.first(), self.0.last());
        let (least, most) = (
            least.copied().unwrap_or(f64::NAN),
            most.copied().unwrap_or(f64::NAN),
        );
        format!(
            "{:.decimals$} ({least:.decimals$}-{most:.decimals$})",
            self.median()
        )
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its name in JSON, with the unit last.
    pub(crate) key: &'static str,
    /// Its name for people.
    pub(crate) name: &'static str,
    /// What was measured.
    pub(crate) value: f64,
    /// In what; empty for a ratio.
    pub(crate) unit: &'static str,
    /// The same of the Python reference, on a machine of two cores; NaN where it was not measured.
    pub(crate) reference: f64,
    /// The most that it may be here, or the least; NaN where it is shown for comparison only.
    pub(crate) target: f64,
    /// Whether the target is the least rather than the most.
    pub(crate) is_floor: bool,
    /// The spread.
    pub(crate) note: String,
}

impl Figure {
    /// Makes a figure of the median of a sample.
    pub(crate) fn of(
        key: &'static str,
        name: &'static str,
        unit: &'static str,
        sample: &Sample,
        reference: f64,
        target: f64,
    ) -> Self {
        let note = sample.summary(3);
        Self {
            key,
            name,
            value: sample.median(),
            unit,
            reference,
            target,
            is_floor: false,
            note,
        }
    }

    fn is_met(&self) -> bool {
        if self.is_floor {
            self.value >= self.target
        } else {
            self.value <= self.target
        }
    }

    /// Returns the figure as one JSON object.
    pub(crate) fn json(&self) -> String {
        let rounded = (self.value * 10_000.0).round() / 10_000.0;
        serde_json::json!({ self.key: rounded }).to_string()
    }
}

/// Lays the figures out.
fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, cells: [&str; 5]| {
        let [reference, target, here, met, spread] = cells;
        let _written = writeln!(
            text,
            "{name:<44} {reference:>12} {target:>14} {here:>14} {met:>4}  {spread}"
        );
    };
    row("figure", ["reference", "target", "here", "met", "spread"]);
    for figure in figures {
        let amount = |value: f64| {
            if value.is_nan() {
                "-".to_owned()
            } else {
                format!("{value} {}", figure.unit).trim_end().to_owned()
            }
        };
        let here = format!("{:.3} {}", figure.value, figure.unit)
            .trim_end()
            .to_owned();
        let sign = if figure.is_floor { '≥' } else { '≤' };
        let target = if figure.target.is_nan() {
            "-".to_owned()
        } else {
            format!("{sign} {}", amount(figure.target))
        };
        let met = if figure.target.is_nan() {
            ""
        } else if figure.is_met() {
            "yes"
        } else {
            "no"
        };
        row(
            figure.name,
            [&amount(figure.reference), &target, &here, met, &figure.note],
        );
    }
    text
}

/// Prints figures, as a table below `title` or as one JSON object a line.
#[expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]
pub(crate) fn print(figures: &[Figure], json: bool, title: &str) {
    if json {
        for figure in figures {
            println!("{}", figure.json());
        }
    } else {
        println!("{title} (minimum-maximum)\n");
        print!("{}", table(figures));
    }
}

/// Says why something could not be measured.
#[expect(clippy::print_stderr, reason = "there is nobody else to tell")]
pub(crate) fn exit(outcome: Result<(), Box<dyn Error + Send + Sync>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
