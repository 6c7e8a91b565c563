//! Glob patterns as the hub's own client reads them: Python's `fnmatch`, in which `*` crosses folders.

/// The most patterns of one volume.
const PATTERNS_MAX: usize = 1000;

/// The longest pattern, in characters.
const PATTERN_CHARACTERS_MAX: usize = 1024;

/// The most comparisons that one selection may take: seconds of work, and far more than honest patterns need.
const STEPS_MAX: u64 = 500_000_000;

/// Why names cannot be selected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// More patterns than anyone needs.
    #[error("there are {got} allow_patterns, more than {PATTERNS_MAX}")]
    ManyPatterns {
        /// How many.
        got: usize,
    },
    /// A pattern is too long.
    #[error("an allow_pattern has more than {PATTERN_CHARACTERS_MAX} characters")]
    LongPattern,
    /// The patterns are made to take for ever.
    #[error("the allow_patterns take too long to compare with the repository's files")]
    Costly,
}

/// One place of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`: any characters, or none.
    Any,
    /// `?`: one character.
    One,
    /// `[…]`: one of these characters, or none of them.
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// This character.
    Exactly(char),
}

impl Token {
    fn fits(&self, character: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Exactly(wanted) => *wanted == character,
            Self::Class { is_negated, ranges } => {
                let is_in = ranges.iter().any(|(from, to)| (*from..=*to).contains(&character));
                is_in != *is_negated
            }
        }
    }
}

/// Several patterns, of which a name must fit one.
#[derive(Debug, Clone)]
pub(super) struct Globs {
    patterns: Vec<Vec<Token>>,
    steps_left: u64,
}

impl Globs {
    /// Parses patterns; one that ends in `/` means everything below that folder.
    pub(super) fn parse(patterns: &[String]) -> Result<Self, GlobError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(GlobError::ManyPatterns { got: patterns.len() });
        }
        let parse = |text: &String| {
            if text.chars().count() > PATTERN_CHARACTERS_MAX {
                return Err(GlobError::LongPattern);
            }
            let mut tokens = tokens(text);
            if text.ends_with('/') {
                tokens.push(Token::Any);
            }
            Ok(tokens)
        };
        Ok(Self {
            patterns: patterns.iter().map(parse).collect::<Result<_, _>>()?,
            steps_left: STEPS_MAX,
        })
    }

    /// Says whether a name fits one of the patterns.
    pub(super) fn matches(&mut self, name: &str) -> Result<bool, GlobError> {
        let name: Vec<char> = name.chars().collect();
        for pattern in &self.patterns {
            if fits(pattern, &name, &mut self.steps_left)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        rest = characters.as_str();
        tokens.push(match character {
            '*' => Token::Any,
            '?' => Token::One,
            '[' => match class(rest) {
                Some((class, behind)) => {
                    rest = behind;
                    class
                }
                None => Token::Exactly('['),
            },
            other => Token::Exactly(other),
        });
        characters = rest.chars();
    }
    tokens.dedup_by(|next, token| *next == Token::Any && *token == Token::Any);
    tokens
}

/// Reads what follows a `[`: the class and what is behind it, or nothing where no `]` closes it.
fn class(text: &str) -> Option<(Token, &str)> {
    let (is_negated, body) = match text.strip_prefix('!') {
        Some(body) => (true, body),
        None => (false, text),
    };
    // A `]` in the first place is one of the characters.
    let first = body.chars().next()?;
    let end = body.get(first.len_utf8()..)?.find(']')? + first.len_utf8();
    let (inside, behind) = (body.get(..end)?, body.get(end + 1..)?);
    let mut ranges = Vec::new();
    let mut characters = inside.chars().peekable();
    while let Some(from) = characters.next() {
        let mut ahead = characters.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(to)) => {
                characters = ahead;
                ranges.push((from, to));
            }
            _ => ranges.push((from, from)),
        }
    }
    Some((Token::Class { is_negated, ranges }, behind))
}

/// Compares by going back to the last `*` only, which suffices.
fn fits(pattern: &[Token], name: &[char], steps_left: &mut u64) -> Result<bool, GlobError> {
    let (mut at, mut place) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    loop {
        *steps_left = steps_left.checked_sub(1).ok_or(GlobError::Costly)?;
        match (pattern.get(at), name.get(place)) {
            (None, None) => return Ok(true),
            (Some(Token::Any), _) => {
                last_any = Some((at, place));
                at += 1;
            }
            (Some(token), Some(character)) if token.fits(*character) => {
                at += 1;
                place += 1;
            }
            _ => match &mut last_any {
                // What the `*` stands for grows by one character.
                Some((any, start)) if *start < name.len() => {
                    *start += 1;
                    (at, place) = (*any + 1, *start);
                }
                _ => return Ok(false),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Globs::parse(&[pattern.to_owned()])
            .unwrap()
            .matches(name)
            .unwrap()
    }

    #[test]
    fn patterns_mean_what_python_means_by_them() {
        for (pattern, name, wanted) in [
            ("*", "a/b.txt", true),
            ("*.json", "deep/down/x.json", true),
            ("*.json", "x.jsonl", false),
            ("data/", "data/a/b", true),
            ("data/", "data", false),
            ("a/**/b", "a/b", false),
            ("a/**/b", "a/x/b", true),
            ("?.bin", "é.bin", true),
            ("?", "", false),
            ("[abc].txt", "b.txt", true),
            ("[!abc].txt", "b.txt", false),
            ("[!abc].txt", "d.txt", true),
            ("[a-c0-9]", "7", true),
            ("[c-a]", "b", false),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[^a]", "^", true),
            ("[^a]", "b", false),
            ("[a-]", "-", true),
            ("[-a]", "-", true),
            ("[a", "[a", true),
            ("[", "[", true),
            ("[!", "[!", true),
            ("[]", "[]", true),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("a\\*", "a\\b", true),
            ("A", "a", false),
            ("", "", true),
            ("", "a", false),
            ("*a*b", "xaxbxb", true),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_must_fit_one_of_several_patterns() {
        let mut globs = Globs::parse(&["*.txt".to_owned(), "b/*".to_owned()]).unwrap();
        assert!(globs.matches("a.txt").unwrap() && globs.matches("b/c").unwrap());
        assert!(!globs.matches("c").unwrap());
        assert!(!Globs::parse(&[]).unwrap().matches("a").unwrap());
    }

    #[test]
    fn patterns_made_to_take_for_ever_are_given_up() {
        let many = vec![String::new(); PATTERNS_MAX + 1];
        assert_eq!(
            Globs::parse(&many).unwrap_err(),
            GlobError::ManyPatterns { got: 1001 }
        );
        assert_eq!(
            Globs::parse(&["a".repeat(1025)]).unwrap_err(),
            GlobError::LongPattern
        );
        let mut globs = Globs::parse(&[format!("*{}b", "a".repeat(1000))]).unwrap();
        globs.steps_left = 1_000_000;
        assert_eq!(globs.matches(&"a".repeat(4000)), Err(GlobError::Costly));
    }

    /// The meaning, written for clearness.
    fn naive(pattern: &[Token], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((Token::Any, rest)), _) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
            (Some((token, rest)), Some((first, behind))) => token.fits(*first) && naive(rest, behind),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn going_back_to_the_last_star_only_suffices(pattern in "[ab*?\\[\\]!]{0,8}", name in "[ab/]{0,8}") {
            let tokens = tokens(&pattern);
            let characters: Vec<char> = name.chars().collect();
            prop_assert_eq!(matches(&pattern, &name), naive(&tokens, &characters), "{:?}", tokens);
        }
    }
}
