//! The description of this API, as OpenAPI 3.1. It is written by hand and checked against the routes and, in the
//! integration tests, against real answers.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// Serves the document, to everybody.
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::routes;
    use super::*;

    const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_described_and_everything_described_is_a_route() {
        let served: BTreeSet<_> = routes()
            .into_iter()
            .flat_map(|route| {
                let path = route.path.to_owned();
                route
                    .methods
                    .into_iter()
                    .map(move |method| (path.clone(), method.to_owned()))
            })
            .collect();
        let document = document();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                if METHODS.contains(&method.as_str()) {
                    described.insert((path.clone(), method.clone()));
                }
            }
        }
        assert_eq!(served, described);
    }

    #[test]
    fn every_operation_has_a_name_and_its_refusals() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if !METHODS.contains(&method.as_str()) {
                    continue;
                }
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} is there twice");
                assert!(operation["summary"].is_string(), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
                assert_eq!(
                    responses.contains_key("401"),
                    !is_open || name == "login",
                    "{name}"
                );
                assert!(
                    responses.keys().any(|status| status.starts_with(['1', '2'])),
                    "{name}"
                );
                let has_body = operation.get("requestBody").is_some();
                assert_eq!(responses.contains_key("415"), has_body, "{name}");
                assert_eq!(
                    responses.contains_key("413"),
                    has_body || name == "listJobs",
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                        let pointer = target.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{target}");
                    }
                    fields.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        walk(&document, &document);
    }
}
