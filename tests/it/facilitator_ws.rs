//! Every recorded frame between a validator and the reference's facilitator, replayed against ours.
//!
//! The recorded HTTP calls are made where the recording shows what they caused, and what ours says is compared frame by
//! frame. What is different on purpose stands in [`DIFFERENCES`]; an entry that does not apply any more fails.

use std::collections::BTreeMap;
use std::time::Duration;

use horde::core::crypto::signed;
use horde::core::net::{Event, Link};
use serde_json::Value;
use tokio::time::timeout;

use crate::facilitator::{Answer, World, http_vectors, key, ws_vectors};

/// The connection that most of the recording is about.
const MAIN: &str = "unauthenticated, then malformed, then success";
const SECOND: &str = "second connection, receives cheated reports";

/// How long nothing must come for it to count as nothing; the recording waited as long.
const SILENCE: Duration = Duration::from_secs(1);

const WORDS: &str = "the words of our own parser; type and place are the same";
const ENDS_ONCE: &str = "a job ends once";
const ONE_LINK: &str = "a validator has one link; it has had the report on the other";

const SPACES: &str = "spaces that were signed are kept, else the signature is wrong";
const NO_METADATA: &str = "an end without details is stored, not stumbled over";
const NO_CRASH: &str = "what cannot be decoded is refused in words";
const UNDECODABLE: &str = "auth.signature_invalid, closed 3000";

/// What is different: the connection, the number of the frame in it, what ours says there, and why.
const DIFFERENCES: &[(&str, usize, &str, &str)] = &[
    (MAIN, 3, "json_invalid", WORDS),
    (MAIN, 5, "union_tag_invalid", WORDS),
    (MAIN, 7, "missing", WORDS),
    (MAIN, 17, "V2JobRequest", SPACES),
    (MAIN, 19, "V2JobRequest", SPACES),
    (MAIN, 56, "job.integrity_error", ENDS_ONCE),
    (
        MAIN,
        68,
        "V0JobCheated",
        "the key `details` is there, null; without it no validator can read it",
    ),
    (
        MAIN,
        69,
        "HTTP 400",
        "a report without a signature could not count",
    ),
    (
        MAIN,
        72,
        "job.unknown_status",
        "a job with a status that nobody knows could not be shown",
    ),
    (MAIN, 75, "success, nothing", NO_METADATA),
    (MAIN, 76, "nothing", NO_METADATA),
    ("undecodable signature", 1, UNDECODABLE, NO_CRASH),
    ("undecodable public key", 1, UNDECODABLE, NO_CRASH),
    (SECOND, 2, "nothing", ONE_LINK),
    (SECOND, 3, "nothing", ONE_LINK),
];

/// Our side of one recorded connection.
struct Replay<'a> {
    world: &'a World,
    token: &'a str,
    http: &'a Value,
    link: Link,
    is_main: bool,
    /// Ours, by recorded job.
    jobs: BTreeMap<String, String>,
}

impl Replay<'_> {
    /// Returns a recorded text with our jobs in it.
    fn ours(&self, text: &str) -> String {
        let replaced = |text: String, (theirs, ours): (&String, &String)| text.replace(theirs, ours);
        self.jobs.iter().fold(text.to_owned(), replaced)
    }

    /// Returns the next frame, or how the link closed; none if nothing comes.
    async fn hears(&mut self) -> Option<Result<String, u16>> {
        match timeout(SILENCE * 10, self.link.recv()).await.ok()? {
            Event::Text(text) => Some(Ok(text)),
            Event::Closed { code, .. } => Some(Err(code)),
            Event::Binary(_) => panic!("binary frame"),
        }
    }

    /// Makes the recorded call that a pushed job came from.
    async fn submit(&mut self, theirs: &str) {
        let all = self.http["exchanges"].as_array().unwrap().iter();
        let mut found = all.filter(|exchange| {
            exchange["request"]["method"] == "POST"
                && exchange["response"]["status"] == 201
                && exchange["response"]["json"]["uuid"] == theirs
        });
        let exchange = found
            .next()
            .unwrap_or_else(|| panic!("no call brought job {theirs}"));
        let answer = self.world.replay(&exchange["request"], self.token).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let ours = answer.body["uuid"].as_str().unwrap().to_owned();
        self.jobs.insert(theirs.to_owned(), ours);
    }

    /// Makes the recorded call that a report came from; signed again, since it is about our jobs.
    async fn report(&self, frame: &Value) -> Answer {
        let all = self.http["exchanges"].as_array().unwrap().iter();
        let mut found = all.filter(|exchange| {
            let body = exchange["request"]["body_text"].as_str().unwrap_or_default();
            exchange["request"]["url_path"] == "/api/v1/cheated-job/"
                && exchange["response"]["status"] == 201
                && body.contains(frame["job_uuid"].as_str().unwrap())
        });
        let mut request = found.next().unwrap()["request"].clone();
        let body = self.ours(request["body_text"].as_str().unwrap());
        if let Some(stamp) = request["headers"]["x-ch-timestamp-ns"].as_str() {
            let payload = signed::full_request_payload(&serde_json::from_str(&body).unwrap());
            let signature = signed::sign_request(&key("//Charlie"), stamp.parse().unwrap(), &payload);
            request["headers"]["x-ch-signature"] = signature.to_base64().into();
        }
        request["body_text"] = body.into();
        self.world.replay(&request, self.token).await
    }

    /// Replays one frame; returns what ours says, and whether it is as recorded.
    async fn frame(&mut self, frame: &Value) -> Option<(String, bool)> {
        let Some(text) = frame["text"].as_str() else {
            return Some(self.event(frame).await);
        };
        if frame["dir"] == "validator->facilitator" {
            self.link.send(self.ours(text)).await.unwrap();
            return None;
        }
        let recorded: Value = serde_json::from_str(text).unwrap();
        match recorded["message_type"].as_str() {
            Some("V2JobRequest") => self.submit(recorded["uuid"].as_str().unwrap()).await,
            Some("V0JobCheated") if !self.is_main => return Some((self.silence().await, false)),
            Some("V0JobCheated") => {
                let answer = self.report(&recorded).await;
                if answer.status != 201 {
                    return Some((format!("HTTP {}", answer.status), false));
                }
            }
            _ => {}
        }
        let Some(Ok(heard)) = self.hears().await else {
            panic!("nothing instead of {text}")
        };
        let ours: Value = serde_json::from_str(&heard).unwrap();
        if let Some(word) = recorded["errors"][0]["url"].as_str() {
            // What the reference's parser says has an address in its manual.
            assert!(
                word.ends_with(ours["errors"][0]["type"].as_str().unwrap()),
                "{ours}"
            );
            assert_eq!(ours["errors"][0]["loc"], recorded["errors"][0]["loc"]);
        }
        let is_same = if recorded["message_type"] == "V0JobCheated" {
            // Only the random part of the signature may differ.
            let mut expected: Value = serde_json::from_str(&self.ours(text)).unwrap();
            expected["signature"]["signature"] = ours["signature"]["signature"].clone();
            heard == horde::core::crypto::canonical::spaced(&expected)
        } else {
            heard == self.ours(text)
        };
        Some((summary(&ours), is_same))
    }

    async fn event(&mut self, frame: &Value) -> (String, bool) {
        if frame["event"] == "nothing received for 1s" {
            let heard = self.silence().await;
            let is_same = heard == "nothing";
            return (heard, is_same);
        }
        assert_eq!(frame["event"], "closed");
        let recorded = format!("closed {}", frame["code"]);
        let mut heard = Vec::new();
        loop {
            match timeout(SILENCE, self.link.recv()).await {
                Ok(Event::Text(text)) => heard.push(summary(&serde_json::from_str(&text).unwrap())),
                Ok(Event::Closed { code, .. }) => {
                    heard.push(format!("closed {code}"));
                    break;
                }
                Ok(Event::Binary(_)) => panic!("binary frame"),
                Err(_) => {
                    heard.push("nothing".to_owned());
                    break;
                }
            }
        }
        let heard = heard.join(", ");
        let is_same = heard == recorded;
        (heard, is_same)
    }

    async fn silence(&mut self) -> String {
        match timeout(SILENCE, self.link.recv()).await {
            Err(_) => "nothing".to_owned(),
            Ok(event) => format!("{event:?}"),
        }
    }
}

/// Returns a frame of ours in a word: the error of an answer, the type of a push.
fn summary(frame: &Value) -> String {
    let word = match frame["status"].as_str() {
        Some("error") => &frame["errors"][0]["type"],
        Some(_) => &frame["status"],
        None => &frame["message_type"],
    };
    word.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_recorded_frame_is_answered_as_recorded_or_as_the_table_says() {
    let world = World::start().await;
    let token = world.login("//Charlie").await;
    let (http, vectors) = (http_vectors(), ws_vectors());
    let connections = vectors["connections"].as_array().unwrap();
    let mut found = Vec::new();
    let mut frames = 0;
    for connection in connections {
        let name = connection["connection"].as_str().unwrap();
        let mut replay = Replay {
            world: &world,
            token: &token,
            http: &http,
            link: world.link().await,
            is_main: name == MAIN,
            jobs: BTreeMap::new(),
        };
        for (number, frame) in connection["frames"].as_array().unwrap().iter().enumerate() {
            frames += 1;
            if let Some((ours, false)) = replay.frame(frame).await {
                found.push((name, number, ours));
            }
        }
    }
    assert!(
        connections.len() >= 6 && frames > 80,
        "{frames} frames are not the whole recording"
    );
    let expected: Vec<_> = DIFFERENCES
        .iter()
        .map(|(name, number, ours, _)| (*name, *number, (*ours).to_owned()))
        .collect();
    assert_eq!(found, expected);
}
