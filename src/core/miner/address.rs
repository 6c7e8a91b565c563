//! Finds out under which address the miner is seen from outside, where the operator has not said it.
//!
//! No single service is believed: an address counts once two of them have named it, and it is asked for again every
//! half hour. One that has been found stays until another one is agreed on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::sleep;

use super::Miner;
use crate::core::model::subnet::is_public;
use crate::core::net::get::Getter;
use crate::core::net::http::ClientError;
use crate::core::tasks::Tasks;
use crate::core::telemetry::metrics::Loop;

/// Services that have to name the same address.
const WITNESSES: usize = 2;

/// Services that are asked at once.
const ASKED_AT_ONCE: usize = 2;

/// Time between two findings: 30 min, as the reference announces itself (sem-miner §13).
const RECHECK: Duration = Duration::from_secs(1800);

/// Time after a finding that failed.
const RETRY: Duration = Duration::from_secs(60);

/// Time for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Longest answer: an address of IPv6 with a line end, and some air.
const ANSWER_BYTES_MAX: usize = 256;

/// Reads a service's answer; an address that cannot be the public one is none, unless the chain is local.
fn read(answer: &str, is_local: bool) -> Result<IpAddr, String> {
    let text = answer.trim();
    let shown = || text.chars().take(60).collect::<String>();
    let ip: IpAddr = text
        .parse()
        .map_err(|_foreign| format!("{:?} is no address", shown()))?;
    let ip = ip.to_canonical();
    if is_local || is_public(ip) {
        Ok(ip)
    } else {
        Err(format!("{ip} is no public address"))
    }
}

/// Counts who named which address.
#[derive(Debug, Default)]
struct Votes(Vec<(IpAddr, usize)>);

impl Votes {
    /// Takes an answer; returns its address once enough have named it.
    fn add(&mut self, ip: IpAddr) -> Option<IpAddr> {
        let known = self.0.iter().position(|(named, _)| *named == ip);
        let at = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push((ip, 0));
        }
        let (_, count) = self.0.get_mut(at)?;
        *count += 1;
        (*count >= WITNESSES).then_some(ip)
    }
}

/// Starts to find out the address, unless the operator has said it.
pub(super) fn start(miner: &Arc<Miner>, tasks: &Tasks) -> Result<(), ClientError> {
    if miner.config.address.is_some() {
        return Ok(());
    }
    let getter = Getter::new(ANSWER_TIME, None)?;
    tasks.spawn("address", keep(Arc::clone(miner), getter, tasks.clone()));
    Ok(())
}

async fn keep(miner: Arc<Miner>, getter: Getter, tasks: Tasks) {
    loop {
        let found = tokio::select! {
            biased;
            () = tasks.stopped() => return,
            found = find(&miner, &getter) => found,
        };
        miner.beat(Loop::Address);
        let before = *miner.address.borrow();
        if found.is_none() {
            tracing::warn!(
                known = ?before,
                "no two services agree on the address of this miner; miner.address sets it"
            );
        } else if found != before {
            tracing::info!(ip = ?found, "address found out");
            miner.address.send_replace(found);
        }
        let pause = if found.is_some() { RECHECK } else { RETRY };
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Asks the services in their order, two at once, until two agree.
async fn find(miner: &Miner, getter: &Getter) -> Option<IpAddr> {
    let is_local = miner.config.is_local;
    let mut answers = stream::iter(miner.config.address_services.clone())
        .map(|service| {
            let getter = getter.clone();
            async move {
                let answer = getter.text(&service, ANSWER_BYTES_MAX).await;
                (service, answer)
            }
        })
        .buffered(ASKED_AT_ONCE);
    let mut votes = Votes::default();
    while let Some((service, answer)) = answers.next().await {
        let answer = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| read(&answer, is_local));
        match answer {
            Ok(ip) => {
                if let Some(agreed) = votes.add(ip) {
                    return Some(agreed);
                }
            }
            Err(error) => tracing::debug!(service, error, "a service does not tell the address"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_witness_is_none_and_liars_do_not_outvote_two() {
        let mut votes = Votes::default();
        assert_eq!(votes.add(ip("1.1.1.1")), None);
        assert_eq!(votes.add(ip("9.9.9.9")), None);
        assert_eq!(votes.add(ip("8.8.8.8")), None);
        assert_eq!(votes.add(ip("9.9.9.9")), Some(ip("9.9.9.9")));
    }

    #[test]
    fn only_a_public_address_is_believed_but_on_a_local_chain() {
        assert_eq!(read(" 1.1.1.1\n", false), Ok(ip("1.1.1.1")));
        assert_eq!(read("::ffff:1.1.1.1", false), Ok(ip("1.1.1.1")));
        for answer in [
            "10.0.0.1",
            "127.0.0.1",
            "",
            "<html>",
            "1.1.1.1, 2.2.2.2",
            "fd00::1",
        ] {
            assert!(read(answer, false).is_err(), "{answer}");
        }
        assert_eq!(read("127.0.0.9", true), Ok(ip("127.0.0.9")));
    }
}
