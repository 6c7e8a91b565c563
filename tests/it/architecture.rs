//! The walls of the house: which room of `core` may see which, and where the heavy crates live.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What every role may see.
const BASE: &[&str] = &["model", "causes", "clock", "tasks", "telemetry", "config"];

/// Each room with the rooms that it may see; the roles see [`BASE`] besides. Roles never see each other: they meet on
/// the wires.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("money", &["model"]),
    ("causes", &[]),
    ("clock", &[]),
    ("tasks", &["causes"]),
    ("telemetry", &["model", "clock"]),
    ("config", &["model", "money"]),
    ("crypto", &["model"]),
    ("proto", &["model", "crypto"]),
    ("net", &["causes", "tasks", "clock"]),
    ("store", &["model", "clock", "money"]),
    ("chain", &["model", "crypto", "clock", "tasks", "store"]),
    ("docker", &["model"]),
    ("host", &["docker"]),
    ("doctor", &["model", "store", "host"]),
    ("transfer", &["model", "net", "clock"]),
    ("dynamic", &["model", "clock", "store", "net"]),
    ("receipts", &["model", "crypto", "proto", "store", "net"]),
    ("s3", &["net"]),
    (
        "client",
        &["model", "proto", "crypto", "net", "clock", "transfer", "s3"],
    ),
    (
        "devnet",
        &[
            "model", "clock", "tasks", "config", "crypto", "proto", "net", "chain", "client",
        ],
    ),
    (
        "facilitator",
        &["proto", "crypto", "net", "store", "chain", "money"],
    ),
    (
        "validator",
        &["proto", "crypto", "net", "store", "chain", "receipts"],
    ),
    (
        "miner",
        &[
            "proto", "crypto", "net", "store", "chain", "docker", "doctor", "host", "dynamic", "receipts",
        ],
    ),
    (
        "executor",
        &["proto", "crypto", "net", "docker", "transfer", "host"],
    ),
];

/// The rooms of core that the dashboard may see: what it shows are databases, and the logs that roles keep.
const SEEN_BY_TUI: &[&str] = &["model", "money", "store", "config", "clock", "telemetry"];

const ROLES: &[&str] = &["facilitator", "validator", "miner", "executor"];

/// Crates that only these places may name: a room, or `cmd`.
const HEAVY: &[(&str, &[&str])] = &[
    ("clap", &["cmd"]),
    ("clap_complete", &["cmd"]),
    ("clap_mangen", &["cmd"]),
    ("csv", &["cmd"]),
    ("sd_notify", &["cmd"]),
    ("ratatui", &["tui"]),
    ("crossterm", &["tui"]),
    ("regex", &["tui", "cmd"]),
    ("dialoguer", &["cmd"]),
    ("indicatif", &["cmd"]),
    ("bollard", &["docker"]),
    ("rusqlite", &["store"]),
    ("tokio_tungstenite", &["net"]),
    ("schnorrkel", &["crypto"]),
    ("argon2", &["crypto"]),
    ("crypto_secretbox", &["crypto"]),
    ("bip39", &["crypto"]),
    ("axum", &["net", "facilitator", "miner", "devnet", "executor"]),
    ("reqwest", &["net", "transfer", "client", "s3"]),
    ("aws_config", &["s3"]),
    ("aws_sdk_s3", &["s3"]),
    ("aws_smithy_runtime_api", &["s3"]),
    ("aws_smithy_types", &["s3"]),
    ("jsonwebtoken", &["facilitator"]),
    ("zip", &["transfer", "client", "devnet", "executor"]),
    ("toml", &["config", "host", "client", "tui"]),
    ("serde_saphyr", &["config"]),
    ("nvml_wrapper", &["host"]),
    ("sysinfo", &["host"]),
    ("rcgen", &["executor", "client"]),
    ("flate2", &["miner"]),
    ("prometheus_client", &["telemetry"]),
];

/// One source file without its unit tests and comments.
struct Source {
    path: PathBuf,
    /// The room, or `cmd`, or empty for the top of the crate.
    room: String,
    /// How many `super` lead from this file's module to `core`.
    depth: usize,
    first_line: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(source(&root, &path));
            }
        }
    }
    assert!(sources.len() > 20, "the sources are not where they were");
    sources
}

fn source(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let inner = path.strip_prefix(root).unwrap().with_extension("");
    let mut module: Vec<&str> = inner.iter().map(|part| part.to_str().unwrap()).collect();
    let is_test = module.contains(&"tests");
    if module.last() == Some(&"mod") {
        module.pop();
    }
    let (room, depth) = match module.as_slice() {
        ["core", room, rest @ ..] => ((*room).to_owned(), rest.len() + 1),
        ["cmd", ..] => ("cmd".to_owned(), 0),
        ["tui", ..] => ("tui".to_owned(), 0),
        _ => (String::new(), 0),
    };
    let code = if is_test { "" } else { before_tests(&text) };
    let code: Vec<&str> = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    Source {
        path: path.strip_prefix(root).unwrap().to_owned(),
        room,
        depth,
        first_line: text.lines().next().unwrap_or_default().to_owned(),
        code: code.join("\n"),
    }
}

fn before_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {")
        .map_or(text, |at| text.split_at(at).0)
}

/// Returns the first names of all paths that follow `prefix`, grouped imports included.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if is_inside_a_path(code, at) {
            continue;
        }
        let rest = code.split_at(at + prefix.len()).1;
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(first_name(rest));
            continue;
        };
        let mut level = 1;
        let mut start = true;
        for (index, character) in group.char_indices() {
            match character {
                '{' => level += 1,
                '}' => level -= 1,
                ',' => start = level == 1,
                c if start && !c.is_whitespace() => {
                    names.insert(first_name(group.split_at(index).1));
                    start = false;
                }
                _ => {}
            }
            if level == 0 {
                break;
            }
        }
    }
    names
}

fn first_name(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Returns the rooms that a file of `core` names, by `crate::core::` or by climbing with `super`.
fn rooms_named(source: &Source) -> BTreeSet<String> {
    let mut rooms = names_after(&source.code, "crate::core::");
    let climbed = names_after(&source.code, &"super::".repeat(source.depth));
    // An inline module climbs no further than its own file, so only names of rooms count.
    rooms.extend(
        climbed
            .into_iter()
            .filter(|name| ROOMS.iter().any(|(room, _)| room == name)),
    );
    rooms.remove(&source.room);
    rooms
}

#[test]
fn every_room_sees_only_the_rooms_of_its_row() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.depth > 0) {
        let Some((_, row)) = ROOMS.iter().find(|(room, _)| *room == source.room) else {
            wrong.push(format!(
                "{}: the room {} is not in the table",
                source.path.display(),
                source.room
            ));
            continue;
        };
        let is_role = ROLES.contains(&source.room.as_str());
        for room in rooms_named(source) {
            let seen = row.contains(&room.as_str()) || (is_role && BASE.contains(&room.as_str()));
            if !seen {
                wrong.push(format!(
                    "{}: {} may not see {room}",
                    source.path.display(),
                    source.room
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn core_knows_nothing_of_the_command_line() {
    for source in sources().iter().filter(|source| source.depth > 0) {
        assert!(!source.code.contains("crate::cmd"), "{}", source.path.display());
        let climbs = "super::".repeat(source.depth + 1);
        assert!(
            !source.code.contains(&climbs),
            "{}: climbs out of core",
            source.path.display()
        );
    }
}

#[test]
fn the_dashboard_sees_only_what_it_reads_and_nothing_of_the_command_line() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.room == "tui") {
        for room in names_after(&source.code, "crate::core::") {
            if !SEEN_BY_TUI.contains(&room.as_str()) {
                wrong.push(format!("{}: may not see {room}", source.path.display()));
            }
        }
        if source.code.contains("crate::cmd") {
            wrong.push(format!("{}: names cmd", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn heavy_crates_stay_at_home() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, homes) in HEAVY {
            let named = names_crate(&source.code, name);
            if named && !homes.contains(&source.room.as_str()) {
                wrong.push(format!("{}: {name} belongs to {homes:?}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The only file with unsafe code: the system calls of the attack on our own sandbox.
const UNSAFE: &str = "core/executor/attack/inside/syscall.rs";

#[test]
fn unsafe_code_is_in_one_file_and_nowhere_else() {
    let mut with: Vec<String> = sources()
        .iter()
        .filter(|source| source.code.contains("unsafe_code") || source.code.contains("unsafe {"))
        .map(|source| source.path.display().to_string())
        .collect();
    with.sort();
    assert_eq!(with, [UNSAFE]);
}

/// Returns whether a path starts with the crate's name: `name::` that is not a part of a longer path.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path)
        .any(|(at, _)| !is_inside_a_path(code, at))
}

/// Returns whether what begins at `at` only continues a longer name or path.
fn is_inside_a_path(code: &str, at: usize) -> bool {
    code.split_at(at)
        .0
        .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
}

#[test]
fn every_file_opens_with_its_door_line() {
    for source in sources() {
        assert!(
            source.first_line.starts_with("//! "),
            "{} does not say what it is",
            source.path.display()
        );
    }
}

#[test]
fn the_table_names_only_rooms_and_has_no_circle() {
    let known: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    for (index, (room, row)) in ROOMS.iter().enumerate() {
        for seen in *row {
            let position = known.iter().position(|name| name == seen);
            // Reading order: a room stands below all that it sees.
            assert!(
                position.is_some_and(|position| position < index),
                "{room} sees {seen}"
            );
        }
    }
}

#[test]
fn the_reader_of_paths_sees_groups_and_climbs() {
    let code =
        "use crate::core::{model::{Hotkey, JobId}, crypto};\nlet x = crate::core::proto::frame::open(y);";
    let names: Vec<String> = names_after(code, "crate::core::").into_iter().collect();
    assert_eq!(names, ["crypto", "model", "proto"]);
    assert!(names_crate("use zip::ZipArchive;", "zip"));
    assert!(!names_crate("gzip::x(); a::zip::b();", "zip"));
}
