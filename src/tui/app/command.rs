//! The commands of the palette: views, themes, contexts, moments, and every action by its name.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::App;
use super::filter::Filter;
use super::prompt::Offer;
use crate::core::model::Timestamp;
use crate::tui::event::Effect;
use crate::tui::keys::BINDINGS;
use crate::tui::theme::Theme;
use crate::tui::view::View;

/// Returns everything that can be typed, with what it does.
pub fn commands(views: &[View], contexts: &[String]) -> Vec<Offer> {
    let shown = views.iter().map(|view| Offer::new(view.name, view.about));
    let themes = Theme::ALL
        .iter()
        .map(|theme| Offer::new(format!("theme {}", theme.word()), "Use these colours"));
    let contexts = contexts
        .iter()
        .map(|name| Offer::new(format!("context {name}"), "Read the data of this context"));
    let others = [
        ("at ", "Show a moment: at 12:30, at -15m, at 2026-11-25T12:00:00Z"),
        ("sort ", "Sort by a column: sort age, sort age down"),
        ("filter ", "Show only what matches"),
        ("save ", "Save what the view shows to a file"),
    ];
    let others = others.into_iter().map(|(text, about)| Offer::new(text, about));
    let is_view = |name: &str| views.iter().any(|view| view.name == name);
    let actions = BINDINGS
        .iter()
        .filter(|binding| !is_view(binding.name))
        .filter(|binding| !["theme", "sort", "filter", "save"].contains(&binding.name))
        .map(|binding| Offer::new(binding.name, binding.about));
    shown
        .chain(others)
        .chain(themes)
        .chain(contexts)
        .chain(actions)
        .collect()
}

impl App {
    /// Does what was typed in the palette.
    pub(super) fn command(&mut self, text: &str, effects: &mut Vec<Effect>) -> Result<(), String> {
        let text = text.trim();
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim();
        let view = self.views.iter().find(|view| view.name == word);
        match (word, rest) {
            ("", _) => {}
            (_, "") if view.is_some_and(|view| self.tabs().any(|tab| tab.name == view.name)) => {
                if let Some(view) = view {
                    self.show(view);
                }
            }
            ("at", moment) => {
                let moment = moment_of(moment, self.now.wall)
                    .ok_or("a moment is 12:30, 2026-11-25T12:00:00Z, -15m, -2h, -1d or now")?;
                self.go_to(moment);
            }
            ("theme", name) if !name.is_empty() => {
                let words = Theme::ALL.map(Theme::word).join(", ");
                let theme = Theme::find(name).ok_or(format!("there are the themes {words}"))?;
                self.turn_theme(Some(theme));
            }
            ("context", name) => {
                if !self.contexts.iter().any(|known| known == name) {
                    return Err(format!("there is no context {name:?}"));
                }
                effects.push(Effect::Turn(name.to_owned()));
            }
            ("sort", column) if !column.is_empty() => self.sort_by(column)?,
            ("filter", words) => {
                let filter = Filter::parse(words).map_err(|error| error.to_string())?;
                self.filter_by(filter);
            }
            ("save", path) if !path.is_empty() => self.save(path, effects),
            (_, key) => match (view, BINDINGS.iter().find(|binding| binding.name == word)) {
                (Some(view), _) => self.open(view, (!key.is_empty()).then(|| key.to_owned())),
                (None, Some(binding)) if key.is_empty() => self.act(binding.action, effects),
                _ => return Err(self.unknown(word)),
            },
        }
        Ok(())
    }

    fn unknown(&self, word: &str) -> String {
        let known = commands(self.views, &self.contexts);
        let near = known
            .iter()
            .map(|offer| (strsim::jaro_winkler(word, &offer.text), &offer.text))
            .filter(|(score, _)| *score > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match near {
            Some((_, near)) => format!("there is no command {word:?}; did you mean {near:?}?"),
            None => format!("there is no command {word:?}; tab shows what there is"),
        }
    }

    fn sort_by(&mut self, words: &str) -> Result<(), String> {
        let (name, direction) = words.split_once(' ').unwrap_or((words, "up"));
        let descends = match direction.trim() {
            "up" => false,
            "down" => true,
            other => return Err(format!("{other:?} is neither up nor down")),
        };
        self.change(|screen| {
            let columns = screen.page.as_deref().map(|page| page.columns.as_slice());
            let columns = columns.unwrap_or_default();
            let Some(at) = columns.iter().position(|column| column.name == name) else {
                let names: Vec<_> = columns.iter().map(|column| column.name).collect();
                return Err(format!("there are the columns {}", names.join(", ")));
            };
            screen.sort = Some((at, descends));
            screen.rearrange();
            Ok(())
        })
    }
}

/// Reads a moment: `now`, a time of today (UTC), a date with time, or how long ago (`-15m`, `-2h`, `-1d`, `-30s`).
pub fn moment_of(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    if text == "now" {
        return Some(now);
    }
    if let Some(ago) = text.strip_prefix('-') {
        let (number, unit) = ago.split_at_checked(ago.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let number: u32 = number.parse().ok()?;
        return now.checked_sub(Duration::seconds(i64::from(number) * seconds));
    }
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(moment);
    }
    if text.contains(['-', 'T']) {
        return Timestamp::parse(text).ok().map(Timestamp::moment);
    }
    let time = format!("{}T{text}", now.date());
    Timestamp::parse(&time).ok().map(Timestamp::moment)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = datetime!(2026-11-25 12:00:00 UTC);
        for (text, moment) in [
            ("now", Some(now)),
            ("-15m", Some(datetime!(2026-11-25 11:45:00 UTC))),
            ("-1d", Some(datetime!(2026-11-24 12:00:00 UTC))),
            ("09:30", Some(datetime!(2026-11-25 09:30:00 UTC))),
            ("2026-11-24T09:30:00Z", Some(datetime!(2026-11-24 09:30:00 UTC))),
            ("2026-11-24T09:30", Some(datetime!(2026-11-24 09:30:00 UTC))),
            ("-", None),
            ("-5x", None),
            ("-é", None),
            ("soon", None),
        ] {
            assert_eq!(moment_of(text, now), moment, "{text}");
        }
    }
}
