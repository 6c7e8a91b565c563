//! What runs here: the roles that keep a database in the data directory.

use super::{Ask, Cell, Column, LoadError, Page, Row, View};
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "overview",
    key: None,
    title: "overview",
    about: "Show which roles keep data here",
    opens: None,
    keeps_past: false,
    load,
    draw: None,
};

#[expect(clippy::unnecessary_wraps, reason = "the shape of a view")]
fn load(source: &Source, _: &Ask) -> Result<Page, LoadError> {
    let rows = source.places.iter().map(|place| Row {
        key: place.name.as_str().into(),
        cells: vec![
            Cell::text(place.name.clone()),
            Cell::text(place.role.word()),
            Cell::text(place.database().display().to_string()),
        ],
    });
    Ok(Page {
        facts: vec![("directory", Cell::text(source.dir.display().to_string()))],
        columns: ["name", "role", "database"]
            .into_iter()
            .zip(0..)
            .map(|(name, rank)| Column {
                name,
                right: false,
                rank,
            })
            .collect(),
        rows: rows.collect(),
        empty: "no role keeps data here yet: `horde miner run` or `horde up` makes some",
        ..Page::default()
    })
}
