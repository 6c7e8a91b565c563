//! Judging: each check fails when it should, says what helps, and mends only what is safe.

use time::macros::datetime;

use super::super::facts::Entry;
use super::super::port::Listener;
use super::*;
use crate::core::model::subnet::{Block, Neuron};

const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);

const MINE: Entry = Entry {
    is_dir: true,
    mode: 0o755,
    owner: 1000,
    me: 1000,
    is_writable: true,
};

fn directory(entry: Entry, kind: u64) -> Directory {
    Directory {
        path: PathBuf::from("/data"),
        found: Ok(Some(entry)),
        can_be_made: false,
        kind: Ok(kind),
    }
}

#[test]
fn a_data_directory_is_ours_local_and_closed_to_other_writers() {
    const EXT4: u64 = 0xef53;
    for (entry, kind, expected, words) in [
        (MINE, EXT4, Status::Held, "/data"),
        (MINE, 0x6969, Status::Failed, "NFS"),
        (MINE, 0x6573_5546, Status::Advice, "FUSE"),
        (MINE, 0x0102_1994, Status::Advice, "restart"),
        (MINE, 0x794c_7630, Status::Advice, "the container"),
        (
            Entry { mode: 0o775, ..MINE },
            EXT4,
            Status::Failed,
            "others may write",
        ),
        (
            Entry {
                is_dir: false,
                ..MINE
            },
            EXT4,
            Status::Failed,
            "no directory",
        ),
        (
            Entry { owner: 0, ..MINE },
            EXT4,
            Status::Failed,
            "belongs to user 0",
        ),
        (
            Entry {
                owner: 7,
                me: 0,
                ..MINE
            },
            EXT4,
            Status::Held,
            "/data",
        ),
        (
            Entry {
                is_writable: false,
                ..MINE
            },
            EXT4,
            Status::Failed,
            "this is user 1000",
        ),
    ] {
        let found = data_dir(&directory(entry, kind)).finding;
        assert_eq!(found.status, expected, "{found:?}");
        assert!(found.actual.contains(words), "{found:?}");
    }
}

#[test]
fn a_missing_or_open_directory_can_be_mended_and_one_of_another_user_cannot() {
    let missing = |can_be_made| {
        data_dir(&Directory {
            found: Ok(None),
            can_be_made,
            ..directory(MINE, 0)
        })
    };
    assert_eq!(missing(false).finding.status, Status::Failed);
    assert_eq!(missing(false).mends, []);
    let missing = missing(true);
    assert_eq!(missing.finding.status, Status::Advice, "the role makes it");
    assert_eq!(missing.mends, [Mend::MakeDirectory(PathBuf::from("/data"))]);
    let open = data_dir(&directory(Entry { mode: 0o777, ..MINE }, 0));
    assert_eq!(
        open.mends,
        [Mend::MakePrivate {
            path: PathBuf::from("/data"),
            mode: 0o755
        }]
    );
    let foreign = Entry {
        mode: 0o777,
        owner: 7,
        ..MINE
    };
    assert_eq!(data_dir(&directory(foreign, 0)).mends, []);
}

#[test]
fn little_room_is_told_and_none_fails() {
    let judge = |bytes, files| space(Path::new("/data"), &Ok(Room { bytes, files }));
    for (bytes, files, expected) in [
        (100 << 30, Some(1_000_000), Status::Held),
        (100 << 30, None, Status::Held),
        (1 << 30, None, Status::Advice),
        (100 << 20, None, Status::Failed),
        (100 << 30, Some(10), Status::Failed),
    ] {
        assert_eq!(judge(bytes, files).status, expected, "{bytes} {files:?}");
    }
    assert!(judge(100 << 30, Some(10)).actual.contains("only 10 more files"));
    assert_eq!(
        space(Path::new("/data"), &Err("no".to_owned())).status,
        Status::Unknown
    );
}

fn file(name: &str, mode: u32) -> KeyFile {
    KeyFile {
        path: PathBuf::from(name),
        mode: Some(Ok(mode)),
    }
}

#[test]
fn private_files_that_others_may_read_fail_and_can_be_mended() {
    for mode in [0o600, 0o400, 0o700] {
        assert_eq!(
            key_file(&file("key", mode)).finding.status,
            Status::Held,
            "{mode:o}"
        );
    }
    for mode in [0o640, 0o604, 0o666] {
        let found = key_file(&file("key", mode));
        assert_eq!(found.finding.status, Status::Failed, "{mode:o}");
        assert!(found.finding.remedy.contains("chmod 600"));
        assert_eq!(found.mends, [private(Path::new("key"))]);
    }
    let missing = key_file(&KeyFile {
        path: PathBuf::from("key"),
        mode: None,
    });
    assert_eq!(missing.finding.status, Status::Failed);
    assert!(missing.mends.is_empty() && missing.finding.remedy.contains("horde key new"));
    let found = permissions(&[file("a", 0o600), file("b", 0o644), file("c", 0o660)]);
    assert_eq!(found.finding.status, Status::Failed);
    assert_eq!(found.mends, [private(Path::new("b")), private(Path::new("c"))]);
    assert_eq!(permissions(&[file("a", 0o600)]).finding.status, Status::Held);
    assert_eq!(coldkey(&file("coldkey", 0o600)).status, Status::Advice);
}

#[test]
fn only_a_newer_schema_fails() {
    assert_eq!(schema(3, 3).status, Status::Held);
    assert_eq!(schema(2, 3).status, Status::Advice);
    let newer = schema(4, 3);
    assert_eq!(newer.status, Status::Failed);
    assert!(newer.remedy.contains("newer"));
}

#[test]
fn damage_fails_and_no_time_is_no_damage() {
    let through = |faults: &[&str]| {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        database(&Looked::Through(faults))
    };
    assert_eq!(through(&[]).status, Status::Held);
    assert_eq!(through(&["row missing"]).status, Status::Failed);
    assert!(through(&["row missing", "b", "c"]).actual.contains("and 2 more"));
    assert_eq!(
        database(&Looked::NotWhole(Duration::from_secs(10))).status,
        Status::Unknown
    );
    assert_eq!(
        database(&Looked::Refused("malformed".to_owned())).status,
        Status::Failed
    );
    assert_eq!(wal(10).status, Status::Held);
    assert_eq!(wal(1 << 30).status, Status::Advice);
}

#[test]
fn a_lock_is_held_or_not_and_fails_only_where_this_user_could_not_take_it() {
    let judge = |holder, is_usable| lock(holder, Path::new("x.lock"), is_usable).status;
    assert_eq!(judge(Holder::Process(7), false), Status::Held);
    assert_eq!(judge(Holder::Nobody, true), Status::Held);
    assert_eq!(judge(Holder::Nobody, false), Status::Failed);
    assert_eq!(judge(Holder::Unknown, true), Status::Unknown);
}

#[test]
fn the_two_files_of_a_hotkey_must_name_one_key() {
    let known = || PrivateKey::Known(Hotkey::from("a"));
    let named = |name: &str| Some(Ok(Hotkey::from(name)));
    for (private, public, expected) in [
        (known(), named("a"), Status::Held),
        (known(), None, Status::Held),
        (known(), named("b"), Status::Failed),
        (known(), Some(Err("no key".to_owned())), Status::Failed),
        (PrivateKey::Sealed, named("a"), Status::Held),
        (PrivateKey::Sealed, None, Status::Unknown),
        (PrivateKey::Refused("no".to_owned()), named("a"), Status::Failed),
    ] {
        let pair = Pair { private, public };
        assert_eq!(key_pair(&pair).status, expected, "{pair:?}");
    }
}

#[test]
fn a_validator_is_registered_and_has_a_permit() {
    let metagraph = |validator_permit| Metagraph {
        netuid: 12,
        block: Block(1),
        neurons: vec![Neuron {
            uid: 3,
            hotkey: Hotkey::from("a"),
            coldkey: Hotkey::from("cold"),
            stake_rao: 0,
            axon: None,
            validator_permit,
            registered_at: Block(0),
            last_update: Block(0),
        }],
    };
    let (own, other) = (Hotkey::from("a"), Hotkey::from("b"));
    assert_eq!(registered(&own, &metagraph(true)).status, Status::Held);
    let stranger = registered(&other, &metagraph(true));
    assert_eq!(stranger.status, Status::Failed);
    assert!(stranger.remedy.contains("register"));
    assert_eq!(permit(&own, &metagraph(true)).status, Status::Held);
    assert_eq!(permit(&own, &metagraph(false)).status, Status::Failed);
    assert_eq!(permit(&other, &metagraph(true)).status, Status::Skipped);
}

#[test]
fn a_chain_must_be_readable_and_may_be_new() {
    let judge = |found| chain(Path::new("/chain"), 12, &found).status;
    let facts = |netuids: &[u16]| {
        Ok(Some(ChainFacts {
            block: 5,
            netuids: netuids.to_vec(),
        }))
    };
    assert_eq!(judge(facts(&[12])), Status::Held);
    assert_eq!(judge(facts(&[1])), Status::Advice);
    assert_eq!(judge(Ok(None)), Status::Advice);
    assert_eq!(judge(Err("malformed".to_owned())), Status::Failed);
}

#[test]
fn an_address_is_free_or_served_by_the_role_itself() {
    let address: SocketAddr = "127.0.0.1:8000".parse().unwrap();
    let taken = |pid| {
        Tried::Taken(Some(Listener {
            pid,
            name: "nginx".to_owned(),
        }))
    };
    for (tried, role, expected) in [
        (Tried::Free, Holder::Nobody, Status::Held),
        (Tried::Free, Holder::Process(7), Status::Failed),
        (taken(7), Holder::Process(7), Status::Held),
        (taken(8), Holder::Process(7), Status::Failed),
        (taken(7), Holder::Nobody, Status::Failed),
        (Tried::Taken(None), Holder::Process(7), Status::Unknown),
        (Tried::Taken(None), Holder::Nobody, Status::Failed),
        (Tried::Forbidden, Holder::Nobody, Status::Failed),
        (Tried::Elsewhere, Holder::Nobody, Status::Failed),
        (Tried::Failed("no".to_owned()), Holder::Nobody, Status::Failed),
    ] {
        let found = listen("listen", address, &tried, role);
        assert_eq!(found.status, expected, "{tried:?} {role:?}");
        assert!(!found.remedy.is_empty());
    }
    let found = listen("metrics", address, &taken(8), Holder::Nobody);
    assert!(found.actual.contains("process 8 (nginx)"), "{found:?}");
}

#[test]
fn limits_of_the_machine_are_told_before_they_fail() {
    for (limit, expected) in [
        (None, Status::Held),
        (Some(65_536), Status::Held),
        (Some(2048), Status::Advice),
        (Some(256), Status::Failed),
    ] {
        assert_eq!(open_files(limit).status, expected, "{limit:?}");
    }
    for (bytes, expected) in [
        (1 << 30, Status::Held),
        (100 << 20, Status::Advice),
        (1 << 20, Status::Failed),
    ] {
        assert_eq!(memory(&Ok(bytes)).status, expected, "{bytes}");
    }
    assert_eq!(memory(&Err("no".to_owned())).status, Status::Unknown);
    assert_eq!(systemd(None).status, Status::Skipped);
}

#[test]
fn a_clock_that_is_off_is_told_with_the_difference() {
    let told = |ahead, exact_to| {
        clock(
            NOW,
            None,
            Some(Ok(Told {
                source: "http://time".to_owned(),
                ahead: time::Duration::seconds(ahead),
                exact_to: Duration::from_secs(exact_to),
            })),
        )
    };
    assert_eq!(told(1, 1).status, Status::Held);
    assert_eq!(told(4, 1).status, Status::Advice);
    assert_eq!(told(-60, 1).status, Status::Failed);
    assert!(told(-60, 1).actual.contains("60.0 s behind"));
    assert!(told(60, 1).actual.contains("60.0 s ahead"));
    assert_eq!(
        told(60, 59).status,
        Status::Held,
        "what is not sure is no failure"
    );
    let by_chain = |seconds| clock(NOW, Some(NOW - time::Duration::seconds(seconds)), None);
    assert_eq!(by_chain(11).status, Status::Held);
    assert_eq!(by_chain(-5).status, Status::Failed);
    assert!(by_chain(-5).actual.contains("behind the chain"));
    assert_eq!(by_chain(120).status, Status::Failed);
    assert!(by_chain(120).remedy.contains("miner.clock_url"));
    assert_eq!(clock(NOW, None, None).status, Status::Unknown);
}
