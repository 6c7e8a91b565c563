//! Looks at the miner from outside: HTTP and websocket, as others reach it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use super::PROBE_HOTKEY;
use crate::core::clock::Clock;
use crate::core::doctor::judge::Told;
use crate::core::net::http::{ClientOptions, Redirects, client};
use crate::core::net::ws::{self, ConnectOptions};
use crate::core::net::{Event, close_code};
use crate::core::tasks::Tasks;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest page that is read, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `Date` header.
    pub date: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Asks for a page; an answer that points elsewhere is returned as it is. Errors are words.
pub async fn get(url: &str) -> Result<Answer, String> {
    let options = ClientOptions {
        connect_timeout: PATIENCE,
        read_timeout: PATIENCE,
        total_timeout: Some(PATIENCE),
        redirects: Redirects::Refuse,
    };
    let client = client(&options).map_err(|error| chain(&error))?;
    let mut answer = client.get(url).send().await.map_err(|error| chain(&error))?;
    let status = answer.status().as_u16();
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err("the answer is too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, date, body })
}

/// Returns the first message that a miner has for the probe's hotkey. Errors are words.
pub async fn first_message(address: SocketAddr, tasks: &Tasks) -> Result<String, String> {
    let url = websocket_url(address);
    let options = ConnectOptions {
        open_timeout: PATIENCE,
        ..ConnectOptions::default()
    };
    let mut link = ws::connect(&url, &options, tasks)
        .await
        .map_err(|error| chain(&error))?;
    let first = timeout(PATIENCE, link.recv()).await;
    link.close(close_code::NORMAL, "").await;
    match first {
        Err(_) => Err(format!("no message within {} s", PATIENCE.as_secs())),
        Ok(Event::Text(text)) => Ok(text),
        Ok(Event::Binary(_)) => Err("a message that is not text".to_owned()),
        Ok(Event::Closed { code, reason }) => Err(format!("closed with {code} {reason}")),
    }
}

/// Returns where the probe connects.
pub fn websocket_url(address: SocketAddr) -> String {
    format!("ws://{address}/v0.1/validator_interface/{PROBE_HOTKEY}")
}

/// Returns where a miner that listens at `listen` is found from its own machine; none when the port is any.
pub fn front_door(listen: SocketAddr) -> Option<SocketAddr> {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    (listen.port() != 0).then(|| SocketAddr::new(ip, listen.port()))
}

/// Tells whether a miner answers there; words if not.
pub async fn is_running(address: SocketAddr) -> Result<(), String> {
    let answer = get(&format!("http://{address}/version")).await?;
    let version: Option<Value> = serde_json::from_slice(&answer.body).ok();
    match version.as_ref().and_then(|version| version.get("miner_version")) {
        Some(_) => Ok(()),
        None => Err(format!("another program answers at {address}")),
    }
}

/// Asks a web server for the time.
pub async fn ask_time(url: &str, clock: &Clock) -> Result<Told, String> {
    let before = clock.now();
    let answer = get(url).await.map_err(|why| format!("{url}: {why}"))?;
    let after = clock.now();
    let date = answer.date.ok_or_else(|| format!("{url} tells no time"))?;
    // HTTP writes the zone of RFC 2822's ancestors.
    let date = OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822)
        .map_err(|_| format!("{url} tells a time that cannot be read: {date:?}"))?;
    let road = after - before;
    // The header has whole seconds, cut off.
    let theirs = date + time::Duration::milliseconds(500);
    let half: time::Duration = road / 2;
    Ok(Told {
        source: url.to_owned(),
        ahead: before + half - theirs,
        exact_to: Duration::from_millis(500) + half.unsigned_abs(),
    })
}

/// Returns an error with its sources, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
