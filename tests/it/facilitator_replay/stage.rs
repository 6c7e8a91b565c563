//! Where recorded exchanges are played: a facilitator, what stands here for what the reference made, and the validator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use horde::core::crypto::Keypair;
use horde::core::crypto::signed;
use horde::core::model::Hotkey;
use horde::core::net::ws::{self, ConnectOptions, Limits, Upgrade, UpgradeError};
use horde::core::net::{Event, Link, http};
use horde::core::tasks::Tasks;
use serde_json::{Value, json};

use super::HEADERS_LEFT_OUT;
use crate::facilitator::{Answer, World, heard, key, pushed, ws_vectors};

/// The development keys that the recording was made with.
const KEYS: [&str; 6] = ["//Alice", "//Bob", "//Charlie", "//Dave", "//Eve", "//Ferdie"];

/// Host and port of the recorded facilitator, which are part of URLs in its answers.
const RECORDED_HOST: &str = "127.0.0.1:19001";

pub(super) struct Stage {
    world: World,
    /// Ours in place of recorded ones.
    nonces: BTreeMap<String, String>,
    jobs: BTreeMap<String, String>,
    /// By who they are for and whether they are good.
    tokens: BTreeMap<(String, bool), String>,
    validator: Option<Link>,
    /// What happened on the validator's first connection, and how far it has been played.
    frames: Vec<Value>,
    next_frame: usize,
}

fn keypair(hotkey: &str) -> Keypair {
    KEYS.iter()
        .map(|uri| key(uri))
        .find(|keypair| keypair.hotkey().as_str() == hotkey)
        .unwrap_or_else(|| panic!("whose key is {hotkey}?"))
}

impl Stage {
    pub(super) async fn set_up() -> Self {
        let mut world = World::start_with(|config| config.users.push(key("//Dave").hotkey().clone())).await;
        let charlie = key("//Charlie").hotkey().to_string();
        let dave = key("//Dave").hotkey().to_string();
        let mut tokens = BTreeMap::new();
        tokens.insert((charlie.clone(), false), world.login("//Charlie").await);
        // Times have microseconds, as the recorded ones.
        world
            .clock
            .advance(world.config.jwt + Duration::from_micros(1_234_567));
        // Who had a token while it was on the list, and is no more.
        tokens.insert((dave, true), world.login("//Dave").await);
        world.config.users.pop();
        world.restart().await;
        tokens.insert((charlie, true), world.login("//Charlie").await);
        let frames = ws_vectors()["connections"][0]["frames"]
            .as_array()
            .unwrap()
            .clone();
        Self {
            world,
            nonces: BTreeMap::new(),
            jobs: BTreeMap::new(),
            tokens,
            validator: None,
            frames,
            next_frame: 0,
        }
    }

    /// Sends a recorded request, and what happens on the validator's side before and after it.
    pub(super) async fn play(&mut self, exchange: &Value, is_different: bool) -> Answer {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        let is_submission = request["method"] == "POST"
            && request["url_path"]
                .as_str()
                .unwrap()
                .starts_with("/api/v1/job-docker");
        if is_submission && response["status"] == 201 && self.validator.is_none() {
            self.validator = Some(self.world.validator().await);
        }
        self.report_until(request, response).await;
        let path = self.translated(request["url_path"].as_str().unwrap());
        let (headers, body) = self.translated_request(request);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let method = request["method"].as_str().unwrap();
        let answer = self.world.send(method, &path, &headers, body.as_deref()).await;
        if let (Some(recorded), Some(ours)) =
            (response["json"]["nonce"].as_str(), answer.body["nonce"].as_str())
        {
            self.nonces.insert(recorded.to_owned(), ours.to_owned());
        }
        if is_submission && answer.status == 201 {
            self.hear_push(exchange, &answer, is_different).await;
        }
        if path.starts_with("/api/v1/cheated-job") && answer.status == 201 {
            self.hear_cheat(&body.unwrap()).await;
        }
        answer
    }

    /// Plays the validator's reports up to what the recorded answer knows of.
    async fn report_until(&mut self, request: &Value, response: &Value) {
        let path = request["url_path"].as_str().unwrap();
        let Some(uuid) = path
            .strip_prefix("/api/v1/jobs/")
            .and_then(|rest| rest.split('/').next())
            .filter(|uuid| self.jobs.contains_key(*uuid))
        else {
            return;
        };
        let history = response["json"]["status_history"].as_array();
        let wanted: BTreeSet<String> = history
            .into_iter()
            .flatten()
            .map(|step| step["status"].as_str().unwrap().to_owned())
            .filter(|status| status != "sent")
            .collect();
        let mut told: BTreeSet<String> = self
            .frames
            .iter()
            .take(self.next_frame)
            .filter_map(|frame| status_of(frame, uuid))
            .collect();
        while let Some(frame) = self.frames.get(self.next_frame).cloned() {
            if history.is_some() && wanted.is_subset(&told) {
                return;
            }
            let text = frame["text"].as_str().unwrap_or_default();
            if text.contains("V2JobRequest") {
                assert!(history.is_none(), "{uuid}: {wanted:?} was never told");
                return;
            }
            self.next_frame += 1;
            if frame["dir"] == "validator->facilitator" && text.contains("V0JobStatusUpdate") {
                told.extend(status_of(&frame, uuid));
                let text = self.translated(text);
                let link = self.validator.as_mut().unwrap();
                link.send(text).await.unwrap();
                // Whether the answers are the recorded ones is the matter of another test.
                heard(link).await;
            }
        }
    }

    /// Hears the cheat report that the facilitator hands on, with what its user wrote.
    async fn hear_cheat(&mut self, body: &str) {
        let text = heard(self.validator.as_mut().unwrap()).await;
        let pushed: Value = serde_json::from_str(&text).unwrap();
        let written: Value = serde_json::from_str(body).unwrap();
        assert_eq!(pushed["message_type"], "V0JobCheated");
        for key in ["job_uuid", "trusted_job_uuid", "details"] {
            assert_eq!(pushed.get(key), written.get(key), "{key} of {text}");
        }
    }

    /// Hears the job that the facilitator pushes, which must be the recorded text but for its identity.
    async fn hear_push(&mut self, exchange: &Value, answer: &Answer, is_different: bool) {
        let label = exchange["label"].as_str().unwrap();
        let (text, request) = pushed(self.validator.as_mut().unwrap()).await;
        assert_eq!(answer.body["uuid"], request.uuid.as_str(), "{label}");
        if exchange["validator_would_verify_signature"] == true {
            request.verify().unwrap();
        }
        let Some(recorded) = exchange["response"]["json"]["uuid"].as_str() else {
            return;
        };
        self.jobs
            .insert(recorded.to_owned(), request.uuid.as_str().to_owned());
        let place = (self.next_frame..self.frames.len()).find(|index| {
            let text = self.frames[*index]["text"].as_str().unwrap_or_default();
            text.contains("V2JobRequest") && text.contains(recorded)
        });
        let push = self.frames[place.unwrap_or_else(|| panic!("{label}: no recorded push"))].clone();
        if !is_different {
            assert_eq!(
                text,
                self.translated(push["text"].as_str().unwrap()),
                "{label}: the push"
            );
        }
        self.next_frame = place.unwrap() + 1;
    }

    /// Puts our jobs in the place of recorded ones.
    fn translated(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (recorded, ours) in &self.jobs {
            text = text.replace(recorded, ours);
        }
        text
    }

    fn translated_request(&self, request: &Value) -> (Vec<(String, String)>, Option<String>) {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in request["headers"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            match name.as_str() {
                "content-length" => {}
                "authorization" => {
                    headers.insert(name.clone(), self.translated_token(value));
                }
                _ => {
                    headers.insert(name.clone(), value.to_owned());
                }
            }
        }
        assert_eq!(headers["host"], RECORDED_HOST);
        let recorded = request["body_text"].as_str();
        if request["url_path"] == "/auth/login" {
            return (
                headers.into_iter().collect(),
                recorded.map(|text| self.translated_login(text)),
            );
        }
        let body = recorded.map(|text| self.translated(text));
        if let (Some(recorded), Some(body)) = (recorded, &body)
            && recorded != body
        {
            sign_again(&mut headers, recorded, body);
        }
        (headers.into_iter().collect(), body)
    }

    /// Puts our token for the same user in place of a recorded one; what is no token stays.
    fn translated_token(&self, header: &str) -> String {
        let Some((scheme, token)) = header.split_once(' ') else {
            return header.to_owned();
        };
        let Some(payload) = token.split('.').nth(1) else {
            return header.to_owned();
        };
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        let subject = claims["sub"].as_str().unwrap().to_owned();
        let is_good = claims["exp"].as_i64().unwrap() > 1_000_000;
        let ours = &self.tokens[&(subject, is_good)];
        format!("{scheme} {}", ours.strip_prefix("Bearer ").unwrap())
    }

    /// Puts our nonce in place of a recorded one; what was signed rightly is signed again, all else stays.
    fn translated_login(&self, text: &str) -> String {
        let Ok(mut login) = serde_json::from_str::<Value>(text) else {
            return text.to_owned();
        };
        let Some(recorded) = login["nonce"].as_str().map(str::to_owned) else {
            return text.to_owned();
        };
        let Some(ours) = self.nonces.get(&recorded) else {
            return text.to_owned();
        };
        if let (Some(hotkey), Some(signature)) = (login["hotkey"].as_str(), login["signature"].as_str()) {
            let bare = signature.trim_start_matches("0x");
            if signed::verify_login(&Hotkey::new(hotkey), &recorded, bare).is_ok() {
                let prefix = signature.strip_suffix(bare).unwrap();
                let signature = keypair(hotkey).sign(ours.as_bytes()).to_hex();
                login["signature"] = json!(format!("{prefix}{signature}"));
            }
        }
        login["nonce"] = json!(ours);
        login.to_string()
    }

    /// Compares an answer with the recorded one; tells what is different.
    pub(super) fn compare(&self, exchange: &Value, answer: &Answer) -> Result<(), String> {
        let recorded = &exchange["response"];
        if answer.status != recorded["status"] {
            return Err(format!(
                "status {}, recorded {}",
                answer.status, recorded["status"]
            ));
        }
        for (name, value) in recorded["headers"].as_object().unwrap() {
            let is_left_out = HEADERS_LEFT_OUT.iter().any(|(left_out, _)| left_out == name);
            if !is_left_out && answer.header(name) != value.as_str() {
                return Err(format!(
                    "header {name}: {:?}, recorded {value}",
                    answer.header(name)
                ));
            }
        }
        let theirs = recorded.get("json").or_else(|| recorded.get("text")).unwrap();
        let ours = self.recorded_identities(&answer.body);
        if let Some(nonce) = theirs["nonce"].as_str() {
            return same(&shape(ours["nonce"].as_str().unwrap_or_default()), &shape(nonce));
        }
        if let Some(token) = theirs["token"].as_str() {
            return same(
                &claims(ours["token"].as_str().unwrap_or_default()),
                &claims(token),
            );
        }
        if theirs["results"].is_array() && theirs["results"][0].is_string() {
            return same(&abridged(&ours, &theirs["results"]), theirs);
        }
        same(&timeless(&ours), &timeless(theirs))?;
        // Clients may show an object as it comes.
        let order = |value: &Value| {
            value
                .as_object()
                .map(|fields| fields.keys().cloned().collect::<Vec<_>>())
        };
        same(&json!(order(&ours)), &json!(order(theirs)))
    }

    /// Puts the recorded jobs back in the place of ours.
    fn recorded_identities(&self, body: &Value) -> Value {
        let mut text = body.to_string();
        for (recorded, ours) in &self.jobs {
            text = text.replace(ours, recorded);
        }
        serde_json::from_str(&text).unwrap()
    }
}

fn status_of(frame: &Value, uuid: &str) -> Option<String> {
    let message: Value = serde_json::from_str(frame["text"].as_str()?).ok()?;
    let is_update = message["message_type"] == "V0JobStatusUpdate" && message["uuid"] == uuid;
    is_update.then(|| message["status"].as_str().unwrap().to_owned())
}

/// Signs a body again that had to be changed, if it was signed rightly.
fn sign_again(headers: &mut BTreeMap<String, String>, recorded: &str, body: &str) {
    let (Some(signatory), Some(signature), Some(time)) = (
        headers.get("x-ch-signatory"),
        headers.get("x-ch-signature"),
        headers.get("x-ch-timestamp-ns"),
    ) else {
        return;
    };
    let time: u64 = time.parse().unwrap();
    let signatory = Hotkey::new(signatory.as_str());
    // A report may be signed as a text, or as an object.
    let payloads: [fn(&Value) -> Vec<u8>; 2] = [signed::full_request_payload, |body| {
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        signed::report_payload(&field("job_uuid"), &field("trusted_job_uuid"), &body["details"])
    }];
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let form = payloads.into_iter().find(|payload| {
        signed::verify_request(&signatory, time, &payload(&read(recorded)), signature).is_ok()
    });
    if let Some(payload) = form {
        let again = signed::sign_request(&keypair(signatory.as_str()), time, &payload(&read(body)));
        headers.insert("x-ch-signature".to_owned(), again.to_base64());
    }
}

fn same(ours: &Value, theirs: &Value) -> Result<(), String> {
    if ours == theirs {
        Ok(())
    } else {
        Err(format!("{ours:#}\nrecorded {theirs:#}"))
    }
}

/// The lengths of a nonce's parts.
fn shape(nonce: &str) -> Value {
    json!(nonce.split(':').map(str::len).collect::<Vec<_>>())
}

/// A token's header, its user, and how long it is good for.
fn claims(token: &str) -> Value {
    let part = |number: usize| -> Value {
        let part = token.split('.').nth(number).unwrap_or_default();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).unwrap_or_default()
    };
    let (header, payload) = (part(0), part(1));
    let seconds = payload["exp"].as_i64().unwrap_or(0) - payload["iat"].as_i64().unwrap_or(0);
    json!([header["alg"], header["typ"], payload["sub"], seconds])
}

/// Shortens a list as the recording did: to the jobs' identities, or to their tags.
fn abridged(list: &Value, recorded: &Value) -> Value {
    let first = recorded[0].as_str().unwrap();
    let field = if first.len() == 36 { "uuid" } else { "tag" };
    let mut list = list.clone();
    let mut entries: Vec<_> = list["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job[field].as_str().unwrap().to_owned())
        .collect();
    // The order is no rule there.
    entries.sort_unstable();
    list["results"] = json!(entries);
    list
}

/// Takes what differs from run to run out of a job, where there is one.
fn timeless(body: &Value) -> Value {
    let mut body = body.clone();
    if body.get("status_history").is_none() {
        return body;
    }
    let is_time = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| text.ends_with('Z') && text.len() == 27)
    };
    for name in ["created_at", "last_update"] {
        body[name] = json!(is_time(&body[name]));
    }
    body["uuid"] = json!(body["uuid"].as_str().is_some_and(|uuid| uuid.len() == 36));
    for step in body["status_history"].as_array_mut().unwrap() {
        step["created_at"] = json!(is_time(&step["created_at"]));
    }
    body
}

/// Sends a client with these limits one message of so many bytes; returns how many it got, or how it closed.
pub(super) async fn frame(bytes: usize, limits: Limits) -> Result<usize, u16> {
    async fn send(
        State((tasks, bytes)): State<(Tasks, usize)>,
        upgrade: Result<Upgrade, UpgradeError>,
    ) -> Response {
        match upgrade {
            Ok(upgrade) => ws::accept(upgrade, Limits::default(), &tasks, move |mut link| async move {
                link.send("x".repeat(bytes)).await.unwrap();
                while !matches!(link.recv().await, Event::Closed { .. }) {}
            }),
            Err(error) => error.into_response(),
        }
    }
    let tasks = Tasks::new();
    let listener = http::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/", get(send))
        .with_state((tasks.clone(), bytes));
    let family = tasks.clone();
    tasks.spawn(
        "server",
        async move { http::serve(listener, router, &family).await },
    );
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::default()
    };
    let mut link = ws::connect(&url, &options, &tasks).await.unwrap();
    let outcome = match link.recv().await {
        Event::Text(text) => Ok(text.len()),
        Event::Closed { code, .. } => Err(code),
        Event::Binary(_) => panic!("a binary frame"),
    };
    link.close(1000, "").await;
    tasks.shut_down(Duration::from_secs(10)).await;
    outcome
}
