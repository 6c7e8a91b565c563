//! What every command promises: what it prints as data, and the exit codes it may end with. Each noun keeps the
//! promises of its commands; here they are put together, and fields are found in their schemas.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::error::ExitCode;

/// The version of the data that commands print: raised when a field goes or changes its meaning, never when one comes.
pub const OUTPUT_VERSION: u32 = 1;

/// What a command promises.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// Its words, as in `job list`.
    pub words: &'static str,
    /// What it prints as data.
    pub prints: Prints,
    /// The exit codes it may end with besides [`ExitCode::ANY`]; [`JOBS_OWN`] stands for any that a job ends with.
    pub exits: &'static [ExitCode],
}

/// The exit code of a job, whatever it is.
pub const JOBS_OWN: ExitCode = ExitCode::Passed(0);

impl Promise {
    /// Returns the promise of a command.
    pub const fn new(words: &'static str, prints: Prints, exits: &'static [ExitCode]) -> Self {
        Self { words, prints, exits }
    }

    /// Tells whether the command may end with this code.
    pub fn may_end_with(&self, code: u8) -> bool {
        let codes = ExitCode::ANY.iter().chain(self.exits);
        let mut numbers = codes.map(|code| code.number());
        self.exits.contains(&JOBS_OWN) || numbers.any(|number| number == code)
    }
}

/// What hidden commands promise: they are called by horde itself.
pub const HIDDEN: Promise = Promise::new("", Prints::One(of::<Value>), &[]);

/// The JSON Schema of what a command prints, as a function that makes it.
pub type SchemaOf = fn() -> Value;

/// What a command prints as data; the schema is that of a row.
#[derive(Clone, Copy, Debug)]
pub enum Prints {
    /// Nothing: it serves, draws, or prints a text as it is.
    Nothing,
    /// One object, which is one row.
    One(SchemaOf),
    /// A list of rows.
    List(SchemaOf),
    /// A list of rows, or with a flag (`--follow`) changes of rows as they come.
    ListOr(SchemaOf, SchemaOf),
    /// An object that has its rows under this key; the schema is that of the whole object.
    Under(&'static str, SchemaOf),
    /// An object whose entries are rows; the first field, of this name, is the entry's key.
    Map(&'static str, SchemaOf),
    /// A row a line, as they come.
    Stream(SchemaOf),
    /// One object, or with a flag another: a plan, or rows as they come.
    Either(SchemaOf, SchemaOf),
}

/// Returns the schema of a type, whole in itself.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    schema
}

impl Prints {
    /// Returns the schema of the whole of what is printed with `--output json`; none if nothing is.
    pub fn schema(self) -> Option<Value> {
        let mut schema = match self {
            Self::Nothing => return None,
            Self::One(of) | Self::Under(_, of) | Self::Stream(of) => of(),
            Self::List(of) => object([("type", "array".into()), ("items", of())]),
            Self::ListOr(of, change) => {
                let list = object([("type", "array".into()), ("items", of())]);
                object([("anyOf", Value::Array(vec![list, change()]))])
            }
            Self::Map(_, of) => object([("type", "object".into()), ("additionalProperties", of())]),
            Self::Either(one, stream) => object([("anyOf", Value::Array(vec![one(), stream()]))]),
        };
        if let Some(object) = schema.as_object_mut() {
            object.shift_insert(
                0,
                "$schema".to_owned(),
                "https://json-schema.org/draft/2020-12/schema".into(),
            );
        }
        Some(schema)
    }

    /// Returns the names of the fields of a row, in their order.
    pub fn fields(self) -> Vec<String> {
        let mut fields = Vec::new();
        match self {
            Self::Nothing => {}
            Self::One(of) | Self::List(of) | Self::Stream(of) => names(&of(), &mut fields),
            Self::Under(key, of) => {
                let whole = of();
                let alternatives = whole.get("anyOf").and_then(Value::as_array);
                let alternatives = alternatives.map_or(std::slice::from_ref(&whole), Vec::as_slice);
                for alternative in alternatives {
                    let rows = alternative.pointer(&format!("/properties/{key}/items"));
                    names(rows.unwrap_or(&Value::Null), &mut fields);
                }
            }
            Self::Map(key, of) => {
                names(&of(), &mut fields);
                // A row without known fields is free, and so is its key.
                if !fields.is_empty() {
                    fields.insert(0, key.to_owned());
                }
            }
            Self::Either(one, other) | Self::ListOr(one, other) => {
                names(&one(), &mut fields);
                names(&other(), &mut fields);
            }
        }
        fields
    }
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.map(|(key, value)| (key.to_owned(), value));
    Value::Object(Map::from_iter(entries))
}

/// Collects the names of an object's fields, or of those of all its alternatives.
fn names(schema: &Value, fields: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for name in properties.keys() {
            if !fields.contains(name) {
                fields.push(name.clone());
            }
        }
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        let alternatives = schema.get(word).and_then(Value::as_array);
        for alternative in alternatives.into_iter().flatten() {
            names(alternative, fields);
        }
    }
}

/// All promises, in the order of the help.
pub fn promises() -> impl Iterator<Item = &'static Promise> {
    super::PROMISES.iter().flat_map(|promises| promises.iter())
}

/// Returns the promise of a command by its words; hidden ones have none of their own.
pub fn promise(words: &str) -> &'static Promise {
    promises()
        .find(|promise| promise.words == words)
        .unwrap_or(&HIDDEN)
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Inner {
        /// A name.
        name: String,
        size: Option<u64>,
    }

    #[derive(Serialize, JsonSchema)]
    struct Outer {
        rows: Vec<Inner>,
        note: String,
    }

    #[test]
    fn fields_are_those_of_a_row() {
        assert_eq!(Prints::List(of::<Inner>).fields(), ["name", "size"]);
        assert_eq!(Prints::Under("rows", of::<Outer>).fields(), ["name", "size"]);
        assert_eq!(Prints::Map("key", of::<Inner>).fields(), ["key", "name", "size"]);
        assert_eq!(
            Prints::Either(of::<Outer>, of::<Inner>).fields(),
            ["rows", "note", "name", "size"]
        );
        assert!(Prints::Nothing.schema().is_none());
    }

    #[test]
    fn a_schema_describes_fields_and_holds_all_its_parts() {
        let schema = Prints::Under("rows", of::<Outer>).schema().unwrap();
        assert_eq!(
            schema.pointer("/properties/rows/items/properties/name/description"),
            Some(&Value::from("A name."))
        );
        assert!(!schema.to_string().contains("$ref"));
    }
}
