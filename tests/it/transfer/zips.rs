//! Zips made to do harm, written byte by byte.

use std::io::Write as _;

use base64::Engine as _;
use serde_json::json;

use super::server::{Server, answer};
use super::{BYTES_MAX, Job, downloader, told};

/// An entry, with what its two records say of it.
#[derive(Clone)]
struct Entry {
    name: &'static str,
    local_name: &'static str,
    method: u16,
    local_method: u16,
    flags: u16,
    mode: u32,
    data: Vec<u8>,
    crc32: u32,
    local_crc32: u32,
    compressed: u32,
    unpacked: u32,
    local_unpacked: u32,
}

/// The checksum of `hi`.
const CRC_OF_HI: u32 = 0xd893_2aac;

fn entry(name: &'static str) -> Entry {
    Entry {
        name,
        local_name: name,
        method: 0,
        local_method: 0,
        flags: 0,
        mode: 0o100_644,
        data: b"hi".to_vec(),
        crc32: CRC_OF_HI,
        local_crc32: CRC_OF_HI,
        compressed: 2,
        unpacked: 2,
        local_unpacked: 2,
    }
}

fn local(entry: &Entry) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04\x14\x00".to_vec();
    for number in [entry.flags, entry.local_method, 0, 0x21] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [entry.local_crc32, entry.compressed, entry.local_unpacked] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(u16::try_from(entry.local_name.len()).unwrap().to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(entry.local_name.as_bytes());
    bytes.extend(&entry.data);
    bytes
}

fn central(entry: &Entry, offset: usize) -> Vec<u8> {
    let mut bytes = b"PK\x01\x02\x14\x03\x14\x00".to_vec();
    for number in [entry.flags, entry.method, 0, 0x21] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [entry.crc32, entry.compressed, entry.unpacked] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((entry.mode << 16).to_le_bytes());
    bytes.extend(u32::try_from(offset).unwrap().to_le_bytes());
    bytes.extend(entry.name.as_bytes());
    bytes
}

fn end(entries: u16, size: usize, start: usize) -> Vec<u8> {
    let mut bytes = b"PK\x05\x06\x00\x00\x00\x00".to_vec();
    bytes.extend([entries.to_le_bytes(), entries.to_le_bytes()].concat());
    for number in [size, start] {
        bytes.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    bytes.extend([0, 0]);
    bytes
}

/// Writes entries one behind the other.
fn archive(entries: &[Entry]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        directory.extend(central(entry, bytes.len()));
        bytes.extend(local(entry));
    }
    let start = bytes.len();
    bytes.extend(&directory);
    bytes.extend(end(u16::try_from(entries.len()).unwrap(), directory.len(), start));
    bytes
}

/// Unpacks by the real road; returns what is there, or the words.
async fn unpacked(bytes: &[u8]) -> Result<Vec<String>, String> {
    let server = Server::replying(vec![answer("200 OK", &[], bytes)]).await;
    let job = Job::new();
    let volume = json!({ "volume_type": "zip_url", "contents": server.url("/z") });
    match job.fetch(&downloader(), volume).await {
        Ok(()) => Ok(job.files().into_keys().collect()),
        Err(error) => {
            assert_eq!(job.files().len(), 0, "written before it was judged");
            assert!(!error.is_ours());
            Err(told(&error))
        }
    }
}

#[tokio::test]
async fn a_zip_that_contradicts_itself_is_refused_before_anything_is_written() {
    assert_eq!(
        unpacked(&archive(&[entry("a"), entry("b/c")])).await.unwrap(),
        ["a", "b/c"]
    );
    let with = |change: fn(&mut Entry)| {
        let mut spoilt = entry("b");
        change(&mut spoilt);
        archive(&[entry("a"), spoilt])
    };
    for (bytes, words) in [
        (
            with(|e| e.local_name = "c"),
            "`b` contradicts the directory in its name",
        ),
        (with(|e| e.local_method = 8), "in its compression method"),
        (with(|e| e.local_unpacked = 3), "in its unpacked size"),
        (with(|e| e.local_crc32 = 1), "in its checksum"),
        (with(|e| e.flags = 1), "needs a password"),
        (
            with(|e| (e.method, e.local_method) = (14, 14)),
            "needs compression method",
        ),
        (with(|e| e.mode = 0o120_777), "neither a file nor a folder"),
        (with(|e| e.mode = 0o020_666), "neither a file nor a folder"),
        (with(|e| e.mode = 0o060_666), "neither a file nor a folder"),
        (with(|e| e.mode = 0o010_666), "neither a file nor a folder"),
        (with(|e| (e.name, e.local_name) = ("a", "a")), "each name once"),
        (
            with(|e| (e.name, e.local_name) = ("./a", "./a")),
            "`a` occurs twice",
        ),
        (
            with(|e| (e.name, e.local_name) = ("a/", "a/")),
            "both a file and a folder",
        ),
        (
            with(|e| (e.name, e.local_name) = ("a/b", "a/b")),
            "both a file and a folder",
        ),
        (
            with(|e| (e.name, e.local_name) = ("../b", "../b")),
            "leaves its folder",
        ),
        (with(|e| (e.name, e.local_name) = ("/b", "/b")), "absolute path"),
        (
            with(|e| (e.name, e.local_name) = ("x/../../b", "x/../../b")),
            "leaves its folder",
        ),
        (
            with(|e| (e.name, e.local_name) = ("b\0", "b\0")),
            "not a plain path",
        ),
        (with(|e| e.compressed = 5000), "overlaps another"),
    ] {
        let error = unpacked(&bytes).await.unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn names_that_differ_in_case_are_two_names() {
    assert_eq!(
        unpacked(&archive(&[entry("A"), entry("a")])).await.unwrap(),
        ["A", "a"]
    );
}

#[tokio::test]
async fn content_that_is_not_what_was_announced_is_refused() {
    let mut wrong = entry("a");
    (wrong.crc32, wrong.local_crc32) = (1, 1);
    let mut longer = entry("a");
    (longer.unpacked, longer.local_unpacked) = (1, 1);
    for (spoilt, words) in [(wrong, "checksum"), (longer, "a")] {
        let server = Server::replying(vec![answer("200 OK", &[], &archive(&[spoilt]))]).await;
        let volume = json!({ "volume_type": "zip_url", "contents": server.url("/z") });
        let error = Job::new().fetch(&downloader(), volume).await.unwrap_err();
        assert!(
            told(&error).contains(words) && !error.is_ours(),
            "{}",
            told(&error)
        );
    }
}

#[tokio::test]
async fn entries_that_share_bytes_are_a_bomb() {
    // The second lies inside the first: each more level would cost a header and bring all below it once more.
    let (inner, mut outer) = (entry("inner"), entry("outer"));
    outer.data = local(&inner);
    let length = u32::try_from(outer.data.len()).unwrap();
    (outer.compressed, outer.unpacked, outer.local_unpacked) = (length, length, length);
    let mut bytes = local(&outer);
    let start = bytes.len();
    let directory = [central(&outer, 0), central(&inner, start - outer.data.len())].concat();
    bytes.extend(&directory);
    bytes.extend(end(2, directory.len(), start));
    let error = unpacked(&bytes).await.unwrap_err();
    assert!(error.contains("overlaps another"), "{error}");
    // The same bytes under two names.
    let one = entry("a");
    let mut bytes = local(&one);
    let start = bytes.len();
    let directory = [central(&one, 0), central(&Entry { name: "b", ..one }, 0)].concat();
    bytes.extend(&directory);
    bytes.extend(end(2, directory.len(), start));
    assert!(
        unpacked(&bytes).await.unwrap_err().contains("contradicts"),
        "its name is a"
    );
}

#[tokio::test]
async fn an_archive_that_unpacks_to_too_much_is_refused_by_its_announcement_and_by_its_content() {
    let mut huge = entry("zeros");
    (huge.unpacked, huge.local_unpacked) = (300 << 20, 300 << 20);
    let job = Job::new();
    let inline = |bytes: &[u8]| {
        let contents = base64::engine::general_purpose::STANDARD.encode(bytes);
        json!({ "volume_type": "inline", "contents": contents })
    };
    // Within what the operator allows, but 300 MiB out of some hundred bytes.
    let roomy = horde::core::transfer::download::Downloader::new(1 << 30, super::loopback());
    let error = job
        .fetch(&roomy, inline(&archive(&[huge.clone()])))
        .await
        .unwrap_err();
    assert!(
        told(&error).contains("more than 200 times its size"),
        "{}",
        told(&error)
    );
    // More than the operator allows.
    let error = job
        .fetch(&downloader(), inline(&archive(&[huge])))
        .await
        .unwrap_err();
    assert!(
        told(&error).contains(&format!("more than {} bytes", BYTES_MAX * 10)),
        "{}",
        told(&error)
    );
    assert_eq!(job.files().len(), 0);
    // Announced as little: nothing beyond the announcement is worth keeping, and the job hears why.
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer
        .start_file("zeros", zip::write::SimpleFileOptions::default())
        .unwrap();
    for _ in 0..11 {
        writer.write_all(&vec![0; 1_000_000]).unwrap();
    }
    let mut bytes = writer.finish().unwrap().into_inner();
    for (signature, at) in [(b"PK\x03\x04", 22), (b"PK\x01\x02", 24)] {
        let found = bytes.windows(4).position(|window| window == signature).unwrap();
        bytes[found + at..found + at + 4].copy_from_slice(&100_u32.to_le_bytes());
    }
    let error = job.fetch(&downloader(), inline(&bytes)).await.unwrap_err();
    assert!(told(&error).contains("zip"), "{}", told(&error));
    assert!(job.files().values().all(|file| file.len() <= 10_000_000));
}

#[tokio::test]
async fn an_archive_in_an_archive_is_a_file() {
    let mut inner = entry("inner.zip");
    inner.data = archive(&[entry("../escaped")]);
    let length = u32::try_from(inner.data.len()).unwrap();
    (inner.compressed, inner.unpacked, inner.local_unpacked) = (length, length, length);
    let mut checksum = flate2_crc(&inner.data);
    std::mem::swap(&mut checksum, &mut inner.crc32);
    inner.local_crc32 = inner.crc32;
    assert_eq!(unpacked(&archive(&[inner])).await.unwrap(), ["inner.zip"]);
}

/// The checksum of zips, bit by bit.
fn flate2_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

#[tokio::test]
async fn a_million_entries_are_too_many_however_they_are_announced() {
    const ENTRIES: usize = 1_000_000;
    let one = Entry {
        name: "a",
        ..entry("a")
    };
    let mut bytes = local(&one);
    let start = bytes.len();
    bytes.extend(central(&one, 0).repeat(ENTRIES));
    let size = bytes.len() - start;
    // By the large records.
    let mut large = bytes.clone();
    let at = large.len();
    large.extend(b"PK\x06\x06");
    large.extend(44_u64.to_le_bytes());
    large.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [ENTRIES, ENTRIES, size, start] {
        large.extend(u64::try_from(number).unwrap().to_le_bytes());
    }
    large.extend(b"PK\x06\x07\x00\x00\x00\x00");
    large.extend(u64::try_from(at).unwrap().to_le_bytes());
    large.extend([1, 0, 0, 0]);
    large.extend(end(u16::MAX, size, start));
    // By the small record, which cannot count so far.
    let small = [bytes, end(10, size, start)].concat();
    let roomy = horde::core::transfer::download::Downloader::new(1 << 30, super::loopback());
    for (bytes, words) in [(large, "more than 100000 entries"), (small, "each name once")] {
        let server = Server::replying(vec![answer("200 OK", &[], &bytes)]).await;
        let volume = json!({ "volume_type": "zip_url", "contents": server.url("/z") });
        let job = Job::new();
        let error = told(&job.fetch(&roomy, volume).await.unwrap_err());
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!(job.files().len(), 0);
    }
}
