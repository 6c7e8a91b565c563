//! Archives that are traps.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// What the bomb unpacks to, in bytes: more than an attacking job's volume may.
const BOMB_BYTES: usize = 16 << 20;

/// The size of the pieces that it is made of, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// A name that is overwritten afterwards, since no writer makes two entries of one name.
const PLACEHOLDER: &str = "another";

/// The name that is there twice; as long as the placeholder.
const DUPLICATE: &str = "a-file-";

/// Makes the archive of an attack; none when the attack has none. `stray` is a path that must not come to be.
pub(super) fn make(attack: &str, stray: &str) -> Option<Vec<u8>> {
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let climbing = format!("{}{}", "../".repeat(16), stray.trim_start_matches('/'));
    let entries: &[(&str, &[u8])] = match attack {
        "zip-slip" => &[("fine", b"fine"), (&climbing, b"out")],
        "zip-absolute" => &[("fine", b"fine"), (stray, b"out")],
        "zip-duplicate" => &[(DUPLICATE, b"one"), (PLACEHOLDER, b"two")],
        "zip-symlink" => {
            zip.add_symlink("gate", "/tmp", stored).ok()?;
            &[("gate/horde-attack-through", b"out")]
        }
        "zip-bomb" => {
            // One piece is packed and copied as it is: the pieces of a bomb need not differ.
            let piece = make("piece", stray)?;
            for number in 0..BOMB_BYTES / PIECE_BYTES {
                let mut piece = ZipArchive::new(Cursor::new(&piece)).ok()?;
                let piece = piece.by_index_raw(0).ok()?;
                zip.raw_copy_file_rename(piece, format!("piece-{number}")).ok()?;
            }
            &[]
        }
        "piece" => {
            zip.start_file("piece", SimpleFileOptions::default()).ok()?;
            zip.write_all(&vec![0; PIECE_BYTES]).ok()?;
            &[]
        }
        _ => return None,
    };
    for (name, content) in entries {
        zip.start_file(*name, stored).ok()?;
        zip.write_all(content).ok()?;
    }
    let mut archive = zip.finish().ok()?.into_inner();
    if attack == "zip-duplicate" {
        rename(&mut archive, PLACEHOLDER.as_bytes(), DUPLICATE.as_bytes());
    }
    Some(archive)
}

/// Overwrites every occurrence of a name in headers and directory with one of the same length.
fn rename(archive: &mut [u8], from: &[u8], to: &[u8]) {
    let starts: Vec<usize> = archive
        .windows(from.len())
        .enumerate()
        .filter_map(|(at, window)| (window == from).then_some(at))
        .collect();
    for start in starts {
        if let Some(place) = archive.get_mut(start..start + from.len()) {
            place.copy_from_slice(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_archive_holds_its_trap() {
        let stray = "/tmp/horde-stray";
        let slip = make("zip-slip", stray).unwrap();
        let has = |archive: &[u8], text: &str| {
            archive
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(has(&slip, "../../tmp/horde-stray"));
        assert!(has(&make("zip-absolute", stray).unwrap(), stray));
        assert!(has(
            &make("zip-symlink", stray).unwrap(),
            "gate/horde-attack-through"
        ));
        let bomb = make("zip-bomb", stray).unwrap();
        assert!(bomb.len() < BOMB_BYTES / 500, "{}", bomb.len());
        assert!(make("memory", stray).is_none());
    }

    #[test]
    fn the_duplicate_has_one_name_twice() {
        let archive = make("zip-duplicate", "/x").unwrap();
        let name = DUPLICATE.as_bytes();
        let count = archive
            .windows(name.len())
            .filter(|window| *window == name)
            .count();
        // Twice in the entries' headers, twice in the directory.
        assert_eq!(count, 4);
    }
}
