//! Users of a facilitator: who is let in or kept out, their jobs and their money.

use time::OffsetDateTime;

use super::cells::{self, or_nothing};
use super::{Ask, Cell, LoadError, Page, Row, Tone, View};
use crate::core::store::facilitator::look::UserGlance;
use crate::tui::source::Source;

/// The view.
pub const VIEW: View = View {
    name: "users",
    key: None,
    title: "users",
    about: "List a facilitator's users with their jobs and their credit",
    opens: None,
    keeps_past: false,
    load,
    draw: None,
};

const EMPTY: &str = "no user yet: `horde facilitator user add HOTKEY` lets one in";

fn load(source: &Source, ask: &Ask) -> Result<Page, LoadError> {
    let moment = source.clock.now();
    let limit = cells::limit(ask);
    let facilitators = source.facilitators()?;
    if facilitators.is_empty() {
        return Err(LoadError::NotKept(
            "users are kept by a facilitator, and none has its data here",
        ));
    }
    let after = ask.before.as_deref().unwrap_or_default();
    let mut users = Vec::new();
    for seen in &facilitators {
        users.extend(seen.ask(|look| look.users(after, limit))?);
    }
    users.sort_by(|a, b| a.hotkey.cmp(&b.hotkey));
    let rows_max = usize::try_from(limit).unwrap_or(usize::MAX);
    users.truncate(rows_max);
    let older = users
        .last()
        .filter(|_| users.len() == rows_max)
        .map(|user| user.hotkey.to_string());
    Ok(Page {
        older,
        ..page(&users, moment)
    })
}

/// Returns the page of these users.
pub(in crate::tui) fn page(users: &[UserGlance], moment: OffsetDateTime) -> Page {
    Page {
        columns: cells::columns(&[
            ("user", false, 0),
            ("state", false, 0),
            ("available", true, 1),
            ("reserved", true, 2),
            ("jobs", true, 3),
            ("open", true, 1),
            ("since", true, 5),
            ("note", false, 4),
        ]),
        rows: users.iter().map(|user| row(user, moment)).collect(),
        empty: EMPTY,
        ..Page::default()
    }
}

fn row(user: &UserGlance, now: OffsetDateTime) -> Row {
    let (state, since, note) = match (&user.blocked, user.added) {
        (Some((since, reason)), _) => (Cell::text("blocked").tone(Tone::Bad), Some(*since), reason),
        (None, Some(added)) => (Cell::text("added").tone(Tone::Good), Some(added), &user.note),
        (None, None) => (Cell::text("by setting"), None, &user.note),
    };
    let open = Cell::integer(user.unfinished).tone(if user.unfinished > 0 {
        Tone::Busy
    } else {
        Tone::Plain
    });
    Row {
        key: user.hotkey.as_str().into(),
        cells: vec![
            cells::hotkey(&user.hotkey),
            state,
            cells::money(user.account.available),
            cells::money(user.account.reserved),
            Cell::integer(user.jobs),
            open,
            or_nothing(since, |since| cells::age(since, now)),
            cells::words(note),
        ],
    }
}
