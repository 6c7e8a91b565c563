//! Versions as programs and distributions write them: read without ever failing loudly, compared by their rules.

use std::cmp::Ordering;
use std::fmt;

/// The longest text that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// The most numbers of a version that count.
const NUMBERS_MAX: usize = 6;

/// Marks of versions before the release that they are named after, oldest first.
const EARLY_MARKS: [&str; 5] = ["dev", "alpha", "beta", "pre", "rc"];

/// A version of a program, such as `1.2.8`, `1.4.0-rc.3` or `580.95.05`.
///
/// What distributions put behind it (`+ds1`, `-0ubuntu2`) does not count here; see [`Revision`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: Vec<u64>,
    /// What it comes before: the mark's place in [`EARLY_MARKS`] and its number.
    early: Option<(usize, u64)>,
    text: String,
}

impl Version {
    /// Reads the version that a text begins with; none when it does not begin with at least two numbers.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut rest = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = Vec::new();
        loop {
            let (digits, behind) = split_digits(rest);
            numbers.push(digits.parse().ok()?);
            rest = behind;
            let next = rest.strip_prefix('.').filter(|next| next.starts_with(is_digit));
            match next {
                Some(next) if numbers.len() < NUMBERS_MAX => rest = next,
                Some(_) | None => break,
            }
        }
        (numbers.len() >= 2).then(|| Self {
            numbers,
            early: early(rest),
            text: text.to_owned(),
        })
    }

    /// Returns the first `parts` numbers: what releases with the same fixes share.
    pub fn branch(&self, parts: usize) -> Vec<u64> {
        (0..parts).map(|at| self.number(at)).collect()
    }

    fn number(&self, at: usize) -> u64 {
        self.numbers.get(at).copied().unwrap_or(0)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_number = (0..NUMBERS_MAX)
            .map(|at| self.number(at).cmp(&other.number(at)))
            .find(|order| order.is_ne());
        by_number.unwrap_or_else(|| match (self.early, other.early) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(mine), Some(theirs)) => mine.cmp(&theirs),
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Reads `-rc.3`, `~rc93+ds1`, `-beta1`: a mark of a version before its release.
fn early(rest: &str) -> Option<(usize, u64)> {
    let rest = rest.strip_prefix(['-', '~'])?;
    EARLY_MARKS.iter().enumerate().find_map(|(rank, mark)| {
        let behind = rest.strip_prefix(mark)?;
        let (digits, _) = split_digits(behind.strip_prefix(['.', '-']).unwrap_or(behind));
        Some((rank, digits.parse().unwrap_or(0)))
    })
}

/// A version of a Debian or Ubuntu package, such as `1.6.20~ds1-1+deb12u2`, compared as `dpkg` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision<'a> {
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Revision<'a> {
    /// Reads a package's version; none for a text without a revision, such as a commit.
    pub fn read(text: &'a str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX || !text.starts_with(is_digit) {
            return None;
        }
        let (upstream, revision) = text.rsplit_once('-')?;
        Some(Self { upstream, revision })
    }

    /// Returns whether both are packages of the same program's version, and this one is not older.
    pub fn is_at_least(&self, other: &Self) -> bool {
        self.upstream == other.upstream && compare(self.revision, other.revision).is_ge()
    }
}

/// Compares as the Debian policy manual tells (§5.6.12): text and numbers in turn; `~` sorts before everything, even
/// the end, letters before other signs.
fn compare(mut left: &str, mut right: &str) -> Ordering {
    loop {
        let (left_text, left_rest) = split_text(left);
        let (right_text, right_rest) = split_text(right);
        let order = weights(left_text).cmp(weights(right_text));
        let (left_digits, left_rest) = split_digits(left_rest);
        let (right_digits, right_rest) = split_digits(right_rest);
        let number = |digits: &str| digits.parse::<u128>().unwrap_or(0);
        let order = order.then_with(|| number(left_digits).cmp(&number(right_digits)));
        if order.is_ne() || (left_rest.is_empty() && right_rest.is_empty()) {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
}

/// Returns the weights of a text without digits, closed by that of its end.
fn weights(text: &str) -> impl Iterator<Item = i32> + '_ {
    let weight = |sign: char| match sign {
        '~' => -1,
        letter if letter.is_ascii_alphabetic() => i32::try_from(u32::from(letter)).unwrap_or(0),
        // Above all letters.
        other => i32::try_from(u32::from(other)).unwrap_or(0).saturating_add(256),
    };
    text.chars().map(weight).chain([0])
}

fn is_digit(sign: char) -> bool {
    sign.is_ascii_digit()
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|sign| !is_digit(sign)).unwrap_or(text.len()))
}

fn split_text(text: &str) -> (&str, &str) {
    text.split_at(text.find(is_digit).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        Version::read(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn versions_are_ordered_as_their_projects_number_them() {
        for (lower, higher) in [
            ("1.1.5+ds1", "1.1.12"),
            ("1.4.0-rc.2", "1.4.0-rc.3"),
            ("1.4.0-rc.3", "1.4.0"),
            ("1.0.0~rc93+ds1", "1.0.0"),
            ("1.0.0-rc9", "1.0.0-rc10"),
            ("1.0-beta1", "1.0-rc1"),
            ("535.261.03", "535.274.02"),
            ("5.17-rc3", "5.17"),
            ("v1.7.9", "1.7.29"),
            ("20.10.9", "20.10.14"),
        ] {
            assert!(version(lower) < version(higher), "{lower} {higher}");
        }
        assert_eq!(version("6.1").cmp(&version("6.1.0-13-amd64")), Ordering::Equal);
        assert_eq!(
            version("1.1.12-0ubuntu2.1").cmp(&version("1.1.12")),
            Ordering::Equal
        );
    }

    #[test]
    fn what_is_no_version_is_not_read_as_one() {
        for text in [
            "",
            "n/a",
            "d8d3bc2ff4",
            "7",
            "v",
            "unknown",
            "1",
            "1.x",
            "99999999999999999999.1",
            &"1.".repeat(400),
        ] {
            assert_eq!(Version::read(text), None, "{text}");
        }
    }

    #[test]
    fn package_revisions_are_ordered_as_dpkg_does() {
        let at_least = |left: &str, right: &str| {
            Revision::read(left)
                .unwrap()
                .is_at_least(&Revision::read(right).unwrap())
        };
        assert!(at_least("1.6.20~ds1-1+deb12u3", "1.6.20~ds1-1+deb12u2"));
        assert!(at_least("1.6.20~ds1-1+deb12u10", "1.6.20~ds1-1+deb12u2"));
        assert!(!at_least("1.6.20~ds1-1+deb12u1", "1.6.20~ds1-1+deb12u2"));
        assert!(!at_least("1.6.20~ds1-1", "1.6.20~ds1-1+deb12u2"));
        // A backport of another version says nothing.
        assert!(!at_least("1.7.1~ds1-1+deb13u9", "1.6.20~ds1-1+deb12u2"));
        assert!(at_least("1.2-1", "1.2-1~bpo12+1"));
        assert_eq!(Revision::read("5d6db84"), None);
        assert_eq!(Revision::read("abc-1"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_looked_at(left in ".*", right in "[0-9a-z.~+-]*") {
            prop_assert!(Version::read(&left).is_none_or(|version| version.branch(2).len() == 2));
            if let (Some(left), Some(right)) = (Revision::read(&left), Revision::read(&right)) {
                let _: bool = left.is_at_least(&right);
            }
            prop_assert_eq!(compare(&left, &left), Ordering::Equal);
            prop_assert_eq!(compare(&left, &right), compare(&right, &left).reverse());
        }
    }
}
