//! Recordings of the reference as scripts: who says what, in order.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::keys;

/// Somebody who talks with the miner; the number tells connections apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Peer {
    Validator(u32),
    Executor(u32),
}

/// One step of a script.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// A validator with this hotkey connects.
    Connect(Peer, String),
    /// The executor of a job connects; the token is the recorded one.
    Employ(Peer, String),
    /// A peer says something to the miner.
    Say(Peer, String),
    /// The miner says something to a peer.
    Hear(Peer, String),
    /// The miner ends the connection with this code.
    Closed(Peer, u16),
    /// The connection is still there: a question for the main hotkey is answered.
    Open(Peer),
    /// The miner says nothing for a while.
    Silence(Peer),
    /// A peer ends its connection.
    Leave(Peer),
}

impl Step {
    /// Tells whether something is said, heard or awaited on the connection of a peer.
    pub(super) fn is_talk_with(&self, other: Peer) -> bool {
        match self {
            Self::Say(peer, _)
            | Self::Hear(peer, _)
            | Self::Closed(peer, _)
            | Self::Open(peer)
            | Self::Silence(peer) => *peer == other,
            Self::Connect(..) | Self::Employ(..) | Self::Leave(_) => false,
        }
    }

    /// Returns the `message_type` of a frame that the miner sends.
    pub(super) fn heard(&self) -> Option<String> {
        let Self::Hear(_, text) = self else { return None };
        let message: Value = serde_json::from_str(text).ok()?;
        Some(message["message_type"].as_str()?.to_owned())
    }
}

/// A recording.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// Returns the transcripts of the reference's miner, in the order in which they were recorded on one miner.
pub(super) fn transcripts() -> Vec<Script> {
    let recorded: Value = serde_json::from_str(&golden("miner_live_transcripts.json")).unwrap();
    let scenarios = recorded["scenarios"].as_array().unwrap();
    scenarios.iter().map(transcript).collect()
}

fn transcript(scenario: &Value) -> Script {
    let mut stage = Numbers::default();
    let mut steps = Vec::new();
    for frame in scenario["frames"].as_array().unwrap() {
        let step = match (frame["dir"].as_str(), frame["text"].as_str()) {
            (Some(direction), Some(text)) => {
                let (from, to) = direction.split_once("->").unwrap();
                if to == "miner" {
                    Step::Say(stage.peer(from), text.to_owned())
                } else {
                    Step::Hear(stage.peer(to), text.to_owned())
                }
            }
            _ => stage.event(frame),
        };
        // Some ends were recorded by two observers.
        if !matches!(step, Step::Closed(..)) || steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    Script {
        name: scenario["scenario"].as_str().unwrap().to_owned(),
        steps,
    }
}

/// Numbers the connections of a transcript, which names them by role only. An executor that connects beside another
/// is the first of the two to leave again.
#[derive(Default)]
struct Numbers {
    validators: u32,
    executors: Vec<u32>,
    executors_made: u32,
}

impl Numbers {
    fn peer(&self, word: &str) -> Peer {
        match word {
            "validator" => Peer::Validator(self.validators),
            "validator2" => Peer::Validator(1000),
            "executor" => Peer::Executor(*self.executors.last().unwrap()),
            other => panic!("who is {other}?"),
        }
    }

    fn event(&mut self, frame: &Value) -> Step {
        let event = frame["event"].as_str().unwrap();
        let (word, what) = event.split_once([' ', ':']).unwrap();
        let what = what.trim_start();
        if let Some(path) = what.strip_prefix("connected to /v0.1/") {
            let (interface, name) = path.split_once('/').unwrap();
            if interface == "executor_interface" {
                self.executors_made += 1;
                self.executors.push(self.executors_made);
                return Step::Employ(self.peer(word), name.to_owned());
            }
            if word == "validator" {
                self.validators += 1;
            }
            return Step::Connect(self.peer(word), name.to_owned());
        }
        let peer = self.peer(word);
        match what {
            "closed" => {
                if word == "executor" {
                    self.executors.pop();
                }
                Step::Leave(peer)
            }
            "connection closed by miner" => {
                Step::Closed(peer, u16::try_from(frame["code"].as_u64().unwrap()).unwrap())
            }
            "nothing received for 1s" => Step::Silence(peer),
            other => panic!("what is {other}?"),
        }
    }
}

/// The miner's address in all traces.
pub(super) const ADDRESS: &str = "127.0.0.1";

/// One frame of a trace with its time.
struct Line {
    seconds: f64,
    validator: Peer,
    direction: String,
    message: Value,
}

/// Returns the sessions between validators and the reference's miner that were recorded in these files, played together
/// as they were then.
///
/// Their keys are not ours to sign with: the development keys stand in for them. Executors were not recorded; they are
/// made to say what the miner passed on.
pub(super) fn trace(names: &[&str]) -> Script {
    let mut lines: Vec<Line> = names
        .iter()
        .enumerate()
        .flat_map(|(number, name)| lines_of(name, u32::try_from(number).unwrap() * 100))
        .collect();
    lines.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let mut writer = TraceWriter::default();
    for line in lines {
        writer.write(line);
    }
    Script {
        name: names.join(" with "),
        steps: writer.end(),
    }
}

fn lines_of(name: &str, first: u32) -> Vec<Line> {
    let text = keys::stand_in(&golden(&format!("traces/miner-validator-{name}.jsonl")));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // The clocks of two files are told apart by what was signed first.
    let start = lines
        .iter()
        .find_map(|line| Some(line["msg"]["timestamp"].as_f64()? - line["ts"].as_f64()?))
        .unwrap();
    lines
        .into_iter()
        .filter(|line| !line["dir"].as_str().unwrap().starts_with("user->"))
        .map(|line| Line {
            seconds: start + line["ts"].as_f64().unwrap(),
            validator: Peer::Validator(first + u32::try_from(line["conn"].as_u64().unwrap_or(0)).unwrap()),
            direction: line["dir"].as_str().unwrap().to_owned(),
            message: line["msg"].clone(),
        })
        .collect()
}

#[derive(Default)]
struct TraceWriter {
    steps: Vec<Step>,
    connected: Vec<Peer>,
    /// What validators asked for and ordered, until the executor has heard it.
    requests: Vec<(Peer, Value)>,
    orders: Vec<(Peer, Value)>,
}

impl TraceWriter {
    fn write(&mut self, line: Line) {
        let Line {
            validator,
            direction,
            message,
            ..
        } = line;
        let executor = match validator {
            Peer::Validator(number) | Peer::Executor(number) => Peer::Executor(number),
        };
        if !self.connected.contains(&validator) {
            self.connected.push(validator);
            // What follows the handshake names the validator.
            let path = message["ws_connect"]
                .as_str()
                .and_then(|path| path.rsplit('/').next());
            let hotkey = message["validator_hotkey"].as_str().or(path).unwrap().to_owned();
            self.steps.push(Step::Connect(validator, hotkey));
        }
        if message.get("ws_connect").is_some() {
            return;
        }
        match direction.as_str() {
            "close" => {
                let code = u16::try_from(message["code"].as_u64().unwrap()).unwrap();
                self.steps.push(Step::Closed(validator, code));
            }
            "validator->miner" if message.get("ws_close").is_some() => {
                self.steps.push(Step::Leave(validator));
            }
            "validator->miner" => {
                match message["message_type"].as_str() {
                    Some("V0InitialJobRequest") => self.requests.push((validator, message.clone())),
                    Some("V0JobRequest") => self.orders.push((validator, message.clone())),
                    _ => {}
                }
                let text = message["_raw"]
                    .as_str()
                    .map_or_else(|| message.to_string(), str::to_owned);
                self.steps.push(Step::Say(validator, text));
            }
            "miner->validator" if message.get("ws_close").is_some() => {}
            "miner->validator" => {
                self.act(validator, executor, &message);
                self.steps.push(Step::Hear(validator, message.to_string()));
                if matches!(
                    message["message_type"].as_str(),
                    Some("V0JobFinishedRequest" | "V0JobFailedRequest")
                ) {
                    self.steps.push(Step::Leave(executor));
                }
            }
            other => panic!("what is {other}?"),
        }
    }

    /// Makes the executor say what the miner is about to pass on.
    fn act(&mut self, validator: Peer, executor: Peer, message: &Value) {
        let take = |list: &mut Vec<(Peer, Value)>| {
            let place = list.iter().position(|(peer, _)| *peer == validator)?;
            Some(list.remove(place).1)
        };
        match message["message_type"].as_str().unwrap() {
            "V0ExecutorReadyRequest" => {
                let mut request = take(&mut self.requests).unwrap();
                if request["streaming_details"].is_object() {
                    // The miner fills in its own.
                    request["streaming_details"]["executor_ip"] = ADDRESS.into();
                }
                let token = request["job_uuid"].as_str().unwrap().to_owned();
                self.steps.push(Step::Employ(executor, token));
                self.steps.push(Step::Hear(executor, request.to_string()));
            }
            "V0VolumesReadyRequest"
            | "V0ExecutionDoneRequest"
            | "V0StreamingJobReadyRequest"
            | "V0MachineSpecsRequest"
            | "V0JobFinishedRequest"
            | "V0JobFailedRequest" => {
                if let Some(order) = take(&mut self.orders) {
                    self.steps.push(Step::Hear(executor, order.to_string()));
                }
            }
            _ => return,
        }
        let mut said = message.clone();
        if said["message_type"] == "V0StreamingJobReadyRequest" {
            said["ip"] = json!(null);
            said["miner_signature"] = json!(null);
        }
        self.steps.push(Step::Say(executor, said.to_string()));
    }

    fn end(mut self) -> Vec<Step> {
        let ended: Vec<_> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Leave(peer) | Step::Closed(peer, _) => Some(*peer),
                _ => None,
            })
            .collect();
        let left = self.connected.iter().filter(|peer| !ended.contains(peer));
        self.steps.extend(left.copied().map(Step::Leave));
        self.steps
    }
}
