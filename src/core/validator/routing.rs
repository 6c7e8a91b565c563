//! Which miner gets a job: a weighted shuffle of all that could take it, then the first that is free. Pure.
//!
//! After sem-organic-jobs §6, steps 6 to 8. Allowance and collateral are not asked for yet; busy executors are
//! counted from the validator's own running jobs.

use std::fmt;

use crate::core::model::Hotkey;
use crate::core::model::subnet::Axon;

/// Reliability at which a miner is half as likely to come early as a perfect one (soft cut-off -50, halved).
const CENTER: f64 = -25.0;

/// Steepness of the curve around [`CENTER`]: separation 5 over 25.
const STEEPNESS: f64 = 0.2;

/// Bound of the curve's exponent, against overflow.
const EXPONENT_MAX: f64 = 500.0;

/// The least weight, so that nobody is shut out for ever.
const WEIGHT_MIN: f64 = 1e-6;

/// A miner that might take the job.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The miner.
    pub hotkey: Hotkey,
    /// Where it can be reached.
    pub axon: Axon,
    /// Executors of the class that it offers; none if its manifest is not known.
    pub offered: Option<i64>,
    /// Executors of the class that it has busy with our jobs.
    pub busy: i64,
    /// Jobs of the class that it failed in the last 24 hours.
    pub incidents: i64,
    /// Whether it declined a job of the class as busy a moment ago: it comes after all others.
    pub declined: bool,
    /// Whether it is to get no jobs.
    pub blacklisted: bool,
}

/// Why a miner was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It has not said what it offers.
    Unknown,
    /// It offers nothing of the class.
    NotOffered,
    /// All it offers is taken.
    Busy,
    /// It has cheated.
    Blacklisted,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no manifest",
            Self::NotOffered => "class not offered",
            Self::Busy => "busy",
            Self::Blacklisted => "blacklisted",
        })
    }
}

/// The result of routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The miner that gets the job.
    pub picked: Option<Candidate>,
    /// Those that came before it and were passed over; all of them if none was picked.
    pub skipped: Vec<(Hotkey, Skip)>,
}

/// Picks a miner; `draw` returns numbers that are evenly spread over 0..1.
pub fn choose(candidates: Vec<Candidate>, mut draw: impl FnMut() -> f64) -> Choice {
    let mut skipped = Vec::new();
    for candidate in shuffle(candidates, &mut draw) {
        let skip = match candidate.offered {
            _ if candidate.blacklisted => Skip::Blacklisted,
            None => Skip::Unknown,
            Some(..=0) => Skip::NotOffered,
            Some(offered) if candidate.busy >= offered => Skip::Busy,
            Some(_) => {
                return Choice {
                    picked: Some(candidate),
                    skipped,
                };
            }
        };
        skipped.push((candidate.hotkey, skip));
    }
    Choice {
        picked: None,
        skipped,
    }
}

/// Draws all candidates without replacement, each with a probability proportional to its weight.
fn shuffle(candidates: Vec<Candidate>, draw: &mut impl FnMut() -> f64) -> Vec<Candidate> {
    // The smallest of exponential waiting times with these rates is the first draw, the next the second, and so on.
    let mut waiting: Vec<_> = candidates
        .into_iter()
        .map(|candidate| {
            let even = draw().clamp(f64::MIN_POSITIVE, 1.0);
            (-even.ln() / weight(reliability(&candidate)), candidate)
        })
        .collect();
    waiting.sort_by(|(a, first), (b, second)| first.declined.cmp(&second.declined).then(a.total_cmp(b)));
    waiting.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Returns how reliable a miner is: 0 is perfect, every failed job per executor takes 1.
fn reliability(candidate: &Candidate) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of jobs and executors")]
    let per_executor = candidate.incidents as f64 / candidate.offered.unwrap_or(1).max(1) as f64;
    -per_executor
}

/// Returns the weight of a reliability, before it is normalised.
fn weight(reliability: f64) -> f64 {
    let exponent = (-STEEPNESS * (reliability - CENTER)).clamp(-EXPONENT_MAX, EXPONENT_MAX);
    (1.0 / (1.0 + exponent.exp())).max(WEIGHT_MIN)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn candidate(hotkey: &str) -> Candidate {
        Candidate {
            hotkey: Hotkey::from(hotkey),
            axon: Axon {
                ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 1,
            },
            offered: Some(1),
            busy: 0,
            incidents: 0,
            declined: false,
            blacklisted: false,
        }
    }

    fn picked(choice: &Choice) -> Option<&str> {
        choice.picked.as_ref().map(|candidate| candidate.hotkey.as_str())
    }

    #[test]
    fn weights_are_those_of_the_reference() {
        for (reliability, expected) in [
            (0.0, 0.993_307),
            (-1.0, 0.991_837),
            (-10.0, 0.952_574),
            (-25.0, 0.5),
            (-50.0, 0.006_693),
        ] {
            assert!((weight(reliability) - expected).abs() < 1e-6, "{reliability}");
        }
        assert!((weight(-1e9) - WEIGHT_MIN).abs() < f64::EPSILON);
    }

    #[test]
    fn those_that_cannot_take_the_job_are_passed_over_with_the_reason() {
        let candidates = vec![
            Candidate {
                offered: None,
                ..candidate("silent")
            },
            Candidate {
                offered: Some(0),
                ..candidate("without")
            },
            Candidate {
                busy: 1,
                ..candidate("busy")
            },
            Candidate {
                blacklisted: true,
                ..candidate("cheater")
            },
        ];
        let choice = choose(candidates.clone(), || 0.5);
        assert_eq!(choice.picked, None);
        let skips: Vec<_> = choice
            .skipped
            .iter()
            .map(|(hotkey, skip)| (hotkey.as_str(), *skip))
            .collect();
        assert_eq!(
            skips,
            [
                ("silent", Skip::Unknown),
                ("without", Skip::NotOffered),
                ("busy", Skip::Busy),
                ("cheater", Skip::Blacklisted)
            ]
        );

        let with_free = [
            candidates,
            vec![Candidate {
                offered: Some(2),
                busy: 1,
                ..candidate("free")
            }],
        ]
        .concat();
        assert_eq!(picked(&choose(with_free, || 0.5)), Some("free"));
    }

    #[test]
    fn nobody_at_all_is_no_choice() {
        assert_eq!(
            choose(Vec::new(), || 0.5),
            Choice {
                picked: None,
                skipped: Vec::new()
            }
        );
    }

    #[test]
    fn one_that_declined_a_moment_ago_comes_last() {
        let candidates = || {
            vec![
                Candidate {
                    declined: true,
                    ..candidate("declined")
                },
                candidate("other"),
            ]
        };
        for seed in 1..10 {
            let mut draws = [f64::from(seed) / 10.0, 0.01].into_iter();
            assert_eq!(
                picked(&choose(candidates(), || draws.next().unwrap())),
                Some("other")
            );
        }
    }

    #[test]
    fn unreliable_miners_are_drawn_less_often_but_are_drawn() {
        // Every pair of a hundred evenly spread draws each.
        let mut bad_first = 0;
        for pair in 0..10_000 {
            let mut draws = [pair / 100, pair % 100]
                .map(|step| (f64::from(step) + 0.5) / 100.0)
                .into_iter();
            let bad = Candidate {
                incidents: 25,
                ..candidate("bad")
            };
            let choice = choose(vec![candidate("good"), bad], || draws.next().unwrap());
            bad_first += i32::from(picked(&choice) == Some("bad"));
        }
        // 0.5 / (0.5 + 0.993)
        assert!((3_250..3_450).contains(&bad_first), "{bad_first}");
    }
}
