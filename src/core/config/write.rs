//! Writes configuration files: what [`load`](super::load) reads.

use toml::{Table, Value as Toml};

use super::environment::Environment;
use super::table::{SETTINGS, Setting};
use super::value::Value;

/// Returns the text of a configuration file with these settings, keyed as in `miner.listen`; a key without a section
/// is left out, as no setting has such a key.
pub fn file_text(settings: &[(&str, Value)]) -> String {
    sections_of(settings.iter().map(|(key, value)| (*key, value))).to_string()
}

/// Returns the text of a configuration file for people: each setting with its meaning, and others that may be wanted,
/// commented out, with what they are without it. In the order of the table of settings.
pub fn commented_text(head: &str, settings: &[(&str, Value)], others: &[&str]) -> String {
    let mut lines: Vec<String> = head.lines().map(|line| format!("# {line}")).collect();
    let mut section = "";
    for setting in SETTINGS {
        let chosen = settings.iter().find(|(key, _)| *key == setting.key);
        let Some((of, name)) = setting.key.split_once('.') else {
            continue;
        };
        if chosen.is_none() && !others.contains(&setting.key) {
            continue;
        }
        if of != section {
            lines.push(format!("\n[{of}]"));
            section = of;
        }
        lines.push(format!("# {}", setting.doc));
        lines.push(match chosen {
            Some((_, value)) => format!("{name} = {}", toml_of(value)),
            None => format!("#{name} = {}", default_of(setting)).trim_end().to_owned(),
        });
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Returns what a setting is when nothing sets it; empty if that follows from others, or is nothing.
fn default_of(setting: &Setting) -> String {
    let parsed = setting
        .default
        .map(|text| setting.kind.parse(text, &Environment::default()));
    match parsed {
        Some(Ok(value)) => toml_of(&value).to_string(),
        Some(Err(_)) | None => String::new(),
    }
}

/// Returns settings in a table for each section.
pub(super) fn sections_of<'a>(settings: impl Iterator<Item = (&'a str, &'a Value)>) -> Table {
    let mut file = Table::new();
    for (section, name, value) in
        settings.filter_map(|(key, value)| key.split_once('.').map(|(section, name)| (section, name, value)))
    {
        let entries = file.entry(section).or_insert_with(|| Toml::Table(Table::new()));
        if let Toml::Table(entries) = entries {
            entries.insert(name.to_owned(), toml_of(value));
        }
    }
    file
}

fn toml_of(value: &Value) -> Toml {
    match value {
        Value::Text(text) => text.clone().into(),
        Value::Integer(number) => (*number).into(),
        Value::Seconds(seconds) => (*seconds).into(),
        Value::Bool(claim) => (*claim).into(),
        Value::Path(path) => path.to_string_lossy().into_owned().into(),
        Value::List(items) => items.clone().into(),
        Value::Networks(networks) => networks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .into(),
        Value::Executors(counts) => Toml::Table(
            counts
                .iter()
                .map(|(class, count)| (class.clone(), Toml::from(*count)))
                .collect(),
        ),
        Value::WordPerClass(words) => Toml::Table(
            words
                .iter()
                .map(|(class, word)| (class.clone(), Toml::from(word.clone())))
                .collect(),
        ),
        Value::NumberPerClass(numbers) => Toml::Table(
            numbers
                .iter()
                .map(|(class, number)| (class.clone(), Toml::from(*number)))
                .collect(),
        ),
        Value::SharePerClass(shares) => Toml::Table(
            shares
                .iter()
                .map(|(class, share)| (class.clone(), Toml::from(*share)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{Environment, Scope, Sources, load};

    #[test]
    fn what_is_written_is_read_back() {
        let settings = [
            (
                "miner.executors",
                Value::Executors(vec![("always_on.test".to_owned(), 2)]),
            ),
            (
                "miner.profiles",
                Value::WordPerClass(vec![("always_on.test".to_owned(), "strict".to_owned())]),
            ),
            (
                "facilitator.prices",
                Value::NumberPerClass(vec![("always_on.test".to_owned(), 0)]),
            ),
            (
                "miner.executor_image",
                Value::Text("quote\" back\\slash \n line".to_owned()),
            ),
            ("miner.port", Value::Integer(80)),
            ("miner.no_gpu", Value::Bool(true)),
            (
                "facilitator.users",
                Value::List(vec!["a".to_owned(), "b".to_owned()]),
            ),
            ("chain.block_seconds", Value::Seconds(0.5)),
            ("chain.path", Value::Path("/a b/c".into())),
        ];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("horde.toml"), file_text(&settings)).unwrap();
        let environment = Environment::default();
        let dir = Some(dir.path().to_owned());
        let read = load(&Sources {
            scope: Scope::Miner,
            environment: &environment,
            dir,
            config: None,
            context: None,
            flags: Vec::new(),
        })
        .unwrap();
        for (key, value) in settings {
            assert_eq!(read.required(key).unwrap(), &value);
        }
    }
}
