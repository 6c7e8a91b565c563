//! Pages are append-only, whatever the clock does.

use time::Duration;
use time::macros::datetime;

use super::super::MIGRATIONS;
use super::*;
use crate::core::model::receipt::Receipt;

const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);
const PAGE: i64 = 5_894_934;

fn store() -> (tempfile::TempDir, MinerStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
    (folder, store)
}

fn receipt(number: u32) -> Receipt {
    let text = format!(
        r#"{{"payload":{{"job_uuid":"00000000-0000-4000-8000-{number:012}","miner_hotkey":"m","validator_hotkey":"é",
            "timestamp":"2026-01-15T12:30:45Z","receipt_type":"JobStartedReceipt","executor_class":"always_on.test",
            "is_organic":true,"ttl":7}},"validator_signature":"0x01","miner_signature":"0x02"}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn text_of(receipts: impl IntoIterator<Item = u32>) -> String {
    let lines = receipts
        .into_iter()
        .map(|number| serde_json::to_string(&receipt(number)).unwrap() + "\n");
    lines.collect()
}

fn length(bytes: &impl AsRef<[u8]>) -> i64 {
    i64::try_from(bytes.as_ref().len()).unwrap()
}

async fn whole(store: &MinerStore, page: i64) -> String {
    let mut bytes = Vec::new();
    loop {
        let more = store.page_bytes(page, length(&bytes), 1).await.unwrap();
        if more.is_empty() {
            return String::from_utf8(bytes).unwrap();
        }
        bytes.extend(more);
    }
}

#[tokio::test]
async fn receipts_stand_in_the_page_of_their_storing_in_the_order_of_arrival() {
    let (_folder, store) = store();
    for (number, second) in [(1, 0), (2, 1), (3, 254), (4, 255)] {
        let now = NOW + Duration::seconds(second);
        assert!(store.keep_receipt(receipt(number), now).await.unwrap());
    }
    assert!(
        !store
            .keep_receipt(receipt(4), NOW + Duration::hours(1))
            .await
            .unwrap()
    );
    assert_eq!(whole(&store, PAGE).await, text_of([1, 2, 3]));
    assert_eq!(whole(&store, PAGE + 1).await, text_of([4]));
    let page = store.page(PAGE).await.unwrap().unwrap();
    assert_eq!(page.bytes, length(&text_of([1, 2, 3])));
    assert_eq!(page.changed_at, NOW + Duration::seconds(254));
    assert_eq!(store.page(PAGE + 2).await.unwrap(), None);
}

#[tokio::test]
async fn every_offset_of_a_page_is_read_on_from_exactly() {
    let (_folder, store) = store();
    for number in 1..=3 {
        store.keep_receipt(receipt(number), NOW).await.unwrap();
    }
    let all = text_of([1, 2, 3]);
    for from in 0..=all.len() {
        let offset = i64::try_from(from).unwrap();
        let rest = store.page_bytes(PAGE, offset, usize::MAX).await.unwrap();
        assert_eq!(rest, all.as_bytes()[from..], "from {from}");
    }
    assert_eq!(store.page_bytes(PAGE, 1 << 40, 9).await.unwrap(), [0_u8; 0]);
    assert_eq!(store.page_bytes(PAGE + 9, 0, 9).await.unwrap(), [0_u8; 0]);
}

#[tokio::test]
async fn many_receipts_at_once_leave_every_earlier_look_a_beginning_of_every_later_one() {
    let (_folder, store) = store();
    let writes = (0..200).map(|number| {
        // Their clocks do not agree in which page they are.
        let now = NOW + Duration::seconds(250 + i64::from(number % 7));
        store.keep_receipt(receipt(number), now)
    });
    let looks = async {
        let mut seen = [String::new(), String::new()];
        for _ in 0..50 {
            for (page, seen) in [PAGE, PAGE + 1].into_iter().zip(&mut seen) {
                let now = whole(&store, page).await;
                assert!(now.starts_with(seen.as_str()));
                *seen = now;
            }
        }
    };
    let (written, ()) = tokio::join!(futures_util::future::join_all(writes), looks);
    assert!(written.into_iter().all(|new| new.unwrap()));
    let all = whole(&store, PAGE).await + &whole(&store, PAGE + 1).await;
    assert_eq!(all.lines().count(), 200);
}

#[tokio::test]
async fn a_clock_that_falls_back_adds_at_the_end_and_never_in_between() {
    let (_folder, store) = store();
    store.keep_receipt(receipt(1), NOW).await.unwrap();
    store
        .keep_receipt(receipt(2), NOW + Duration::minutes(10))
        .await
        .unwrap();
    // By two pages: the newest page takes it.
    store.keep_receipt(receipt(3), NOW).await.unwrap();
    assert_eq!(whole(&store, PAGE + 2).await, text_of([2, 3]));
    // From far in the future: the page of the time takes it, at its end, and is packed anew.
    store
        .keep_receipt(receipt(4), NOW + Duration::days(900))
        .await
        .unwrap();
    let bytes = length(&text_of([1]));
    store.keep_packed(PAGE, 0, vec![7]).await.unwrap();
    assert!(store.finish_packed(PAGE, bytes, 1).await.unwrap());
    assert_eq!(store.page(PAGE).await.unwrap().unwrap().gzip_bytes, Some(1));
    store.keep_receipt(receipt(5), NOW).await.unwrap();
    assert_eq!(whole(&store, PAGE).await, text_of([1, 5]));
    assert_eq!(store.page(PAGE).await.unwrap().unwrap().gzip_bytes, None);
    assert_eq!(store.packed(PAGE, 0).await.unwrap(), None);
}

#[tokio::test]
async fn a_page_that_grew_while_it_was_packed_is_not_taken_for_packed() {
    let (_folder, store) = store();
    store.keep_receipt(receipt(1), NOW).await.unwrap();
    let bytes = store.page(PAGE).await.unwrap().unwrap().bytes;
    store.keep_packed(PAGE, 0, vec![7]).await.unwrap();
    store.keep_receipt(receipt(2), NOW).await.unwrap();
    assert!(!store.finish_packed(PAGE, bytes, 1).await.unwrap());
    assert_eq!(store.packed(PAGE, 0).await.unwrap(), None);
    assert_eq!(store.pages_to_pack(PAGE + 1, 9).await.unwrap(), [PAGE]);
    assert_eq!(store.pages_to_pack(PAGE, 9).await.unwrap(), [0_i64; 0]);
}

/// The reference deletes receipts by their own date, also from the middle of a page that is still read.
#[tokio::test]
async fn pages_are_forgotten_whole_after_two_days_whatever_date_their_receipts_bear() {
    let (_folder, store) = store();
    let later = NOW + Duration::days(30);
    store.keep_receipt(receipt(1), later).await.unwrap();
    assert_eq!(store.forget_old(later + Duration::days(2)).await.unwrap(), 0);
    let over = later + Duration::days(2) + Duration::minutes(5);
    assert_eq!(store.forget_old(over).await.unwrap(), 1);
    assert_eq!(store.page(page_at(later)).await.unwrap(), None);
}

#[tokio::test]
async fn receipts_are_listed_by_what_is_asked_of_them() {
    let (_folder, store) = store();
    for number in 1..=4 {
        let now = NOW + Duration::seconds(number.into());
        store.keep_receipt(receipt(number), now).await.unwrap();
    }
    let numbers = async |filter, limit| -> Vec<i64> {
        let found = store.newest_receipts(filter, limit).await.unwrap();
        found.iter().map(|listed| listed.id).collect()
    };
    let all = ReceiptFilter::default;
    assert_eq!(numbers(all(), 2).await, [3, 4]);
    let since = ReceiptFilter {
        since: Some(NOW + Duration::seconds(2)),
        ..all()
    };
    assert_eq!(numbers(since, 9).await, [2, 3, 4]);
    let job = ReceiptFilter {
        job: Some(receipt(2).payload.job_uuid().clone()),
        ..all()
    };
    assert_eq!(numbers(job, 9).await, [2]);
    let other = ReceiptFilter {
        validator: Some(Hotkey::from("other")),
        ..all()
    };
    assert_eq!(numbers(other, 9).await, [0; 0]);
    let finished = ReceiptFilter {
        receipt_type: Some("JobFinishedReceipt"),
        ..all()
    };
    assert_eq!(numbers(finished, 9).await, [0; 0]);
    let after = store.receipts_after(all(), 2, 1).await.unwrap();
    assert_eq!((after[0].id, after[0].page), (3, PAGE));
}

#[test]
fn receipts_of_an_older_database_get_their_places() {
    let connection = Connection::open_in_memory().unwrap();
    let run = |name| {
        let migration = MIGRATIONS
            .iter()
            .find(|migration| migration.name == name)
            .unwrap();
        connection.execute_batch(migration.sql).unwrap();
    };
    run("receipts/0001_receipts");
    for number in 1..=3 {
        let kept = KeptReceipt::from(receipt(number));
        let now = NOW + Duration::seconds(if number == 3 { 300 } else { 0 });
        assert!(receipts::insert(&connection, &kept, now).unwrap());
    }
    run("miner/0006_receipt_pages");
    let read = |page| String::from_utf8(page_bytes(&connection, page, 0, usize::MAX).unwrap()).unwrap();
    assert_eq!(read(PAGE), text_of([1, 2]));
    assert_eq!(read(PAGE + 1), text_of([3]));
    let kept = KeptReceipt::from(receipt(4));
    assert!(enter(&connection, &kept, NOW + Duration::seconds(300)).unwrap());
    assert_eq!(read(PAGE + 1), text_of([3, 4]));
}
