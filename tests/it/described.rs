//! Every answer that a test gets from the facilitator is held against `openapi.json`: its status must be listed for the
//! operation, and its body must fit the schema.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Value, json};

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        serde_json::from_str(include_str!("../../src/core/facilitator/api/openapi.json")).unwrap()
    })
}

/// What has been checked so far in this process: operation and status.
static CHECKED: Mutex<Vec<(String, u16)>> = Mutex::new(Vec::new());

/// Returns the described path that a request's path is one of.
fn described_path(path: &str) -> Option<&'static str> {
    let bare = path.split('?').next().unwrap().trim_end_matches('/');
    let parts: Vec<_> = bare.split('/').collect();
    let paths = document()["paths"].as_object().unwrap().keys();
    let fits = |described: &str| {
        let described: Vec<_> = described.trim_end_matches('/').split('/').collect();
        described.len() == parts.len()
            && described.iter().zip(&parts).all(|(described, part)| {
                described == part || (described.starts_with('{') && !part.is_empty())
            })
    };
    paths.map(String::as_str).find(|path| fits(path))
}

fn resolved(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(target) => document().pointer(target.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// Holds an answer against the description.
pub(crate) fn check(
    method: &str,
    path: &str,
    status: u16,
    headers: &reqwest::header::HeaderMap,
    body: &Value,
) {
    let Some(described) = described_path(path) else {
        assert_eq!(status, 404, "{method} {path} is not described");
        return;
    };
    let Some(operation) = document()["paths"][described].get(method.to_ascii_lowercase()) else {
        assert_eq!(status, 405, "{method} {path} is not described");
        return;
    };
    let name = operation["operationId"].as_str().unwrap();
    let response = operation["responses"]
        .get(status.to_string())
        .unwrap_or_else(|| panic!("{name}: the status {status} is not described: {body}"));
    let response = resolved(response);
    for header in response["headers"]
        .as_object()
        .into_iter()
        .flat_map(|headers| headers.keys())
    {
        assert!(
            headers.contains_key(header.as_str()),
            "{name}: {status} without {header}"
        );
    }
    if let Some(content) = response.get("content") {
        assert_eq!(headers["content-type"], "application/json", "{name}: {status}");
        let schema = &content["application/json"]["schema"];
        let errors = complaints(schema, body);
        assert!(errors.is_empty(), "{name}: {status}: {errors:?}\n{body:#}");
    }
    CHECKED.lock().unwrap().push((name.to_owned(), status));
}

fn complaints(schema: &'static Value, body: &Value) -> Vec<String> {
    static VALIDATORS: OnceLock<Mutex<HashMap<String, Validator>>> = OnceLock::new();
    let mut validators = VALIDATORS.get_or_init(Mutex::default).lock().unwrap();
    let validator = validators.entry(schema.to_string()).or_insert_with(|| {
        // References lead to the document's components.
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": document()["components"],
            "allOf": [schema],
        });
        jsonschema::validator_for(&whole).unwrap()
    });
    validator
        .iter_errors(body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn answers_that_do_not_fit_are_noticed() {
    let schema = &document()["components"]["schemas"]["JobPage"];
    let page = json!({"count": 0, "next": null, "previous": null, "results": []});
    assert_eq!(complaints(schema, &page), Vec::<String>::new());
    let mut wrong = page.clone();
    wrong["results"] = json!([{"uuid": 1}]);
    assert!(!complaints(schema, &wrong).is_empty());
    let mut more = page;
    more["surprise"] = json!(1);
    assert!(!complaints(schema, &more).is_empty());
    assert_eq!(
        described_path("/api/v1/jobs/x/feedback?a=b"),
        Some("/api/v1/jobs/{uuid}/feedback/")
    );
    assert_eq!(described_path("/api/v1/nothing/"), None);
}

/// Says which operations and statuses were seen; for a test that goes through all of them.
pub(crate) fn seen() -> Vec<(String, u16)> {
    CHECKED.lock().unwrap().clone()
}
