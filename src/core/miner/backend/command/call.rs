//! One call of the operator's program: a verb and a document in, a document out, and a bound on everything.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

/// The longest answer of the program, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How much of the end of its standard error is kept, in bytes.
const WORDS_BYTES_MAX: usize = 2 * 1024;

/// The size of the pieces in which its output is read, in bytes.
const CHUNK_BYTES: usize = 8 * 1024;

/// What the program is asked to do: its last argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Say how many executors of which class there are.
    Manifest,
    /// Start an executor.
    Start,
    /// Wait for the end of an executor.
    Wait,
    /// End an executor.
    Stop,
}

impl Verb {
    /// Returns the word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Start => "start",
            Self::Wait => "wait",
            Self::Stop => "stop",
        }
    }

    /// Returns how long the program may take. A wait that takes longer is begun anew, so that one which hangs (its
    /// connection to a machine far away is lost, say) does not hang for ever.
    pub const fn time(self) -> Duration {
        match self {
            Self::Manifest => Duration::from_secs(10),
            Self::Start => Duration::from_secs(60),
            Self::Wait => Duration::from_secs(3600),
            // The executor's own grace of 5 s, and what the program needs to be sure.
            Self::Stop => Duration::from_secs(15),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why the operator's program was of no use.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The setting names no program.
    #[error(
        "miner.command is not set: it names the program that starts executors, such as /opt/fleet/horde.sh"
    )]
    NotSet,
    /// It cannot be run.
    #[error("cannot run {}, which miner.command names", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not hand its output over.
    #[error("cannot talk to the program for `{verb}`")]
    Talk {
        /// What was asked.
        verb: Verb,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("the program took more than {seconds} s for `{verb}`{words}")]
    TimedOut {
        /// What was asked.
        verb: Verb,
        /// How long it might have taken.
        seconds: u64,
        /// The end of its standard error.
        words: Words,
    },
    /// It printed too much, and was killed.
    #[error("the program printed more than {ANSWER_BYTES_MAX} bytes for `{verb}`{words}")]
    TooLong {
        /// What was asked.
        verb: Verb,
        /// The end of its standard error.
        words: Words,
    },
    /// It said itself that it failed.
    #[error("the program ended `{verb}` with exit code {code}{words}")]
    Failed {
        /// What was asked.
        verb: Verb,
        /// Its exit code.
        code: i32,
        /// The end of its standard error.
        words: Words,
    },
    /// Somebody ended it.
    #[error("the program was ended by a signal during `{verb}`{words}")]
    Signalled {
        /// What was asked.
        verb: Verb,
        /// The end of its standard error.
        words: Words,
    },
    /// What it printed is not what was asked for.
    #[error("the program's answer to `{verb}` is not understood ({reason}){words}")]
    Answer {
        /// What was asked.
        verb: Verb,
        /// What is wrong with it.
        reason: String,
        /// The end of its standard error.
        words: Words,
    },
}

/// The end of what a program said on its standard error, fit for a line of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(String);

impl fmt::Display for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(formatter, ": {}", self.0)
    }
}

/// The operator's program.
#[derive(Debug)]
pub(super) struct Program {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What stands before the verb.
    pub(super) arguments: Vec<String>,
    /// Its whole environment.
    pub(super) variables: Vec<(String, String)>,
    /// How long it may take; [`Verb::time`] outside tests.
    pub(super) time: fn(Verb) -> Duration,
}

impl Program {
    /// Begins a call; it ends, with all processes that it began, when it is dropped early.
    pub(super) fn call(&self, verb: Verb, question: &impl Serialize) -> Result<Call, CommandError> {
        // One member per line: a shell script can read it.
        let question = serde_json::to_vec_pretty(question).map_err(|error| CommandError::Talk {
            verb,
            source: io::Error::other(error),
        })?;
        let mut child = Command::new(&self.path)
            .args(&self.arguments)
            .arg(verb.as_str())
            .env_clear()
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With its children, it is killed as one; and a Ctrl-C at the terminal is the miner's.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CommandError::Spawn {
                program: self.path.clone(),
                source,
            })?;
        Ok(Call {
            verb,
            time: (self.time)(verb),
            deadline: Instant::now() + (self.time)(verb),
            stdin: child.stdin.take(),
            question,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            answer: Vec::new(),
            words: Vec::new(),
            child,
            has_ended: false,
        })
    }

    /// Calls and returns the answer.
    pub(super) async fn ask<A: DeserializeOwned>(
        &self,
        verb: Verb,
        question: &impl Serialize,
    ) -> Result<A, CommandError> {
        self.call(verb, question)?.answer().await
    }

    /// Calls, and cares for nothing but that it went well.
    pub(super) async fn tell(&self, verb: Verb, question: &impl Serialize) -> Result<(), CommandError> {
        self.call(verb, question)?.end().await.map(drop)
    }
}

/// A call that goes on.
#[derive(Debug)]
pub(super) struct Call {
    verb: Verb,
    /// How long it may take.
    time: Duration,
    deadline: Instant,
    child: Child,
    /// Open until the question has been written.
    stdin: Option<ChildStdin>,
    /// What is still to be written.
    question: Vec<u8>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    answer: Vec<u8>,
    words: Vec<u8>,
    has_ended: bool,
}

impl Call {
    /// Waits for the end and returns the answer. Cancel-safe: may be asked again until it has returned once.
    pub(super) async fn answer<A: DeserializeOwned>(&mut self) -> Result<A, CommandError> {
        let answer = self.end().await?;
        serde_json::from_slice(&answer).map_err(|error| CommandError::Answer {
            verb: self.verb,
            reason: error.to_string(),
            words: self.words(),
        })
    }

    /// Waits for the end and returns what was printed. Cancel-safe.
    async fn end(&mut self) -> Result<Vec<u8>, CommandError> {
        let verb = self.verb;
        let Ok(status) = timeout_at(self.deadline, self.converse()).await else {
            self.kill();
            return Err(CommandError::TimedOut {
                verb,
                seconds: self.time.as_secs(),
                words: self.words(),
            });
        };
        let status = status?;
        self.has_ended = true;
        self.read_the_rest()
            .map_err(|source| CommandError::Talk { verb, source })?;
        self.check_length()?;
        let words = self.words();
        match status.code() {
            Some(0) => {
                if words != Words::default() {
                    tracing::debug!(%verb, words = words.0, "the program of miner.command said something");
                }
                Ok(std::mem::take(&mut self.answer))
            }
            Some(code) => Err(CommandError::Failed { verb, code, words }),
            None => Err(CommandError::Signalled { verb, words }),
        }
    }

    /// Writes the question, reads what is said, and returns how the program ended.
    async fn converse(&mut self) -> Result<ExitStatus, CommandError> {
        let verb = self.verb;
        let talk = |source| CommandError::Talk { verb, source };
        loop {
            let (mut heard, mut said) = (Vec::new(), Vec::new());
            tokio::select! {
                biased;
                status = self.child.wait() => return status.map_err(talk),
                written = write(&mut self.stdin, &self.question) => match written {
                    Ok(count) if count > 0 => drop(self.question.drain(..count)),
                    // Written, or a program that does not want to know.
                    Ok(_) | Err(_) => self.stdin = None,
                },
                count = read(&mut self.stdout, &mut heard) => match count.map_err(talk)? {
                    0 => self.stdout = None,
                    _ => self.answer.append(&mut heard),
                },
                count = read(&mut self.stderr, &mut said) => match count.map_err(talk)? {
                    0 => self.stderr = None,
                    _ => keep_the_end(&mut self.words, &said),
                },
            }
            self.check_length()?;
        }
    }

    /// Reads what a program that has ended left in the pipes. Not to their end: whoever it has started may hold them
    /// open for hours.
    fn read_the_rest(&mut self) -> io::Result<()> {
        if let Some(stdout) = self.stdout.take() {
            read_what_is_there(&stdout, |bytes| {
                self.answer.extend_from_slice(bytes);
                self.answer.len() <= ANSWER_BYTES_MAX
            })?;
        }
        if let Some(stderr) = self.stderr.take() {
            let mut left = ANSWER_BYTES_MAX;
            read_what_is_there(&stderr, |bytes| {
                keep_the_end(&mut self.words, bytes);
                left = left.saturating_sub(bytes.len());
                left > 0
            })?;
        }
        Ok(())
    }

    fn check_length(&mut self) -> Result<(), CommandError> {
        if self.answer.len() <= ANSWER_BYTES_MAX {
            return Ok(());
        }
        self.kill();
        Err(CommandError::TooLong {
            verb: self.verb,
            words: self.words(),
        })
    }

    fn words(&self) -> Words {
        let text = String::from_utf8_lossy(&self.words);
        let lines: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| line.escape_debug().to_string())
            .collect();
        Words(lines.join(" | "))
    }

    /// Kills the program and whoever of its children stayed with it.
    fn kill(&mut self) {
        if self.has_ended {
            return;
        }
        // The child leads its group, and is not reaped yet: the number is its own.
        let group = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(verb = %self.verb, %error, "cannot kill the program of miner.command");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) if !bytes.is_empty() => stdin.write(bytes).await,
        Some(_) => Ok(0),
        None => std::future::pending().await,
    }
}

/// Reads a piece; waits for ever when there is nothing to read from.
async fn read(stream: &mut Option<impl AsyncReadExt + Unpin>, piece: &mut Vec<u8>) -> io::Result<usize> {
    match stream {
        Some(stream) => {
            piece.reserve_exact(CHUNK_BYTES);
            stream.read_buf(piece).await
        }
        None => std::future::pending().await,
    }
}

/// Reads from a pipe that does not block, until it is empty or `take` has enough.
fn read_what_is_there(pipe: &impl AsFd, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut piece = [0; CHUNK_BYTES];
    loop {
        match rustix::io::read(pipe, &mut piece) {
            Ok(0) | Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            Ok(count) => {
                if !take(piece.get(..count).unwrap_or_default()) {
                    return Ok(());
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn keep_the_end(words: &mut Vec<u8>, more: &[u8]) {
    words.extend_from_slice(more);
    let excess = words.len().saturating_sub(WORDS_BYTES_MAX);
    words.drain(..excess);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns a program of the shell; `$1` is the verb.
    fn program(script: &str) -> Program {
        Program {
            path: PathBuf::from("/bin/sh"),
            arguments: ["-c", script, "sh"].map(str::to_owned).to_vec(),
            variables: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            time: Verb::time,
        }
    }

    #[tokio::test]
    async fn a_program_gets_the_verb_and_the_question_and_its_answer_comes_back() {
        let program = program(r#"read line; printf '{"verb": "%s", "asked": %s}' "$1" "$line$(cat)""#);
        let question = json!({"token": "t"});
        let answer: Value = program.ask(Verb::Start, &question).await.unwrap();
        assert_eq!(answer, json!({"verb": "start", "asked": question}));
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_does_not_hold_up_its_answer_and_lives_on() {
        let program = program(r#"sleep 60 & printf '{"pid": %d}' $!"#);
        let answer: Value = program.ask(Verb::Start, &json!({})).await.unwrap();
        let pid = Pid::from_raw(i32::try_from(answer["pid"].as_i64().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_told_with_the_exit_code_and_the_end_of_the_standard_error() {
        let program = program("echo first >&2; printf 'no \\033machine\\n' >&2; exit 4");
        let error = program.ask::<Value>(Verb::Start, &json!({})).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, CommandError::Failed { code: 4, .. }), "{text}");
        let wanted = "the program ended `start` with exit code 4: first | no \\u{1b}machine";
        assert_eq!(text, wanted);
    }

    #[tokio::test]
    async fn a_flood_ends_the_program_and_a_flood_of_words_is_cut() {
        let error = program("yes").tell(Verb::Manifest, &json!({})).await.unwrap_err();
        assert!(matches!(error, CommandError::TooLong { .. }), "{error}");
        let chatty = program("yes wordy | head -c 3000000 >&2; exit 1");
        let error = chatty.tell(Verb::Manifest, &json!({})).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, CommandError::Failed { code: 1, .. }), "{text}");
        assert!(text.len() < 2 * WORDS_BYTES_MAX, "{}", text.len());
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_when_its_time_is_over() {
        let slow = Program {
            time: |_| Duration::from_secs(1),
            ..program("echo thinking >&2; sleep 600")
        };
        let error = slow.tell(Verb::Start, &json!({})).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program took more than 1 s for `start`: thinking"
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_is_said_to_be_none() {
        let told = async |script: &str| {
            let error = program(script).ask::<Value>(Verb::Wait, &json!({})).await;
            error.unwrap_err()
        };
        let error = told("echo ready").await;
        assert!(matches!(error, CommandError::Answer { .. }), "{error}");
        let error = told("true").await;
        assert!(matches!(error, CommandError::Answer { .. }), "{error}");
        let error = told("kill -9 $$").await;
        assert!(matches!(error, CommandError::Signalled { .. }), "{error}");
        let missing = Program {
            path: PathBuf::from("/no/such/program"),
            ..program("")
        };
        let error = missing.tell(Verb::Manifest, &json!({})).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_reads_nothing_gets_a_long_question_all_the_same() {
        let question = json!({"long": "x".repeat(1_000_000)});
        program("exit 0").tell(Verb::Stop, &question).await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_takes_its_children_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!(
            "sleep 60 & echo $! > {0}.new; mv {0}.new {0}; wait",
            file.display()
        );
        let mut call = program(&script).call(Verb::Wait, &json!({})).unwrap();
        let pid = loop {
            let look = tokio::time::timeout(Duration::from_millis(20), call.end()).await;
            assert!(look.is_err(), "it waits: {look:?}");
            if let Ok(text) = std::fs::read_to_string(&file) {
                break text.trim().to_owned();
            }
        };
        drop(call);
        let is_gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text) => text.contains(") Z "),
            Err(_) => true,
        };
        while !is_gone() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
