//! Where data becomes text: one JSON document, JSON lines, CSV, or a table of chosen fields. Commands hand over values
//! and never ask which.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};

use super::catalogue;
use super::contract::{Prints, Promise};
use super::error::{CmdError, ExitCode, OrFail};
use super::table::{NOTHING, aligned, printable};

/// `--output`, as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// A JSON document per row and line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
}

/// How the data of a command is printed.
#[derive(Debug)]
pub struct Output {
    format: Format,
    fields: Option<Vec<String>>,
    prints: Prints,
    has_header: AtomicBool,
}

impl Output {
    /// Checks what was asked for against what the command prints.
    pub fn new(format: Format, fields: Option<&str>, promise: &Promise) -> Result<Self, CmdError> {
        let prints = promise.prints;
        let fields = fields.map(|text| chosen(text, promise)).transpose()?;
        let output = Self {
            format,
            fields,
            prints,
            has_header: AtomicBool::new(false),
        };
        if output.wants_data() {
            check_prints(promise)?;
        }
        Ok(output)
    }

    /// Tells whether data is wanted, rather than text for people.
    pub fn wants_data(&self) -> bool {
        self.format != Format::Table || self.fields.is_some()
    }

    /// Returns the lines that show a value, without the last line's end; none if it shows as nothing.
    pub fn text(&self, value: &impl Serialize) -> Result<Option<String>, CmdError> {
        let tried = "could not write the data";
        if self.format == Format::Json && self.fields.is_none() {
            return serde_json::to_string(value)
                .map(Some)
                .or_fail(ExitCode::Bug, tried);
        }
        let document = serde_json::to_value(value).or_fail(ExitCode::Bug, tried)?;
        let is_list = matches!(self.prints, Prints::List(_) | Prints::Under(..) | Prints::Map(..))
            || (matches!(self.prints, Prints::ListOr(..)) && document.is_array());
        let rows = self.rows(document);
        let lines = match self.format {
            Format::Json if is_list => {
                vec![Value::Array(rows.into_iter().map(Value::Object).collect()).to_string()]
            }
            Format::Json | Format::Jsonl => rows
                .into_iter()
                .map(|row| Value::Object(row).to_string())
                .collect(),
            Format::Csv => self.csv(&rows).or_fail(ExitCode::Bug, tried)?,
            Format::Table => self.table(&rows),
        };
        Ok((!lines.is_empty()).then(|| lines.join("\n")))
    }

    /// Returns the rows of a document, with the chosen fields only.
    fn rows(&self, document: Value) -> Vec<Map<String, Value>> {
        let rows = match (self.prints, document) {
            (Prints::List(_) | Prints::ListOr(..), Value::Array(rows)) => {
                rows.into_iter().map(as_row).collect()
            }
            (Prints::Under(key, _), Value::Object(mut whole)) => match whole.shift_remove(key) {
                Some(Value::Array(rows)) => rows.into_iter().map(as_row).collect(),
                _ => Vec::new(),
            },
            (Prints::Map(name, _), Value::Object(entries)) => entries
                .into_iter()
                .map(|(key, value)| {
                    let first = std::iter::once((name.to_owned(), Value::from(key)));
                    first.chain(as_row(value)).collect()
                })
                .collect(),
            (_, other) => vec![as_row(other)],
        };
        let Some(fields) = &self.fields else { return rows };
        let choose = |row: Map<String, Value>| {
            let values = fields.iter().map(|field| (field.clone(), at(&row, field)));
            values.collect()
        };
        rows.into_iter().map(choose).collect()
    }

    /// Returns the columns: the chosen fields, else those of the schema, else those that the rows have.
    fn columns(&self, rows: &[Map<String, Value>]) -> Vec<String> {
        if let Some(fields) = &self.fields {
            return fields.clone();
        }
        let known = self.prints.fields();
        if !known.is_empty() {
            return known;
        }
        let mut seen = BTreeSet::new();
        let keys = rows.iter().flat_map(Map::keys);
        keys.filter(|key| seen.insert(key.as_str())).cloned().collect()
    }

    fn csv(&self, rows: &[Map<String, Value>]) -> Result<Vec<String>, csv::Error> {
        let columns = self.columns(rows);
        let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
        if !self.has_header.swap(true, Ordering::Relaxed) {
            writer.write_record(&columns)?;
        }
        for row in rows {
            writer.write_record(
                columns
                    .iter()
                    .map(|column| cell(row.get(column)).unwrap_or_default()),
            )?;
        }
        let written = writer
            .into_inner()
            .map_err(|error| csv::Error::from(error.into_error()))?;
        let text = String::from_utf8_lossy(&written);
        // Not by lines: a cell may hold some.
        let text = text.trim_end_matches('\n');
        Ok(if text.is_empty() {
            Vec::new()
        } else {
            vec![text.to_owned()]
        })
    }

    fn table(&self, rows: &[Map<String, Value>]) -> Vec<String> {
        let columns = self.columns(rows);
        let shown = |row: &Map<String, Value>| -> Vec<String> {
            let cells = columns.iter().map(|column| cell(row.get(column)));
            cells
                .map(|cell| cell.map_or_else(|| NOTHING.to_owned(), |text| printable(&text)))
                .collect()
        };
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !self.has_header.swap(true, Ordering::Relaxed) && !rows.is_empty() {
            lines.push(columns.iter().map(|column| column.to_uppercase()).collect());
        }
        lines.extend(rows.iter().map(shown));
        aligned(&lines)
    }
}

/// Refuses a command that prints no data.
pub(super) fn check_prints(promise: &Promise) -> Result<(), CmdError> {
    if matches!(promise.prints, Prints::Nothing) {
        let message = format!("`horde {}` prints no data", promise.words);
        return Err(CmdError::new(catalogue::FORMAT, message).hint(
            "leave out --json, --output and --fields; `horde schema` lists the commands that print data",
        ));
    }
    Ok(())
}

/// Reads `--fields`: names separated by commas, each of them a field of the command's rows, or a path below one.
fn chosen(text: &str, promise: &Promise) -> Result<Vec<String>, CmdError> {
    check_prints(promise)?;
    let fields: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let known = promise.prints.fields();
    let is_known = |field: &String| {
        let first = field.split('.').next().unwrap_or_default();
        !first.is_empty() && (known.is_empty() || known.iter().any(|name| name == first || name == field))
    };
    let unknown: Vec<&String> = fields.iter().filter(|field| !is_known(field)).collect();
    if unknown.is_empty() {
        return Ok(fields);
    }
    let mut error = CmdError::new(
        catalogue::FIELD,
        format!("`horde {}` prints no field {}", promise.words, quoted(&unknown)),
    );
    for field in unknown {
        let near = known.iter().map(|name| (strsim::jaro(field, name), name));
        let near = near
            .filter(|(alike, _)| *alike > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, name)) = near {
            error = error.hint(format!("did you mean {name}?"));
        }
    }
    Err(error.hint(format!("there are {}", known.join(", "))))
}

fn quoted(names: &[&String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}

/// What is no object is one with the single field `value`.
fn as_row(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(row) => row,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

/// Returns the field at a path: the name itself, or names and positions separated by dots.
fn at(row: &Map<String, Value>, path: &str) -> Value {
    if let Some(value) = row.get(path) {
        return value.clone();
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let below = rest.split('.').try_fold(row.get(first), |value, name| {
        if name.is_empty() {
            return Some(value);
        }
        Some(match value? {
            Value::Object(object) => object.get(name),
            Value::Array(items) => name.parse().ok().and_then(|index: usize| items.get(index)),
            _ => None,
        })
    });
    below.flatten().cloned().unwrap_or(Value::Null)
}

/// Returns a value as a cell: texts as they are, what has parts as JSON; none for null.
fn cell(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde_json::json;

    use super::*;
    use crate::cmd::contract::of;

    #[derive(Serialize, JsonSchema)]
    struct Row {
        id: String,
        size: Option<u64>,
        #[schemars(with = "Value")]
        more: Value,
    }

    #[derive(Serialize, JsonSchema)]
    struct Whole {
        rows: Vec<Row>,
    }

    fn rows() -> Vec<Row> {
        let row = |id: &str, size, more| Row {
            id: id.to_owned(),
            size,
            more,
        };
        vec![
            row("a,b", Some(3), json!({"deep": ["x", {"y": 1}]})),
            row("c\u{1b}[2J", None, json!(null)),
        ]
    }

    fn output(format: Format, fields: Option<&str>, prints: Prints) -> Output {
        Output::new(format, fields, &Promise::new("test", prints, &[])).unwrap()
    }

    fn text(format: Format, fields: Option<&str>) -> String {
        let output = output(format, fields, Prints::List(of::<Row>));
        output.text(&rows()).unwrap().unwrap()
    }

    #[test]
    fn a_list_is_one_document_or_a_line_or_a_record_a_row() {
        let json = r#"{"id":"a,b","size":3,"more":{"deep":["x",{"y":1}]}}"#;
        assert!(text(Format::Json, None).starts_with(&format!("[{json},")));
        assert_eq!(text(Format::Jsonl, None).lines().next(), Some(json));
        assert_eq!(
            text(Format::Csv, None),
            "id,size,more\n\"a,b\",3,\"{\"\"deep\"\":[\"\"x\"\",{\"\"y\"\":1}]}\"\nc\u{1b}[2J,,"
        );
    }

    #[test]
    fn chosen_fields_may_lie_deep_and_a_table_is_harmless() {
        assert_eq!(
            text(Format::Json, Some("more.deep.1.y,id")),
            "[{\"more.deep.1.y\":1,\"id\":\"a,b\"},{\"more.deep.1.y\":null,\"id\":\"c\\u001b[2J\"}]"
        );
        assert_eq!(
            text(Format::Table, Some("id,size")),
            "ID     SIZE\na,b    3\nc\u{fffd}[2J  -"
        );
    }

    #[test]
    fn rows_below_a_key_and_entries_of_a_map_are_rows() {
        let whole = Whole { rows: rows() };
        let under = output(Format::Csv, Some("size"), Prints::Under("rows", of::<Whole>));
        assert_eq!(under.text(&whole).unwrap().unwrap(), "size\n3\n\"\"");
        let map = output(Format::Csv, Some("key,size"), Prints::Map("key", of::<Row>));
        let entries = json!({"one": {"size": 1}, "two": {"size": 2}});
        assert_eq!(map.text(&entries).unwrap().unwrap(), "key,size\none,1\ntwo,2");
    }

    #[test]
    fn a_stream_has_its_header_once_and_an_empty_list_is_empty() {
        let stream = output(Format::Csv, Some("id"), Prints::Stream(of::<Row>));
        let all: Vec<_> = rows()
            .iter()
            .filter_map(|row| stream.text(row).unwrap())
            .collect();
        assert_eq!(all, ["id\n\"a,b\"", "c\u{1b}[2J"]);
        let none: [Row; 0] = [];
        for (format, wanted) in [
            (Format::Json, Some("[]")),
            (Format::Jsonl, None),
            (Format::Csv, Some("id,size,more")),
        ] {
            let list = output(format, None, Prints::List(of::<Row>));
            assert_eq!(list.text(&none).unwrap().as_deref(), wanted);
        }
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_known_ones() {
        let refused = |fields, prints| {
            Output::new(Format::Json, fields, &Promise::new("test", prints, &[])).unwrap_err()
        };
        let error = refused(Some("id,siz"), Prints::List(of::<Row>));
        assert_eq!(error.code, ExitCode::Usage);
        assert_eq!(error.hints, ["did you mean size?", "there are id, size, more"]);
        assert_eq!(refused(None, Prints::Nothing).problem, catalogue::FORMAT);
    }
}
