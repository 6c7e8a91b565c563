//! Every view on real databases: full, empty, damaged, older and newer ones; and as it is drawn.

mod world;

use std::fs;
use std::path::Path;

use time::Duration;

use super::*;
use crate::core::model::Timestamp;
use crate::core::store::facilitator::FacilitatorStore;
use crate::core::store::miner::MinerStore;
use crate::core::store::places::Role;
use crate::core::store::validator::ValidatorStore;
use crate::tui::app::{App, Start};
use crate::tui::event::{Answer, Effect, Event, Header, Now, Purpose};
use crate::tui::headless::{frame, text};
use crate::tui::keys::KeyMap;
use crate::tui::source::Source;
use crate::tui::theme::{Depth, Theme};

fn view(name: &str) -> &'static View {
    VIEWS.iter().find(|view| view.name == name).unwrap()
}

/// The key that a view of one thing is asked for in these tests.
fn key(name: &str) -> Option<String> {
    (name == "job").then(|| world::job_id(2).to_string())
}

fn load(source: &Source, name: &str) -> Page {
    let ask = Ask {
        key: key(name),
        ..Ask::default()
    };
    (view(name).load)(source, &ask).unwrap()
}

/// Returns a column of a page as words.
fn column(page: &Page, name: &str) -> Vec<String> {
    let at = page
        .columns
        .iter()
        .position(|column| column.name == name)
        .unwrap();
    page.rows.iter().map(|row| row.cells[at].text.clone()).collect()
}

#[tokio::test]
async fn every_page_of_every_view_is_of_one_piece() {
    let folder = tempfile::tempdir().unwrap();
    world::fill(folder.path()).await;
    let source = world::source(folder.path());
    let mut names = std::collections::BTreeSet::new();
    for view in VIEWS {
        assert!(names.insert(view.name), "two views are called {}", view.name);
        assert!(
            view.opens
                .is_none_or(|name| VIEWS.iter().any(|view| view.name == name))
        );
        let page = load(&source, view.name);
        assert!(
            page.rows.len() + page.text.len() > 0,
            "{} shows nothing",
            view.name
        );
        assert!(
            page.empty.contains('`') && page.empty.contains("horde") || view.name == "job",
            "{}",
            view.name
        );
        let mut keys = std::collections::BTreeSet::new();
        for row in &page.rows {
            assert_eq!(row.cells.len(), page.columns.len(), "{}", view.name);
            assert!(
                keys.insert(row.key.clone()),
                "{}: two rows are {}",
                view.name,
                row.key
            );
        }
        let whole = format!("{page:?}");
        assert!(
            !whole.contains("do-not-show"),
            "{} shows a job's environment",
            view.name
        );
    }
}

#[tokio::test]
async fn a_job_of_three_roles_is_one_row_and_one_story() {
    let folder = tempfile::tempdir().unwrap();
    world::fill(folder.path()).await;
    let source = world::source(folder.path());
    let jobs = load(&source, "jobs");
    assert_eq!(
        column(&jobs, "state"),
        ["volumes_ready", "rejected", "failed", "completed", "completed"]
    );
    assert_eq!(
        column(&jobs, "kept").first().unwrap(),
        "facilitator validator miner-1"
    );
    assert_eq!(column(&jobs, "reason")[1..3], ["busy", "nonzero_return_code"]);
    assert_eq!(column(&jobs, "exit"), ["-", "-", "3", "0", "0"]);
    assert_eq!(column(&jobs, "score")[2..], ["0.00", "1.00", "1.00"]);
    let story = load(&source, "job");
    let roles = column(&story, "role");
    for role in ["facilitator", "validator", "miner-1"] {
        assert!(roles.iter().any(|by| by == role), "{role} tells nothing");
    }
    let events = column(&story, "event");
    assert_eq!(events.first().unwrap(), "sent");
    assert!(events.iter().any(|event| event == "receipt_finished"));
    let stages: Vec<&str> = story.charts[0]
        .bars
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        stages,
        ["to the miner", "executor", "input", "execution", "output"]
    );
    assert!(story.text.iter().any(|line| line.text == "three"));
    // A beginning that only one job has is enough, and one that several have is not.
    let ask = |key: &str| Ask {
        key: Some(key.to_owned()),
        ..Ask::default()
    };
    assert!((view("job").load)(&source, &ask("3f2a9c05")).is_ok());
    for key in ["3f2a", "nobody's"] {
        let none = (view("job").load)(&source, &ask(key));
        assert!(matches!(none, Err(LoadError::NotFound(_))), "{none:?}");
    }
}

#[tokio::test]
async fn the_past_is_shown_as_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    world::fill(folder.path()).await;
    let source = world::source(folder.path());
    // Two and a half seconds after job 3 was sent; it fails after five.
    let then = world::NOW - Duration::seconds(900) + Duration::milliseconds(2500);
    let ask = |name: &str| {
        let ask = Ask {
            key: (name == "job").then(|| world::job_id(3).to_string()),
            at: Some(Timestamp::new(then)),
            ..Ask::default()
        };
        (view(name).load)(&source, &ask).unwrap()
    };
    let jobs = ask("jobs");
    assert_eq!(
        column(&jobs, "state"),
        ["volumes_ready", "completed", "completed"]
    );
    assert_eq!(column(&jobs, "took")[0], "2.500s");
    assert_eq!(column(&jobs, "reason")[0], "-");
    let story = ask("job");
    let last = story.rows.last().unwrap();
    assert!(matches!(last.cells[5].value, Value::Time(at) if at.moment() <= then));
    assert!(!column(&story, "event").iter().any(|event| event == "failed"));
    assert!(story.text.is_empty(), "what it wrote is known only at its end");
    for name in ["events", "receipts", "scores", "credits", "logs"] {
        for row in ask(name).rows {
            for cell in row.cells {
                assert!(
                    !matches!(cell.value, Value::Time(at) if at.moment() > then),
                    "{name}: {cell:?}"
                );
            }
        }
    }
    // Before anything happened there was nothing.
    let long_ago = Ask {
        at: Some(Timestamp::new(world::NOW - Duration::days(9))),
        ..Ask::default()
    };
    for name in ["jobs", "events", "receipts", "credits", "scores"] {
        assert_eq!((view(name).load)(&source, &long_ago).unwrap().rows, [], "{name}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    world::fill(folder.path()).await;
    let source = world::source(folder.path());
    for name in ["jobs", "events", "receipts", "credits"] {
        let all: Vec<_> = load(&source, name).rows.into_iter().map(|row| row.key).collect();
        for rows_max in [1, 2, 3, 7] {
            let mut ask = Ask {
                rows_max,
                ..Ask::default()
            };
            let mut found = Vec::new();
            for _ in 0..200 {
                let page = (view(name).load)(&source, &ask).unwrap();
                assert!(page.rows.len() <= rows_max);
                found.extend(page.rows.into_iter().map(|row| row.key));
                ask.before = page.older;
                if ask.before.is_none() {
                    break;
                }
            }
            if rows_max >= 3 {
                assert_eq!(found, all, "{name} by {rows_max}");
            }
        }
    }
}

#[test]
fn where_nothing_is_kept_every_view_says_what_to_type() {
    let folder = tempfile::tempdir().unwrap();
    let source = world::source(folder.path());
    for view in VIEWS {
        match (view.load)(&source, &Ask::default()) {
            Ok(page) => {
                assert!(page.rows.is_empty() && page.text.is_empty(), "{}", view.name);
                assert!(page.empty.contains('`'), "{}: {}", view.name, page.empty);
            }
            Err(LoadError::NotKept(_)) => {}
            Err(error) => panic!("{}: {error}", view.name),
        }
    }
}

fn with(role: Role, make: impl Fn(&Path)) -> (tempfile::TempDir, Source) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join(role.word());
    fs::create_dir(&dir).unwrap();
    make(&dir.join(role.database()));
    let source = world::source(folder.path());
    assert_eq!(source.places.len(), 1);
    (folder, source)
}

/// Has every view read what is there; those that need it must say that they cannot, and nobody panics.
fn assert_refused(source: &Source, words: &str) {
    let mut refused = 0;
    for view in VIEWS {
        let ask = Ask {
            key: key(view.name),
            ..Ask::default()
        };
        match (view.load)(source, &ask) {
            Ok(page) if view.name == "overview" => {
                let alerts: Vec<_> = page.facts.iter().filter(|(name, _)| *name == "alert").collect();
                assert!(
                    alerts.iter().any(|(_, cell)| cell.text.contains(words)),
                    "{alerts:?}"
                );
            }
            Err(LoadError::Database { reason, .. }) => {
                assert!(reason.contains(words), "{}: {reason}", view.name);
                refused += 1;
            }
            Ok(_) | Err(LoadError::NotKept(_) | LoadError::NotFound(_)) => {}
        }
    }
    assert!(refused > 1, "nobody has noticed");
}

#[test]
fn damaged_newer_and_half_made_databases_are_told_in_words() {
    for role in Role::ALL {
        let (_folder, source) = with(role, |path| {
            fs::write(path, "no database at all ".repeat(500)).unwrap();
        });
        assert_refused(&source, "damaged");
        let (_folder, source) = with(role, |path| fs::write(path, "").unwrap());
        assert_refused(&source, "schema version 0");
        let (_folder, source) = with(role, |path| {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection
                .execute_batch("CREATE TABLE t (x); PRAGMA user_version = 9999")
                .unwrap();
        });
        assert_refused(&source, "knows versions up to");
    }
}

#[tokio::test]
async fn a_database_that_is_damaged_anywhere_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    world::fill(folder.path()).await;
    for role in [
        "facilitator/facilitator.sqlite",
        "validator/validator.sqlite",
        "miner-1/miner.sqlite",
    ] {
        let path = folder.path().join(role);
        let whole = fs::read(&path).unwrap();
        // Pages have 4096 bytes; one after the other is overwritten.
        for page in 0..whole.len() / 4096 {
            let mut bytes = whole.clone();
            for byte in &mut bytes[page * 4096 + 100..page * 4096 + 600] {
                *byte = byte.wrapping_mul(7).wrapping_add(13);
            }
            fs::write(&path, bytes).unwrap();
            let source = world::source(folder.path());
            for view in VIEWS {
                let ask = Ask {
                    key: key(view.name),
                    ..Ask::default()
                };
                // Whether it is seen depends on what is read.
                drop((view.load)(&source, &ask));
            }
        }
        fs::write(&path, whole).unwrap();
    }
}

/// Sizes at which every state of every view is drawn.
const SIZES: [(u16, u16); 3] = [(60, 16), (100, 30), (160, 50)];

/// Draws a view that has read this, or still reads.
fn shot(view: &'static View, result: Option<Result<Page, LoadError>>, size: (u16, u16)) -> String {
    let now = Now {
        wall: world::NOW,
        steady: std::time::Duration::from_secs(1),
    };
    let start = Start {
        views: VIEWS,
        view: Some(view),
        key: key(view.name),
        keys: KeyMap::built_in(),
        theme: Theme::Dark,
        depth: Depth::Many,
        ascii: false,
        mouse: true,
        at: None,
        header: Header {
            roles: ["facilitator", "validator", "miner-1"]
                .map(str::to_owned)
                .to_vec(),
            context: None,
            dir: "/data".to_owned(),
        },
        contexts: Vec::new(),
        notice: None,
        size,
    };
    let mut app = App::new(start, now);
    let effects = app.update(Event::Tick, now);
    let asked = effects.into_iter().find_map(|effect| match effect {
        Effect::Load(request) if request.view.name == view.name && request.purpose == Purpose::Shown => {
            Some(request)
        }
        _ => None,
    });
    let asked = asked.expect("the shown page is asked for");
    if let Some(result) = result {
        let answer = Answer {
            id: asked.id,
            result: result.map(crate::tui::app::screen::bounded),
            took: std::time::Duration::from_millis(2),
            is_news: true,
            header: None,
        };
        app.update(Event::Loaded(Box::new(answer)), now);
    }
    text(&frame(&app))
}

/// Reads a view and takes out what is another on each machine: where the directory is, what it takes, when it was written.
fn read(source: &Source, view: &View) -> Result<Page, LoadError> {
    let ask = Ask {
        key: key(view.name),
        ..Ask::default()
    };
    let mut page = (view.load)(source, &ask)?;
    let places: Vec<usize> = ["written", "size"]
        .iter()
        .filter_map(|name| page.columns.iter().position(|column| column.name == *name))
        .collect();
    for row in &mut page.rows {
        for place in &places {
            row.cells[*place] = Cell::text("…");
        }
    }
    let dir = source.dir.display().to_string();
    let cells = page.rows.iter_mut().flat_map(|row| &mut row.cells);
    for cell in cells.chain(page.facts.iter_mut().map(|(_, cell)| cell)) {
        cell.text = cell.text.replace(&dir, "/data");
    }
    Ok(page)
}

/// Makes what every view fails at: databases and files that are none.
fn ruin(dir: &Path) {
    for role in Role::ALL {
        let place = dir.join(role.word());
        fs::create_dir_all(place.join("logs").join(format!("{}.jsonl", role.word()))).unwrap();
        fs::write(place.join(role.database()), "no database at all ".repeat(500)).unwrap();
        fs::write(place.join("checks.json"), "no results").unwrap();
    }
}

/// Makes databases in which nothing has happened.
fn make_empty(dir: &Path) {
    drop(FacilitatorStore::open(&dir.join("facilitator/facilitator.sqlite")).unwrap());
    drop(ValidatorStore::open(&dir.join("validator/validator.sqlite")).unwrap());
    drop(MinerStore::open(&dir.join("miner-1/miner.sqlite")).unwrap());
}

/// Every view, reading, full, empty and failing, at three sizes, as it is on the screen.
#[tokio::test]
async fn every_view_in_every_state_and_size_is_drawn_as_it_was() {
    let [full, empty, ruined] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    world::fill(full.path()).await;
    make_empty(empty.path());
    ruin(ruined.path());
    let [full, empty, ruined] = [&full, &empty, &ruined].map(|dir| world::source(dir.path()));
    for source in [&full, &empty, &ruined] {
        world::left(source).await;
    }
    for view in VIEWS {
        let mut all = String::new();
        for (state, source) in [
            ("loading", None),
            ("full", Some(&full)),
            ("empty", Some(&empty)),
            ("error", Some(&ruined)),
        ] {
            for size in SIZES {
                let result = source.map(|source| read(source, view));
                // Without a job there is none to be found.
                let result = match result {
                    Some(Err(LoadError::NotFound(_))) => Some((view.load)(source.unwrap(), &Ask::default())),
                    other => other,
                };
                let (columns, rows) = size;
                all += "──── ";
                all += state;
                all += " at ";
                all += &columns.to_string();
                all += "×";
                all += &rows.to_string();
                all += "\n";
                all.push_str(&shot(view, result, size));
            }
        }
        insta::assert_snapshot!(view.name, all);
    }
}
