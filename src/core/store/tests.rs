//! Tests of the store as a whole, against files.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use tempfile::TempDir;

use super::*;

const ONE: &[Migration] = &[Migration {
    name: "0001_start",
    sql: "CREATE TABLE entry (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;",
}];

const TWO: &[Migration] = &[
    ONE[0],
    Migration {
        name: "0002_more",
        sql: "ALTER TABLE entry ADD COLUMN more TEXT NOT NULL DEFAULT 'none';",
    },
];

const BROKEN: &[Migration] = &[
    ONE[0],
    Migration {
        name: "0002_broken",
        sql: "CREATE TABLE other (id INTEGER); INSERT INTO nowhere VALUES (1);",
    },
];

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data").join("role.sqlite");
    (folder, path)
}

async fn insert(store: &Store, id: i64) -> Result<(), StoreError> {
    store
        .write(move |connection| {
            connection.execute("INSERT INTO entry (id, text) VALUES (?1, 'x')", (id,))?;
            Ok(())
        })
        .await
}

async fn count(store: &Store) -> i64 {
    store
        .read(|connection| Ok(connection.query_row("SELECT count(*) FROM entry", (), |row| row.get(0))?))
        .await
        .unwrap()
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[tokio::test]
async fn a_failed_write_leaves_nothing_and_its_neighbours_stay() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    let failing = store.write(|connection| {
        connection.execute("INSERT INTO entry (id, text) VALUES (1, 'gone')", ())?;
        connection.execute("INSERT INTO entry (id, text) VALUES (2, NULL)", ())?;
        Ok(())
    });
    // Polled together, so that the three wait together and share a commit.
    let (before, failed, after) = tokio::join!(insert(&store, 10), failing, insert(&store, 11));
    before.unwrap();
    after.unwrap();
    let error = failed.unwrap_err();
    assert!(error.is_constraint(), "{error:?}");
    assert!(!error.is_fatal());
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn a_write_that_panics_is_undone_and_the_store_goes_on() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    let panicking = store.write::<(), _>(|connection| {
        connection.execute("INSERT INTO entry (id, text) VALUES (1, 'gone')", ())?;
        panic!("as intended by the test");
    });
    assert!(matches!(panicking.await, Err(StoreError::Panicked)));
    let reading = store.read::<(), _>(|_| panic!("as intended by the test"));
    assert!(matches!(reading.await, Err(StoreError::Panicked)));
    insert(&store, 2).await.unwrap();
    assert_eq!(count(&store).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_and_readers_never_see_busy() {
    const WRITERS: i64 = 32;
    const WRITES: i64 = 25;
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            for write in 0..WRITES {
                insert(&store, writer * WRITES + write).await.unwrap();
                assert!(count(&store).await > write);
            }
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(count(&store).await, WRITERS * WRITES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_of_a_shared_file_wait_for_each_other() {
    let (_folder, path) = folder();
    let opening = |path: PathBuf| tokio::task::spawn_blocking(move || Store::open_shared(&path, ONE));
    let (one, other) = tokio::join!(opening(path.clone()), opening(path));
    let (one, other) = (one.unwrap().unwrap(), other.unwrap().unwrap());
    let fill = |store: Store, start: i64| async move {
        for id in start..start + 50 {
            insert(&store, id).await.unwrap();
        }
    };
    tokio::join!(fill(one.clone(), 0), fill(other.clone(), 1000));
    assert_eq!(count(&one).await, 100);
    assert_eq!(count(&other).await, 100);
}

#[tokio::test]
async fn what_is_acknowledged_outlives_a_process_that_dies() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    insert(&store, 1).await.unwrap();
    // As after kill -9: the files as they lie on the disk, nobody has closed or checkpointed them.
    let (_elsewhere, copy) = folder();
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    for suffix in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        fs::copy(name(&path), name(&copy)).unwrap();
    }
    let survivor = Store::open(&copy, ONE).unwrap();
    assert_eq!(count(&survivor).await, 1);
}

#[tokio::test]
async fn dropping_the_last_handle_finishes_queued_writes_and_frees_the_file() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    // Queued by the first poll, then given up by its caller.
    assert!(insert(&store, 1).now_or_never().is_none());
    drop(store);
    let store = Store::open(&path, ONE).unwrap();
    assert_eq!(count(&store).await, 1);
}

#[tokio::test]
async fn a_second_owner_is_refused_and_told_who_was_first() {
    let (_folder, path) = folder();
    let _first = Store::open(&path, ONE).unwrap();
    let error = Store::open(&path, ONE).unwrap_err();
    let OpenError::InUse { pid, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(
        error.to_string().contains("in use by another process (pid "),
        "{error}"
    );
}

#[tokio::test]
async fn an_older_database_is_brought_up_and_a_newer_one_refused() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    insert(&store, 1).await.unwrap();
    drop(store);
    let store = Store::open(&path, TWO).unwrap();
    let more: String = store
        .read(|connection| Ok(connection.query_row("SELECT more FROM entry", (), |row| row.get(0))?))
        .await
        .unwrap();
    assert_eq!(more, "none");
    drop(store);
    let error = Store::open(&path, ONE).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .ends_with("has schema version 2, this program knows versions up to 1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_failed_migration_changes_nothing() {
    let (_folder, path) = folder();
    drop(Store::open(&path, ONE).unwrap());
    let error = Store::open(&path, BROKEN).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Migration {
                name: "0002_broken",
                ..
            }
        ),
        "{error:?}"
    );
    let store = Store::open(&path, TWO).unwrap();
    assert_eq!(count(&store).await, 0);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let (_folder, path) = folder();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(
        &path,
        "this is a shopping list, not a database, and long enough to have a header",
    )
    .unwrap();
    let error = Store::open(&path, ONE).unwrap_err();
    assert!(causes(&error).contains("not a database"), "{}", causes(&error));
}

#[tokio::test]
async fn readers_cannot_write() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    let sneaky = store.read(|connection| Ok(connection.execute("DELETE FROM entry", ())?));
    assert!(matches!(sneaky.await, Err(StoreError::ReadOnly(_))));
}

#[tokio::test]
async fn a_full_disk_is_fatal_and_tells_every_write_of_the_group() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    store
        .write(|connection| {
            connection.pragma_update(None, "max_page_count", 8)?;
            Ok(())
        })
        .await
        .unwrap();
    let large = store.write(|connection| {
        connection.execute(
            "INSERT INTO entry (id, text) VALUES (1, hex(zeroblob(1000000)))",
            (),
        )?;
        Ok(())
    });
    let error = large.await.unwrap_err();
    assert!(error.is_fatal(), "{error:?}");
    assert_eq!(count(&store).await, 0);
    // Still able to do what fits.
    insert(&store, 2).await.unwrap();
    assert_eq!(count(&store).await, 1);
}

#[tokio::test]
async fn a_write_may_hold_the_last_handle_of_its_own_store() {
    let (_folder, path) = folder();
    let store = Store::open(&path, ONE).unwrap();
    let own = store.clone();
    let ran = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ran);
    let write = store.write(move |_| {
        drop(own);
        seen.store(true, Ordering::SeqCst);
        Ok(())
    });
    assert!(write.now_or_never().is_none());
    drop(store);
    for _ in 0..500 {
        if ran.load(Ordering::SeqCst) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the queued write was not carried out");
}

#[cfg(unix)]
#[test]
fn the_files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, path) = folder();
    let _store = Store::open(&path, ONE).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}
