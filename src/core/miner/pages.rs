//! Publishes receipts over HTTP, on the miner's own port, as the reference's nginx does from files
//! (wire-receipts-http §1).
//!
//! A request costs one look at the page, and one more per [`CHUNK_BYTES`] that its client has taken.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, VARY,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, response};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;

use super::Miner;
use crate::core::receipts::publication::{
    Answer, Asked, Decision, Published, decide, first_active_page, page_of_name,
};
use crate::core::store::StoreError;
use crate::core::store::miner::MinerStore;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Loop;

/// Bytes of a page in memory per request: what is read from the database at once. A single line may be longer.
const CHUNK_BYTES: usize = 64 * 1024;

/// Time between two looks for pages to pack: 1 min (wire-receipts-http §1).
const PACK_EVERY: Duration = Duration::from_secs(60);

/// Pages packed after one look; the rest follows at the next.
const PACKED_AT_ONCE: u32 = 50;

/// What nginx calls it in the recordings.
const LINES: &str = "text/plain";

/// Answers a request for `/receipts/<name>`.
pub(super) async fn serve(miner: &Miner, name: &str, method: &Method, headers: &HeaderMap) -> Response {
    let response = respond(miner, name, method, headers).await;
    miner.metrics.page_requested(response.status().as_u16());
    response
}

async fn respond(miner: &Miner, name: &str, method: &Method, headers: &HeaderMap) -> Response {
    let Some(page) = page_of_name(name).filter(|_| miner.publishes_receipts()) else {
        return explain(StatusCode::NOT_FOUND, None);
    };
    match answer(miner, page, method, headers).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(page, %error, "cannot publish a page of receipts");
            explain(StatusCode::INTERNAL_SERVER_ERROR, None)
        }
    }
}

async fn answer(
    miner: &Miner,
    number: i64,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, StoreError> {
    let Some(page) = miner.store.page(number).await? else {
        return Ok(explain(StatusCode::NOT_FOUND, None));
    };
    let now = miner.clock.now();
    let is_active = number >= first_active_page(now);
    let page = Published {
        bytes: page.bytes,
        gzip_bytes: page.gzip_bytes.filter(|_| !is_active),
        changed_at: page.changed_at,
    };
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let asked = Asked {
        accept_encoding: text(ACCEPT_ENCODING),
        range: text(RANGE).filter(|_| method == Method::GET),
        if_range: text(IF_RANGE),
        if_none_match: text(IF_NONE_MATCH),
        if_modified_since: text(IF_MODIFIED_SINCE),
    };
    let decision = decide(&page, &asked, now);
    let store = miner.store.clone();
    let (head, body) = match decision.answer {
        Answer::NotModified => (
            named(&decision, is_active).status(StatusCode::NOT_MODIFIED),
            Body::empty(),
        ),
        Answer::Unsatisfiable => {
            return Ok(explain(StatusCode::RANGE_NOT_SATISFIABLE, Some(page.bytes)));
        }
        Answer::Whole => (
            named(&decision, is_active)
                .header(CONTENT_TYPE, LINES)
                .header(ACCEPT_RANGES, "bytes")
                .header(CONTENT_LENGTH, page.bytes),
            Body::from_stream(plain(store, number, 0, page.bytes)),
        ),
        Answer::Packed => {
            let length = page.gzip_bytes.unwrap_or_default();
            let head = named(&decision, is_active)
                .header(CONTENT_TYPE, LINES)
                .header(CONTENT_ENCODING, "gzip")
                .header(CONTENT_LENGTH, length);
            (head, Body::from_stream(packed(store, number, length)))
        }
        Answer::Part { first, last } => {
            let end = last.saturating_add(1);
            let head = named(&decision, is_active)
                .status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_TYPE, LINES)
                .header(CONTENT_RANGE, format!("bytes {first}-{last}/{}", page.bytes))
                .header(CONTENT_LENGTH, end.saturating_sub(first));
            (head, Body::from_stream(plain(store, number, first, end)))
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        body
    };
    Ok(built(head.body(body)))
}

/// Begins an answer with what names the page's bytes.
fn named(decision: &Decision, is_active: bool) -> response::Builder {
    let mut head = Response::builder().header(ETAG, &decision.etag);
    if let Some(date) = &decision.last_modified {
        head = head.header(LAST_MODIFIED, date);
    }
    if !is_active {
        head = head.header(VARY, "Accept-Encoding");
    }
    head
}

/// Makes the page by which people are told what is wrong; `bytes` is the length of what a part was asked of.
fn explain(status: StatusCode, bytes: Option<i64>) -> Response {
    let title = match status {
        // The name of the standard has changed, that of nginx has not.
        StatusCode::RANGE_NOT_SATISFIABLE => "416 Requested Range Not Satisfiable".to_owned(),
        other => other.to_string(),
    };
    let text = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    let mut head = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "text/html");
    if let Some(bytes) = bytes {
        head = head.header(CONTENT_RANGE, format!("bytes */{bytes}"));
    }
    built(head.body(Body::from(text)))
}

fn built(response: Result<Response, axum::http::Error>) -> Response {
    response.unwrap_or_else(|error| {
        debug_assert!(false, "every header is ASCII: {error}");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Streams the bytes of a page from `first` to before `end`; the connection breaks if they cannot be read.
fn plain(
    store: MinerStore,
    page: i64,
    first: i64,
    end: i64,
) -> impl stream::Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    stream::try_unfold((store, first), move |(store, at)| async move {
        let left = end.saturating_sub(at);
        if left <= 0 {
            return Ok(None);
        }
        let mut bytes = store.page_bytes(page, at, CHUNK_BYTES).await?;
        if bytes.is_empty() {
            // Too slow a reader: the page was forgotten meanwhile.
            return Err(StoreError::Closed);
        }
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let next = at.saturating_add(i64::try_from(bytes.len()).unwrap_or(left));
        Ok(Some((Bytes::from(bytes), (store, next))))
    })
}

fn packed(
    store: MinerStore,
    page: i64,
    end: i64,
) -> impl stream::Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    stream::try_unfold((store, 0), move |(store, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let Some(bytes) = store.packed(page, at).await? else {
            return Err(StoreError::Closed);
        };
        let next = at.saturating_add(i64::try_from(bytes.len()).unwrap_or(end));
        Ok(Some((Bytes::from(bytes), (store, next))))
    })
}

/// Packs pages that nobody adds to any more, as the reference's periodic task does.
pub(super) async fn pack(miner: Arc<Miner>, tasks: Tasks) {
    let mut turns = tasks.turns(PACK_EVERY);
    while turns.next().await {
        miner.beat(Loop::Pack);
        if !miner.publishes_receipts() {
            continue;
        }
        let before = first_active_page(miner.clock.now());
        let pages = match miner.store.pages_to_pack(before, PACKED_AT_ONCE).await {
            Ok(pages) => pages,
            Err(error) => {
                tracing::warn!(%error, "cannot look for pages of receipts to pack");
                continue;
            }
        };
        for page in pages {
            if tasks.is_stopping() {
                return;
            }
            if let Err(error) = pack_one(&miner.store, page).await {
                tracing::warn!(page, %error, "cannot pack a page of receipts");
            }
        }
    }
}

/// Packs one page piece by piece, so that a large one is never in memory.
async fn pack_one(store: &MinerStore, page: i64) -> Result<(), StoreError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let (mut read, mut written) = (0_i64, 0_i64);
    loop {
        let bytes = store.page_bytes(page, read, CHUNK_BYTES).await?;
        let is_end = bytes.is_empty();
        read = read.saturating_add(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        // Memory takes everything.
        drop(encoder.write_all(&bytes));
        if is_end {
            break;
        }
        if encoder.get_ref().len() >= CHUNK_BYTES {
            written = keep_piece(store, page, written, std::mem::take(encoder.get_mut())).await?;
        }
    }
    if let Ok(rest) = encoder.finish() {
        written = keep_piece(store, page, written, rest).await?;
    }
    store.finish_packed(page, read, written).await.map(drop)
}

async fn keep_piece(store: &MinerStore, page: i64, at: i64, piece: Vec<u8>) -> Result<i64, StoreError> {
    let next = at.saturating_add(i64::try_from(piece.len()).unwrap_or(i64::MAX));
    store.keep_packed(page, at, piece).await?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use futures_util::TryStreamExt;
    use futures_util::future::join_all;
    use time::OffsetDateTime;
    use time::macros::datetime;

    use super::*;
    use crate::core::model::receipt::page_at;

    const NOW: OffsetDateTime = datetime!(2026-01-15 12:30:45 UTC);

    /// 3 MB, so that reading, packing and sending take many pieces.
    #[tokio::test]
    async fn a_large_page_is_streamed_in_pieces_and_packed_into_one_gzip_member() {
        let folder = tempfile::tempdir().unwrap();
        let store = MinerStore::open(&folder.path().join("miner.sqlite")).unwrap();
        let mut lines: Vec<String> = Vec::new();
        for number in 0..5000_u32 {
            let noise: String = (0..256)
                .map(|_| char::from(rand::random_range(b'a'..=b'f')))
                .collect();
            lines.push(format!(
                r#"{{"payload":{{"job_uuid":"00000000-0000-4000-8000-{number:012}","miner_hotkey":"m","validator_hotkey":"v","timestamp":"2026-01-15T12:30:45Z","receipt_type":"JobStartedReceipt","executor_class":"always_on.test","is_organic":true,"ttl":7}},"validator_signature":"0x{noise}","miner_signature":"0x02"}}"#
            ));
        }
        let writes = lines
            .iter()
            .map(|line| store.keep_receipt(serde_json::from_str(line).unwrap(), NOW));
        assert!(join_all(writes).await.into_iter().all(|kept| kept.unwrap()));
        let page = page_at(NOW);
        let end = store.page(page).await.unwrap().unwrap().bytes;
        let pieces: Vec<Bytes> = plain(store.clone(), page, 0, end).try_collect().await.unwrap();
        assert!(pieces.len() > 20 && pieces.iter().all(|piece| piece.len() < 2 * CHUNK_BYTES));
        let text = String::from_utf8(pieces.concat()).unwrap();
        // What is written at once arrives in any order.
        let mut found: Vec<&str> = text.lines().collect();
        found.sort_unstable();
        assert!(found == lines);
        let middle: Vec<Bytes> = plain(store.clone(), page, 777, 99_999)
            .try_collect()
            .await
            .unwrap();
        assert!(middle.concat() == text.as_bytes()[777..99_999]);

        pack_one(&store, page).await.unwrap();
        let length = store.page(page).await.unwrap().unwrap().gzip_bytes.unwrap();
        let pieces: Vec<Bytes> = packed(store, page, length).try_collect().await.unwrap();
        assert!(pieces.len() > 5);
        let mut unpacked = String::new();
        // Reads one member only, as the published fetcher does.
        GzDecoder::new(&*pieces.concat())
            .read_to_string(&mut unpacked)
            .unwrap();
        assert!(unpacked == text);
    }
}
