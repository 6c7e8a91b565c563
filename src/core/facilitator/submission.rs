//! The rules of a submitted job's fields: what is required, what has a default, how a bad one is told.
//!
//! The texts are those of the reference's framework, so that users' programs that show them need not change. Every
//! bad field is reported, not only the first.

use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::core::model::upload::SingleFileUpload;
use crate::core::model::volume::SimpleVolume;
use crate::core::model::{ExecutorClass, Hotkey};
use crate::core::store::facilitator::JobSpec;

/// Most characters of a short text, as in the reference's database.
const TEXT_CHARS_MAX: usize = 255;

/// The kinds of volumes that can be submitted.
const VOLUME_KINDS: &[&str] = &["inline", "zip_url", "single_file", "huggingface_volume"];

/// The kinds of uploads that can be submitted.
const UPLOAD_KINDS: &[&str] = &["single_file_post", "single_file_put"];

/// What is wrong with a body, by field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct FieldErrors(Map<String, Value>);

impl FieldErrors {
    fn add(&mut self, field: &str, problem: impl Into<Value>) {
        self.0.insert(field.to_owned(), problem.into());
    }
}

/// Reads the fields of a submitted job.
pub(super) fn read(body: &Map<String, Value>) -> Result<JobSpec, FieldErrors> {
    let mut fields = Fields {
        body,
        errors: FieldErrors::default(),
    };
    let spec = JobSpec {
        target_validator: Hotkey::new(fields.required_text("target_validator_hotkey")),
        executor_class: fields.executor_class(),
        docker_image: fields.text("docker_image").unwrap_or_default(),
        job_namespace: fields.nullable_text("job_namespace"),
        tag: fields.text("tag").unwrap_or_default(),
        args: fields.args(),
        env: fields.env(),
        use_gpu: fields.boolean("use_gpu"),
        // The reference refuses null, which is what its own SDK sends by default.
        artifacts_dir: fields.nullable_text("artifacts_dir").unwrap_or_default(),
        on_trusted_miner: fields.boolean("on_trusted_miner"),
        download_time_limit: fields.limit("download_time_limit"),
        execution_time_limit: fields.limit("execution_time_limit"),
        streaming_start_time_limit: fields.limit("streaming_start_time_limit"),
        upload_time_limit: fields.limit("upload_time_limit"),
        streaming_client_cert: fields.streaming_client(),
        volumes: fields.tagged::<SimpleVolume>("volumes", "volume_type", VOLUME_KINDS),
        uploads: fields.tagged::<SingleFileUpload>("uploads", "output_upload_type", UPLOAD_KINDS),
    };
    if fields.errors.0.is_empty() {
        Ok(spec)
    } else {
        Err(fields.errors)
    }
}

struct Fields<'a> {
    body: &'a Map<String, Value>,
    errors: FieldErrors,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.body.get(field)
    }

    fn refuse(&mut self, field: &str, problem: impl Into<String>) {
        self.errors.add(field, json!([problem.into()]));
    }

    /// Reads a text that may be absent, but not null.
    fn text(&mut self, field: &str) -> Option<String> {
        match self.get(field) {
            Some(Value::Null) => {
                self.refuse(field, "This field may not be null.");
                None
            }
            _ => self.nullable_text(field),
        }
    }

    fn nullable_text(&mut self, field: &str) -> Option<String> {
        match self.get(field) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.chars().count() <= TEXT_CHARS_MAX => Some(text.clone()),
            Some(Value::String(_)) => {
                let limit = format!("Ensure this field has no more than {TEXT_CHARS_MAX} characters.");
                self.refuse(field, limit);
                None
            }
            Some(_) => {
                self.refuse(field, "Not a valid string.");
                None
            }
        }
    }

    fn required_text(&mut self, field: &str) -> String {
        match self.get(field) {
            None => self.refuse(field, "This field is required."),
            Some(Value::String(text)) if text.is_empty() => {
                self.refuse(field, "This field may not be blank.");
            }
            Some(_) => return self.text(field).unwrap_or_default(),
        }
        String::new()
    }

    fn executor_class(&mut self) -> ExecutorClass {
        let word = match self.get("executor_class") {
            None => return ExecutorClass::DEFAULT,
            Some(Value::String(word)) => word.as_str(),
            Some(Value::Null) => {
                self.refuse("executor_class", "This field may not be null.");
                return ExecutorClass::DEFAULT;
            }
            Some(_) => "",
        };
        word.parse().unwrap_or_else(|_foreign| {
            let word: String = word.chars().take(TEXT_CHARS_MAX).collect();
            self.refuse("executor_class", format!("\"{word}\" is not a valid choice."));
            ExecutorClass::DEFAULT
        })
    }

    fn boolean(&mut self, field: &str) -> bool {
        match self.get(field) {
            None => false,
            Some(Value::Bool(value)) => *value,
            Some(_) => {
                self.refuse(field, "Must be a valid boolean.");
                false
            }
        }
    }

    /// Reads a limit in seconds; negative ones are let through, the executor takes them as none.
    fn limit(&mut self, field: &str) -> i64 {
        let number = match self.get(field) {
            None => {
                self.refuse(field, "This field is required.");
                return 0;
            }
            Some(Value::Number(number)) => number.as_i64(),
            Some(_) => None,
        };
        match number {
            None => self.refuse(field, "A valid integer is required."),
            Some(number) if number > i64::from(i32::MAX) => {
                let problem = format!("Ensure this value is less than or equal to {}.", i32::MAX);
                self.refuse(field, problem);
            }
            Some(number) if number < i64::from(i32::MIN) => {
                let problem = format!("Ensure this value is greater than or equal to {}.", i32::MIN);
                self.refuse(field, problem);
            }
            Some(number) => return number,
        }
        0
    }

    fn args(&mut self) -> Vec<String> {
        let items = match self.get("args") {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                let kind = python_type(other);
                self.refuse(
                    "args",
                    format!("Expected a list of items but got type \"{kind}\"."),
                );
                return Vec::new();
            }
        };
        let mut problems = Map::new();
        let mut args = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::String(text) if text.is_empty() => {
                    problems.insert(index.to_string(), json!(["This field may not be blank."]));
                }
                Value::String(text) => args.push(text.clone()),
                _ => {
                    problems.insert(index.to_string(), json!(["Not a valid string."]));
                }
            }
        }
        if !problems.is_empty() {
            self.errors.add("args", problems);
        }
        args
    }

    fn env(&mut self) -> IndexMap<String, String> {
        let entries = match self.get("env") {
            None => return IndexMap::new(),
            Some(Value::Object(entries)) => entries,
            Some(other) => {
                let kind = python_type(other);
                self.refuse(
                    "env",
                    format!("Expected a dictionary of items but got type \"{kind}\"."),
                );
                return IndexMap::new();
            }
        };
        let mut problems = Map::new();
        let mut env = IndexMap::with_capacity(entries.len());
        for (key, value) in entries {
            match value {
                Value::String(text) => {
                    env.insert(key.clone(), text.clone());
                }
                _ => {
                    problems.insert(key.clone(), json!(["Not a valid string."]));
                }
            }
        }
        if !problems.is_empty() {
            self.errors.add("env", problems);
        }
        env
    }

    fn streaming_client(&mut self) -> Option<String> {
        match self.get("streaming_details") {
            None | Some(Value::Null) => None,
            Some(details) => {
                let key = details.get("public_key").and_then(Value::as_str);
                if key.is_none() {
                    self.refuse(
                        "streaming_details",
                        "public_key is required and must be a string.",
                    );
                }
                key.map(str::to_owned)
            }
        }
    }

    /// Reads a list of objects that `tag` tells apart.
    fn tagged<T: DeserializeOwned>(&mut self, field: &str, tag: &str, kinds: &[&str]) -> Vec<T> {
        let items = match self.get(field) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                let problem =
                    json!([{"type": "list_type", "loc": [], "msg": "Input should be a valid list"}]);
                self.errors.add(field, problem);
                return Vec::new();
            }
        };
        let mut problems = Vec::new();
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match read_tagged(item, tag, kinds) {
                Ok(value) => read.push(value),
                Err((kind, msg)) => {
                    problems.push(json!({"type": kind, "loc": [index.to_string()], "msg": msg}));
                }
            }
        }
        if !problems.is_empty() {
            self.errors.add(field, problems);
        }
        read
    }
}

fn read_tagged<T: DeserializeOwned>(
    item: &Value,
    tag: &str,
    kinds: &[&str],
) -> Result<T, (&'static str, String)> {
    let Value::Object(fields) = item else {
        let msg = "Input should be a valid dictionary or object to extract fields from";
        return Err(("model_attributes_type", msg.to_owned()));
    };
    match fields.get(tag).and_then(Value::as_str) {
        None => Err((
            "union_tag_not_found",
            format!("Unable to extract tag using discriminator '{tag}'"),
        )),
        Some(kind) if !kinds.contains(&kind) => {
            let kind: String = kind.chars().take(64).collect();
            let known = kinds.join("', '");
            Err((
                "union_tag_invalid",
                format!(
                    "Input tag '{kind}' found using '{tag}' does not match any of the expected tags: '{known}'"
                ),
            ))
        }
        Some(_) => T::deserialize(item).map_err(|error| ("value_error", error.to_string())),
    }
}

/// Returns what the reference's language calls a value's type.
fn python_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(change: impl FnOnce(&mut Map<String, Value>)) -> Map<String, Value> {
        let Value::Object(mut body) = json!({
            "target_validator_hotkey": "5x", "download_time_limit": 1, "execution_time_limit": 2,
            "streaming_start_time_limit": 3, "upload_time_limit": 4,
        }) else {
            unreachable!()
        };
        change(&mut body);
        body
    }

    fn refusal(change: impl FnOnce(&mut Map<String, Value>)) -> Value {
        serde_json::to_value(read(&body(change)).unwrap_err()).unwrap()
    }

    #[test]
    fn what_is_absent_has_the_defaults_of_the_reference() {
        let spec = read(&body(|_| {})).unwrap();
        assert_eq!(spec.executor_class, ExecutorClass::SpinUp4MinGpu24Gb);
        assert_eq!((spec.docker_image.as_str(), spec.tag.as_str()), ("", ""));
        assert!(spec.args.is_empty() && spec.env.is_empty() && !spec.use_gpu);
        assert_eq!(spec.job_namespace, None);
    }

    #[test]
    fn a_null_artifacts_dir_is_none() {
        let spec = read(&body(|body| {
            body.insert("artifacts_dir".to_owned(), Value::Null);
        }));
        assert_eq!(spec.unwrap().artifacts_dir, "");
    }

    #[test]
    fn every_bad_field_is_told_at_once() {
        let refused = refusal(|body| {
            body.remove("target_validator_hotkey");
            body["download_time_limit"] = json!("abc");
            body["upload_time_limit"] = json!(3_000_000_000_i64);
            body.insert("args".to_owned(), json!(["sh", "", 1]));
            body.insert("env".to_owned(), json!({"A": 1, "B": "b"}));
            body.insert("executor_class".to_owned(), json!("nope"));
            body.insert("use_gpu".to_owned(), json!("maybe"));
            body.insert("volumes".to_owned(), json!([{"volume_type": "multi_volume"}, 5]));
        });
        assert_eq!(
            refused,
            json!({
                "target_validator_hotkey": ["This field is required."],
                "executor_class": ["\"nope\" is not a valid choice."],
                "args": {"1": ["This field may not be blank."], "2": ["Not a valid string."]},
                "env": {"A": ["Not a valid string."]},
                "use_gpu": ["Must be a valid boolean."],
                "download_time_limit": ["A valid integer is required."],
                "upload_time_limit": ["Ensure this value is less than or equal to 2147483647."],
                "volumes": [
                    {"type": "union_tag_invalid", "loc": ["0"], "msg": "Input tag 'multi_volume' found using \
                        'volume_type' does not match any of the expected tags: 'inline', 'zip_url', \
                        'single_file', 'huggingface_volume'"},
                    {"type": "model_attributes_type", "loc": ["1"], "msg": "Input should be a valid dictionary \
                        or object to extract fields from"},
                ],
            })
        );
    }
}
