//! What a job ran short of, in words for the person who sent it: a bound that it met, a right that it lacked. Pure.
//!
//! What is known for certain (the kernel killed it for memory, it wrote too much) is said in the message. What its
//! error output only suggests is quoted beside the rights that it had, and claims nothing.

use serde_json::{Value, json};

use crate::core::docker::EngineError;
use crate::core::docker::limits::Preset;
use crate::core::docker::sandbox::Sandbox;
use crate::core::model::Profile;
use crate::core::proto::job::Context;

use super::usage::Excess;

/// How much of the error output's end is read for hints, in bytes.
const HINT_BYTES_MAX: usize = 64 * 1024;

/// How much of a line is quoted, in characters.
const QUOTED_CHARACTERS_MAX: usize = 200;

/// Words that a program says when it met a wall.
#[derive(Debug)]
struct Hint {
    /// The words, as libraries write them.
    words: &'static str,
    /// The wall's name.
    right: &'static str,
    /// What it is.
    explanation: &'static str,
    /// The profile under which the words mean that; none for all.
    profile: Option<Profile>,
}

const NO_NETWORK: &str = "jobs have no network: input comes with the volume, output goes with the upload";

/// All hints; the first whose words are found counts.
const HINTS: [Hint; 9] = [
    Hint {
        words: "Read-only file system",
        right: "write_root",
        explanation: "the folder that was written to cannot be written to",
        profile: None,
    },
    Hint {
        words: "Network is unreachable",
        right: "network",
        explanation: NO_NETWORK,
        profile: None,
    },
    Hint {
        words: "Temporary failure in name resolution",
        right: "network",
        explanation: NO_NETWORK,
        profile: None,
    },
    Hint {
        words: "Could not resolve host",
        right: "network",
        explanation: NO_NETWORK,
        profile: None,
    },
    Hint {
        words: "No space left on device",
        right: "space",
        explanation: "a folder in memory or /dev/shm is full (executor.memory_bytes, executor.shm_bytes), or the \
                      disk (executor.disk_bytes)",
        profile: None,
    },
    Hint {
        words: "Too many open files",
        right: "open_files",
        explanation: "a process may hold so many files open and no more (executor.nofile_max)",
        profile: None,
    },
    Hint {
        words: "Resource temporarily unavailable",
        right: "processes",
        explanation: "a job may have so many processes and threads at once and no more (executor.pids_max)",
        profile: None,
    },
    Hint {
        words: "Operation not permitted",
        right: "capability",
        explanation: "a capability was needed that jobs do not have, or a system call that is filtered",
        profile: None,
    },
    Hint {
        words: "Permission denied",
        right: "user",
        explanation: "a file of another user was needed",
        // Under the other one root may do that, and who is not root is so by the image's own choice.
        profile: Some(Profile::Strict),
    },
];

/// Words of an engine that refuses to start a container, what was missing, and what to do about it.
const REFUSALS: [(&str, &str, &str); 5] = [
    (
        "nvidia",
        "gpu",
        "the engine cannot give GPUs to containers: its operator installs the NVIDIA container toolkit and \
         configures the runtime `nvidia`",
    ),
    (
        "device driver",
        "gpu",
        "the engine cannot give GPUs to containers: its operator installs the NVIDIA container toolkit and \
         configures the runtime `nvidia`",
    ),
    (
        "rlimit",
        "open_files",
        "the engine may not give a job as many open files or as much locked memory: its operator lowers \
         executor.nofile_max or lets the engine have more",
    ),
    (
        "read-only file system",
        "write_root",
        "a folder had to be made in the image's own files, which this profile does not allow",
    ),
    (
        "permission denied",
        "execute",
        "the command is not executable for the user that the job runs as",
    ),
];

/// What is known of a job's end.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    /// Its exit code.
    pub(super) exit_code: i64,
    /// Whether the kernel killed a process of it for lack of memory.
    pub(super) is_out_of_memory: bool,
    /// How it went over what it may write.
    pub(super) excess: Option<Excess>,
    /// How many processes the kernel refused it.
    pub(super) refused_processes: u64,
    /// The text of its error output.
    pub(super) stderr: &'a str,
}

/// What a job ran short of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// What is known for certain, to follow the message of a failure; none when it is a hint only.
    pub certain: Option<String>,
    /// The facts, by name.
    pub context: Context,
}

impl Shortfall {
    /// Tells what a job that ended ran short of, if anything.
    pub(super) fn of(observed: &Observed<'_>, sandbox: &Sandbox) -> Option<Self> {
        if let Some(excess) = &observed.excess {
            return Some(over_disk(excess));
        }
        if observed.exit_code == 0 {
            return None;
        }
        if observed.is_out_of_memory {
            return Some(bound(
                "memory",
                sandbox.memory_bytes(),
                "executor.memory_bytes",
                format!(
                    "the job ran out of memory: its limit is {}, without swap",
                    size(sandbox.memory_bytes())
                ),
            ));
        }
        if observed.refused_processes > 0 {
            return Some(bound(
                "processes",
                sandbox.pids_max().into(),
                "executor.pids_max",
                format!(
                    "the job wanted more processes and threads than its limit of {}, {} times",
                    sandbox.pids_max(),
                    observed.refused_processes
                ),
            ));
        }
        hint(observed.stderr, sandbox)
    }

    /// Takes apart what is certain and the facts.
    pub(super) fn into_parts(self) -> (Option<String>, Context) {
        (self.certain, self.context)
    }

    /// Tells what a container lacked that the engine would not make or start, if that is known.
    pub(super) fn of_refusal(error: &EngineError, preset: Preset, sandbox: &Sandbox) -> Option<Self> {
        let (EngineError::Refused { message, .. } | EngineError::NotFound { message, .. }) = error else {
            return None;
        };
        let message = message.to_lowercase();
        let found = REFUSALS
            .iter()
            .filter(|(_, right, _)| *right != "gpu" || preset == Preset::NvidiaAll)
            .find(|(words, _, _)| message.contains(words));
        let (_, right, explanation) = found?;
        let mut context = rights(right, explanation, sandbox);
        if preset == Preset::NvidiaAll {
            context.insert("has_gpu_runtime".to_owned(), json!(sandbox.has_gpu_runtime()));
        }
        Some(Self {
            certain: None,
            context,
        })
    }
}

fn over_disk(excess: &Excess) -> Shortfall {
    match excess {
        Excess::Bytes { used, bound: limit } => bound(
            "disk",
            *limit,
            "executor.disk_bytes",
            format!(
                "the job used more disk than {}: {} when it was stopped",
                size(*limit),
                size(*used)
            ),
        ),
        Excess::Entries { max } => bound(
            "files",
            u64::try_from(*max).unwrap_or(u64::MAX),
            "none: it is fixed",
            format!("the job made more than {max} files"),
        ),
        Excess::Depth { max } => bound(
            "depth",
            u64::try_from(*max).unwrap_or(u64::MAX),
            "none: it is fixed",
            format!("the job nested folders deeper than {max}"),
        ),
        Excess::HostFull { free, .. } => bound(
            "room",
            *free,
            "none: the machine's disk is too small",
            format!("the machine's disk is nearly full: {} are left", size(*free)),
        ),
    }
}

fn bound(limit: &str, value: u64, setting: &str, words: String) -> Shortfall {
    let context = Context::from_iter([
        ("limit".to_owned(), json!(limit)),
        ("limit_value".to_owned(), json!(value)),
        ("setting".to_owned(), json!(setting)),
    ]);
    Shortfall {
        certain: Some(words),
        context,
    }
}

fn hint(stderr: &str, sandbox: &Sandbox) -> Option<Shortfall> {
    let start = stderr.len().saturating_sub(HINT_BYTES_MAX);
    let start = (start..=stderr.len()).find(|at| stderr.is_char_boundary(*at))?;
    let tail = stderr.get(start..)?;
    let holds = |hint: &&Hint| {
        hint.profile.is_none_or(|profile| profile == sandbox.profile()) && tail.contains(hint.words)
    };
    let hint = HINTS.iter().find(holds)?;
    let line = tail.lines().rfind(|line| line.contains(hint.words))?;
    let quoted: String = line.trim().chars().take(QUOTED_CHARACTERS_MAX).collect();
    let mut context = rights(hint.right, hint.explanation, sandbox);
    context.insert("evidence".to_owned(), Value::String(quoted));
    Some(Shortfall {
        certain: None,
        context,
    })
}

fn rights(right: &str, explanation: &str, sandbox: &Sandbox) -> Context {
    let profile = sandbox.profile();
    let explanation = format!(
        "{explanation}; under the profile {profile} a job has {}",
        sandbox.rights()
    );
    Context::from_iter([
        ("missing_right".to_owned(), json!(right)),
        ("profile".to_owned(), json!(profile.as_str())),
        ("explanation".to_owned(), Value::String(explanation)),
    ])
}

/// Writes a size as a person reads it, rounded down to a tenth of its unit.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        let whole = bytes >> shift;
        if whole > 0 {
            let tenths = ((bytes & ((1 << shift) - 1)) * 10) >> shift;
            return match tenths {
                0 => format!("{whole} {unit}"),
                tenths => format!("{whole}.{tenths} {unit}"),
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::docker::sandbox::tests::sandbox;

    fn observed(stderr: &str) -> Observed<'_> {
        Observed {
            exit_code: 1,
            is_out_of_memory: false,
            excess: None,
            refused_processes: 0,
            stderr,
        }
    }

    #[test]
    fn what_is_certain_is_said_and_named() {
        let sandbox = sandbox(Profile::Live);
        let cases = [
            (
                Observed {
                    exit_code: 137,
                    is_out_of_memory: true,
                    ..observed("")
                },
                "the job ran out of memory: its limit is 15.2 GiB, without swap",
                "memory",
            ),
            (
                Observed {
                    exit_code: 137,
                    excess: Some(Excess::Bytes {
                        used: 3 << 29,
                        bound: 1 << 30,
                    }),
                    ..observed("")
                },
                "the job used more disk than 1 GiB: 1.5 GiB when it was stopped",
                "disk",
            ),
            (
                Observed {
                    refused_processes: 7,
                    ..observed("sh: can't fork: Resource temporarily unavailable")
                },
                "the job wanted more processes and threads than its limit of 4096, 7 times",
                "processes",
            ),
        ];
        for (observed, words, limit) in cases {
            let shortfall = Shortfall::of(&observed, &sandbox).unwrap();
            assert_eq!(shortfall.certain.as_deref(), Some(words));
            assert_eq!(shortfall.context["limit"], limit);
        }
    }

    #[test]
    fn a_job_that_ends_well_ran_short_of_nothing_whatever_it_wrote() {
        let sandbox = sandbox(Profile::Strict);
        let fine = Observed {
            exit_code: 0,
            is_out_of_memory: true,
            refused_processes: 3,
            ..observed("Operation not permitted")
        };
        assert_eq!(Shortfall::of(&fine, &sandbox), None);
        assert_eq!(Shortfall::of(&observed("index out of range"), &sandbox), None);
    }

    #[test]
    fn a_hint_is_quoted_with_the_rights_that_the_job_had_and_claims_nothing() {
        let stderr = "one\nmkdir: can't create directory '/x': Read-only file system\nlast";
        let shortfall = Shortfall::of(&observed(stderr), &sandbox(Profile::Strict)).unwrap();
        assert_eq!(shortfall.certain, None);
        assert_eq!(shortfall.context["missing_right"], "write_root");
        assert_eq!(shortfall.context["profile"], "strict");
        assert_eq!(
            shortfall.context["evidence"],
            "mkdir: can't create directory '/x': Read-only file system"
        );
        let explanation = shortfall.context["explanation"].as_str().unwrap();
        assert!(explanation.contains("/home/job to write to"), "{explanation}");
        let denied = observed("cat: /secret/x: Permission denied");
        assert!(Shortfall::of(&denied, &sandbox(Profile::Strict)).is_some());
        assert_eq!(Shortfall::of(&denied, &sandbox(Profile::Live)), None);
    }

    #[test]
    fn only_the_end_of_a_long_output_is_read_and_characters_stay_whole() {
        let mut stderr = "Operation not permitted\n".to_owned();
        stderr.push_str(&"é".repeat(HINT_BYTES_MAX));
        assert_eq!(Shortfall::of(&observed(&stderr), &sandbox(Profile::Live)), None);
    }

    #[test]
    fn an_engines_refusal_is_explained_when_it_is_known() {
        let refusal = |message: &str, preset| {
            let error = EngineError::Refused {
                action: "start the container",
                status: 400,
                message: message.to_owned(),
            };
            Shortfall::of_refusal(&error, preset, &sandbox(Profile::Live))
                .map(|shortfall| shortfall.context["missing_right"].clone())
        };
        let runtime = "Unknown runtime specified nvidia";
        assert_eq!(refusal(runtime, Preset::NvidiaAll), Some(json!("gpu")));
        assert_eq!(refusal(runtime, Preset::None), None);
        let limit = "error setting rlimit type 7: operation not permitted";
        assert_eq!(refusal(limit, Preset::None), Some(json!("open_files")));
        let file = "exec: \"nope\": executable file not found in $PATH";
        assert_eq!(refusal(file, Preset::None), None);
    }

    #[test]
    fn sizes_read_as_people_say_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 10, "1 KiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
