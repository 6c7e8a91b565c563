//! The door for validators, and which of them are in.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::{Answer, caller, json_response, text_of};
use crate::core::facilitator::Office;
use crate::core::facilitator::delivery::refuses_duplicates;
use crate::core::facilitator::driver::{Versions, converse};
use crate::core::net::extensions::Extensions;
use crate::core::net::ws::{self, Upgrade, UpgradeError};
use crate::core::proto::facilitator_validator::EXTENSIONS;
use crate::core::proto::sdk_facilitator::{ValidatorView, ValidatorsAnswer};

pub(super) async fn validators(State(office): State<Office>, headers: HeaderMap) -> Result<Response, Answer> {
    caller(&office, &headers)?;
    let ready = office.seats.all_ready(Instant::now());
    let validators = ready.into_iter().map(|hotkey| ValidatorView { hotkey }).collect();
    Ok(json_response(StatusCode::OK, &ValidatorsAnswer { validators }))
}

pub(super) async fn link(
    State(office): State<Office>,
    headers: HeaderMap,
    upgrade: Result<Upgrade, UpgradeError>,
) -> Result<Response, Answer> {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.agreeing(&Extensions::of(EXTENSIONS)),
        Err(error) => return Ok(error.into_response()),
    };
    let Ok(slot) = Arc::clone(&office.links).try_acquire_owned() else {
        return Err(Answer::detail(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many validators are connected.",
        ));
    };
    let version = |name: &str| text_of(&headers, name).map(|text| text.chars().take(64).collect());
    let versions = Versions {
        validator: version("x-validator-version"),
        runner: version("x-validator-runner-version"),
        refuses_duplicates: refuses_duplicates(&headers),
    };
    let tasks = office.tasks.clone();
    let limits = ws::Limits::towards_validator();
    Ok(ws::accept(upgrade, limits, &tasks, move |link| async move {
        converse(link, &office, &versions).await;
        drop(slot);
    }))
}
