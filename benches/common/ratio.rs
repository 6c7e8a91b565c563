//! One thing measured beside another.

use crate::figure::{Figure, Sample};

/// Makes a figure of one median divided by another, for comparison only.
pub(crate) fn ratio(key: &'static str, name: &'static str, over: &Sample, under: &Sample) -> Figure {
    Figure {
        key,
        name,
        value: over.median() / under.median(),
        unit: "",
        reference: f64::NAN,
        target: f64::NAN,
        is_floor: false,
        note: format!("{} ÷ {}", over.summary(3), under.summary(3)),
    }
}
