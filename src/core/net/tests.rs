//! Links over memory and over loopback sockets, with peers that misbehave.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::ws::{ConnectError, ConnectOptions, Limits, Upgrade, accept, connect, pair, pause_after};
use super::*;
use crate::core::tasks::Tasks;

fn closed(code: u16, reason: &str) -> Event {
    Event::Closed {
        code,
        reason: reason.to_owned(),
    }
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

/// Limits under which a test of silence takes milliseconds.
fn impatient() -> Limits {
    Limits {
        ping_every: Duration::from_millis(50),
        pong_within: Duration::from_millis(200),
        ..Limits::default()
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap()
}

/// A server whose links come out of a channel, with its address.
struct Server {
    tasks: Tasks,
    address: SocketAddr,
    links: mpsc::Receiver<(Link, HeaderMap, SocketAddr)>,
}

type Guests = (mpsc::Sender<(Link, HeaderMap, SocketAddr)>, Tasks, Limits);

async fn welcome(
    State((links, tasks, limits)): State<Guests>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let upgrade = upgrade.agreeing(&Extensions::of(&["known", "both"]));
    accept(upgrade, limits, &tasks, move |link| async move {
        links.send((link, headers, peer)).await.unwrap();
    })
}

async fn server(limits: Limits) -> Server {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, links) = mpsc::channel(4);
    let router = Router::new()
        .route("/link", get(welcome))
        .route("/slow", get(|| async { sleep(Duration::from_millis(300)).await }))
        .with_state((sender, tasks.clone(), limits));
    let family = tasks.clone();
    tasks.spawn(
        "server",
        async move { http::serve(listener, router, &family).await },
    );
    Server {
        tasks,
        address,
        links,
    }
}

impl Server {
    fn url(&self) -> String {
        format!("ws://{}/link", self.address)
    }

    async fn joined(&mut self, options: &ConnectOptions) -> (Link, Link) {
        let client = connect(&self.url(), options, &self.tasks).await.unwrap();
        let (server, _, _) = in_time(self.links.recv()).await.unwrap();
        (server, client)
    }
}

#[tokio::test]
async fn texts_travel_both_ways_in_order_and_the_close_code_arrives() {
    let tasks = Tasks::new();
    let (mut server, mut client) = pair(&tasks, &Limits::default()).await;
    for number in 0..200 {
        client.send(format!("{number}")).await.unwrap();
        server.send("żółć 😀").await.unwrap();
        assert_eq!(server.recv().await, text(&number.to_string()));
        assert_eq!(client.recv().await, text("żółć 😀"));
    }
    client.send("last").await.unwrap();
    client.close(3000, "enough").await;
    assert_eq!(in_time(server.recv()).await, text("last"));
    assert_eq!(in_time(server.recv()).await, closed(3000, "enough"));
    assert_eq!(in_time(client.recv()).await, closed(3000, "enough"));
    // The end stays the end.
    assert_eq!(client.recv().await, closed(3000, "enough"));
    let refused = LinkClosed {
        code: 3000,
        reason: "enough".to_owned(),
    };
    assert_eq!(client.send("more").await, Err(refused.clone()));
    assert_eq!(in_time(server.sender().closed()).await, refused);
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_dropped_link_writes_what_is_queued_and_closes_normally() {
    let tasks = Tasks::new();
    let (mut server, client) = pair(&tasks, &Limits::default()).await;
    for _ in 0..50 {
        client.send("queued").await.unwrap();
    }
    drop(client);
    for _ in 0..50 {
        assert_eq!(in_time(server.recv()).await, text("queued"));
    }
    assert_eq!(in_time(server.recv()).await, closed(1000, ""));
}

#[tokio::test]
async fn a_link_that_nobody_listens_to_is_closed() {
    let tasks = Tasks::new();
    let (mut server, client) = pair(&tasks, &Limits::default()).await;
    let (sender, receiver) = client.split();
    sender.send("before").await.unwrap();
    drop(receiver);
    assert_eq!(in_time(server.recv()).await, text("before"));
    assert_eq!(in_time(server.recv()).await, closed(1000, ""));
    in_time(sender.closed()).await;
    sender.send("after").await.unwrap_err();
}

#[tokio::test]
async fn a_long_close_reason_is_cut_to_what_the_protocol_carries() {
    let tasks = Tasks::new();
    let (mut server, client) = pair(&tasks, &Limits::default()).await;
    client.close(1000, "ż".repeat(100)).await;
    assert_eq!(in_time(server.recv()).await, closed(1000, &"ż".repeat(61)));
}

#[tokio::test]
async fn a_message_at_the_limit_passes_and_one_byte_more_closes_with_1009() {
    const LIMIT: usize = 1024 * 1024;
    let limits = Limits {
        frame_bytes_max: LIMIT,
        ..Limits::default()
    };
    let mut house = server(limits).await;
    let (mut server, mut client) = house.joined(&ConnectOptions::default()).await;
    let largest = "x".repeat(LIMIT);
    client.send(largest.clone()).await.unwrap();
    assert_eq!(in_time(server.recv()).await, Event::Text(largest.clone()));
    client.send(largest + "x").await.unwrap();
    for link in [&mut server, &mut client] {
        let Event::Closed { code, reason } = in_time(link.recv()).await else {
            panic!("not closed");
        };
        assert_eq!(code, close_code::TOO_BIG, "{reason}");
    }
}

#[tokio::test]
async fn a_much_too_large_message_closes_with_1009_although_the_peer_is_still_sending() {
    let mut house = server(Limits {
        frame_bytes_max: 1024,
        ..Limits::default()
    })
    .await;
    let (mut server, mut client) = house.joined(&ConnectOptions::default()).await;
    client.send("x".repeat(20 * 1024 * 1024)).await.unwrap();
    assert!(matches!(
        in_time(server.recv()).await,
        Event::Closed { code: 1009, .. }
    ));
    let end = in_time(client.recv()).await;
    assert!(matches!(end, Event::Closed { code: 1009, .. }), "{end:?}");
}

#[tokio::test]
async fn a_message_larger_than_the_queue_passes_alone() {
    let mut house = server(Limits::default()).await;
    let (mut server, client) = house.joined(&ConnectOptions::default()).await;
    let large = "x".repeat(QUEUE_BYTES * 2);
    client.send("small").await.unwrap();
    client.send(large.clone()).await.unwrap();
    client.send("small").await.unwrap();
    assert_eq!(in_time(server.recv()).await, text("small"));
    assert_eq!(in_time(server.recv()).await, Event::Text(large));
    assert_eq!(in_time(server.recv()).await, text("small"));
}

#[tokio::test]
async fn a_slow_owner_slows_the_peer_down_and_is_not_taken_for_dead() {
    let mut house = server(impatient()).await;
    let (mut server, client) = house.joined(&ConnectOptions::default()).await;
    // Much more than both queues and the sockets between them hold.
    let count = 600;
    let sender = client.sender();
    let sending = async {
        for number in 0..count {
            sender.send(format!("{number:0>65000}")).await.unwrap();
        }
    };
    let receiving = async {
        // Several times longer than the silence that an idle link allows.
        sleep(Duration::from_millis(900)).await;
        for number in 0..count {
            assert_eq!(server.recv().await, Event::Text(format!("{number:0>65000}")));
        }
    };
    in_time(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn what_both_sides_know_is_agreed_on_and_nothing_without_an_offer() {
    let mut server = server(Limits::default()).await;
    for (offer, agreed) in [
        (&["both", "other"][..], &["both"][..]),
        (&["other"], &[]),
        (&[], &[]),
    ] {
        let options = ConnectOptions {
            extensions: Extensions::of(offer),
            ..ConnectOptions::default()
        };
        let client = connect(&server.url(), &options, &server.tasks).await.unwrap();
        let (link, headers, _) = in_time(server.links.recv()).await.unwrap();
        let agreed = Extensions::of(agreed);
        assert_eq!((client.extensions(), link.extensions()), (&agreed, &agreed));
        assert_eq!(headers.contains_key(extensions::HEADER), !offer.is_empty());
    }
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_changes_nothing() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let pushy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(request.split_at(length).0);
        assert!(!request.to_lowercase().contains(extensions::HEADER), "{request}");
        let mut lines = request.lines().filter_map(|line| line.split_once(": "));
        let (_, key) = lines
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            .unwrap();
        let key = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {key}\r\n{}: output\r\n\r\n",
            extensions::HEADER
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    };
    let options = ConnectOptions::default();
    let (link, _server) = tokio::join!(connect(&url, &options, &tasks), pushy);
    assert_eq!(link.unwrap().extensions(), &Extensions::default());
}

#[tokio::test]
async fn a_peer_that_answers_pings_stays_and_one_that_does_not_is_noticed() {
    let tasks = Tasks::new();
    let (mut server, client) = pair(&tasks, &impatient()).await;
    timeout(Duration::from_millis(600), server.recv())
        .await
        .unwrap_err();
    client.send("still here").await.unwrap();
    assert_eq!(in_time(server.recv()).await, text("still here"));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let options = ConnectOptions {
        limits: impatient(),
        ..ConnectOptions::default()
    };
    let mute = async {
        let (stream, _) = listener.accept().await.unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    };
    let (link, _mute) = tokio::join!(connect(&url, &options, &tasks), mute);
    let begun = Instant::now();
    assert_eq!(
        in_time(link.unwrap().recv()).await,
        closed(1011, "keepalive ping timeout")
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_large_message_over_a_slow_line_is_no_silence() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let options = ConnectOptions {
        limits: impatient(),
        ..ConnectOptions::default()
    };
    let drip = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_tungstenite::accept_async(stream)
            .await
            .unwrap()
            .into_inner();
        // The head of an unmasked text frame of 60 bytes, then one byte at a time, and never a pong.
        stream.write_all(&[0x81, 60]).await.unwrap();
        for _ in 0..60 {
            sleep(Duration::from_millis(15)).await;
            stream.write_all(b"x").await.unwrap();
        }
        stream
    };
    let reading = async {
        let mut link = connect(&url, &options, &tasks).await.unwrap();
        assert_eq!(in_time(link.recv()).await, Event::Text("x".repeat(60)));
    };
    tokio::join!(drip, reading);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_given_up() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let options = ConnectOptions {
        limits: impatient(),
        ..ConnectOptions::default()
    };
    let deaf = async {
        let (stream, _) = listener.accept().await.unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    };
    let (link, _deaf) = tokio::join!(connect(&url, &options, &tasks), deaf);
    let link = link.unwrap();
    let end = in_time(async {
        loop {
            if let Err(end) = link.send("x".repeat(1_000_000)).await {
                break end;
            }
        }
    });
    assert_eq!(end.await.reason, "the peer reads nothing");
}

#[tokio::test]
async fn a_connection_cut_without_a_word_is_1006() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let rude = async {
        let (stream, _) = listener.accept().await.unwrap();
        drop(tokio_tungstenite::accept_async(stream).await.unwrap());
    };
    let options = ConnectOptions::default();
    let (link, ()) = tokio::join!(connect(&url, &options, &tasks), rude);
    let end = in_time(link.unwrap().recv()).await;
    assert!(
        matches!(
            end,
            Event::Closed {
                code: close_code::ABNORMAL,
                ..
            }
        ),
        "{end:?}"
    );
}

#[tokio::test]
async fn binary_messages_are_handed_on_and_broken_framing_closes() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;
    let mut house = server(Limits::default()).await;
    let stream = TcpStream::connect(house.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(house.url(), stream)
        .await
        .unwrap();
    let (mut link, _, _) = in_time(house.links.recv()).await.unwrap();
    socket.send(Message::Binary(vec![1, 2, 3].into())).await.unwrap();
    assert_eq!(in_time(link.recv()).await, Event::Binary(vec![1, 2, 3]));
    // A text frame whose mask bit is missing, and an unknown opcode.
    socket.get_mut().write_all(&[0x83, 0x01, b'x']).await.unwrap();
    let end = in_time(link.recv()).await;
    assert!(
        matches!(
            end,
            Event::Closed {
                code: close_code::PROTOCOL,
                ..
            }
        ),
        "{end:?}"
    );
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_with_1007() {
    let mut house = server(Limits::default()).await;
    let stream = TcpStream::connect(house.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(house.url(), stream)
        .await
        .unwrap();
    let (mut link, _, _) = in_time(house.links.recv()).await.unwrap();
    // Final text frame, masked with zeros, of the byte ff.
    socket
        .get_mut()
        .write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff])
        .await
        .unwrap();
    assert_eq!(in_time(link.recv()).await, closed(1007, "text is not UTF-8"));
}

#[tokio::test]
async fn a_cancelled_recv_loses_nothing() {
    let tasks = Tasks::new();
    let (mut server, client) = pair(&tasks, &Limits::default()).await;
    let sender = client.sender();
    let sending = async {
        for number in 0..500 {
            sender.send(number.to_string()).await.unwrap();
            if number % 10 == 0 {
                sleep(Duration::from_micros(300)).await;
            }
        }
    };
    let receiving = async {
        let mut expected = 0;
        while expected < 500 {
            if let Ok(event) = timeout(Duration::from_micros(100), server.recv()).await {
                assert_eq!(event, text(&expected.to_string()));
                expected += 1;
            }
        }
    };
    in_time(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn headers_and_the_address_of_the_client_reach_the_handler() {
    let mut house = server(Limits::default()).await;
    let options = ConnectOptions {
        headers: vec![("X-Validator-Version".to_owned(), "1.2".to_owned())],
        ..ConnectOptions::default()
    };
    let _client = connect(&house.url(), &options, &house.tasks).await.unwrap();
    let (_link, headers, peer) = in_time(house.links.recv()).await.unwrap();
    assert_eq!(headers["x-validator-version"], "1.2");
    assert!(peer.ip().is_loopback());
}

#[tokio::test]
async fn why_a_connection_failed_is_told_apart() {
    let tasks = Tasks::new();
    let house = server(Limits::default()).await;
    let options = ConnectOptions {
        open_timeout: Duration::from_millis(200),
        ..ConnectOptions::default()
    };
    for url in [
        "",
        "/link",
        "http://127.0.0.1/",
        "ws://",
        "ws://a b/",
        "ws://127.0.0.1:99999/",
    ] {
        let error = connect(url, &options, &tasks).await.unwrap_err();
        assert!(
            matches!(error, ConnectError::BadUrl { .. }) && error.is_lasting(),
            "{url}: {error:?}"
        );
    }
    let bad = ConnectOptions {
        headers: vec![("a\n".into(), "b".into())],
        ..options.clone()
    };
    let error = connect(&house.url(), &bad, &tasks).await.unwrap_err();
    assert!(matches!(error, ConnectError::BadHeader { .. }), "{error:?}");

    let elsewhere = format!("ws://{}/nowhere", house.address);
    let error = connect(&elsewhere, &options, &tasks).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Refused { status: 404, .. }),
        "{error:?}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let error = connect(&url, &options, &tasks).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    drop(listener);
    let error = connect(&url, &options, &tasks).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Unreachable { .. }) && !error.is_lasting(),
        "{error:?}"
    );
}

#[test]
fn pauses_between_attempts_are_those_of_the_reference() {
    let seconds = [1, 2, 3, 4, 5].map(|attempt| pause_after(attempt, 0.0).as_secs());
    assert_eq!(seconds, [2, 4, 8, 16, 32]);
    assert_eq!(pause_after(1, 0.5), Duration::from_millis(2500));
    assert_eq!(pause_after(u32::MAX, -1.0), Duration::from_secs(32));
}

/// Sends raw bytes and returns everything that comes back until the server closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_plain_request_for_a_link_is_told_what_to_do() {
    let house = server(Limits::default()).await;
    let plain = "GET /link HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = raw(house.address, plain).await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    let old = "GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: x\r\n\r\n";
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    stream.write_all(old.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    in_time(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 426");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let house = server(Limits::default()).await;
    let request = format!(
        "GET /slow HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(2 * http::HEADER_BYTES_MAX)
    );
    let answer = raw(house.address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_stopping_server_finishes_the_request_in_progress_and_takes_no_more() {
    let house = server(Limits::default()).await;
    let request = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
    let address = house.address;
    let asking = raw(address, request);
    let stopping = async {
        sleep(Duration::from_millis(100)).await;
        house.tasks.shut_down(Duration::from_secs(5)).await
    };
    let (answer, in_order) = tokio::join!(asking, stopping);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(in_order);
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn a_client_follows_redirects_only_where_told() {
    use axum::response::Redirect;
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/from", get(|| async { Redirect::to("/to") }))
        .route("/to", get(|| async { "here" }));
    let family = tasks.clone();
    tasks.spawn(
        "server",
        async move { http::serve(listener, router, &family).await },
    );
    let url = format!("http://{address}/from");
    let follows = http::client(&http::ClientOptions::default()).unwrap();
    assert_eq!(
        follows.get(&url).send().await.unwrap().text().await.unwrap(),
        "here"
    );
    let options = http::ClientOptions {
        redirects: http::Redirects::Refuse,
        ..Default::default()
    };
    let stays = http::client(&options).unwrap();
    assert_eq!(stays.get(&url).send().await.unwrap().status(), 303);
}

/// A server with few places.
async fn small_server(limits: Limits, places: guests::Places) -> Server {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, links) = mpsc::channel(4);
    let router = Router::new()
        .route("/link", get(welcome))
        .with_state((sender, tasks.clone(), limits));
    let family = tasks.clone();
    tasks.spawn("server", async move {
        http::serve_at_most(listener, router, &family, places, None).await;
    });
    Server {
        tasks,
        address,
        links,
    }
}

const ONE_OF_EACH: guests::Places = guests::Places {
    trusted_max: 1,
    strangers_max: 1,
    strangers_per_address_max: 1,
};

#[tokio::test]
async fn a_strangers_link_gives_way_to_a_newcomer_and_a_trusted_one_does_not() {
    let mut house = small_server(Limits::default(), ONE_OF_EACH).await;
    let (mut pushed, mut client) = house.joined(&ConnectOptions::default()).await;
    let (mut trusted, friend) = house.joined(&ConnectOptions::default()).await;
    assert!(matches!(
        in_time(pushed.recv()).await,
        Event::Closed { code: 1006, .. }
    ));
    assert!(matches!(
        in_time(client.recv()).await,
        Event::Closed { code: 1006, .. }
    ));
    assert!(!pushed.trust(), "it has gone");
    assert!(trusted.trust());
    let (late, mut latest) = house.joined(&ConnectOptions::default()).await;
    assert!(!late.trust(), "the only such place is taken");
    late.close(1013, "full").await;
    assert_eq!(in_time(latest.recv()).await, closed(1013, "full"));
    // It is where it was.
    friend.send("still here").await.unwrap();
    assert_eq!(in_time(trusted.recv()).await, text("still here"));
    drop(friend);
    assert!(matches!(in_time(trusted.recv()).await, Event::Closed { .. }));
    drop(trusted);
    // The place is free again.
    let started = Instant::now();
    loop {
        let (next, _client) = house.joined(&ConnectOptions::default()).await;
        if next.trust() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn a_stranger_is_heard_with_one_small_message_until_it_is_trusted() {
    let mut house = server(Limits::towards_strangers()).await;
    let (mut server, client) = house.joined(&ConnectOptions::default()).await;
    client.send("hello").await.unwrap();
    client.send("x".repeat(200_000)).await.unwrap();
    assert_eq!(in_time(server.recv()).await, text("hello"));
    timeout(Duration::from_millis(100), server.recv())
        .await
        .unwrap_err();
    assert!(server.trust());
    assert_eq!(in_time(server.recv()).await, text(&"x".repeat(200_000)));

    for bytes in [ws::STRANGER_BYTES_MAX + 1, 5_000_000] {
        let (mut server, mut client) = house.joined(&ConnectOptions::default()).await;
        client.send("x".repeat(bytes)).await.unwrap();
        assert!(matches!(
            in_time(server.recv()).await,
            Event::Closed { code: 1009, .. }
        ));
        assert!(matches!(
            in_time(client.recv()).await,
            Event::Closed { code: 1009, .. }
        ));
    }
    let (mut server, client) = house.joined(&ConnectOptions::default()).await;
    client.send("x".repeat(ws::STRANGER_BYTES_MAX)).await.unwrap();
    assert!(matches!(in_time(server.recv()).await, Event::Text(_)));
}

#[tokio::test]
async fn a_stranger_that_is_refused_sees_why_though_it_has_sent_more() {
    let mut house = server(Limits::towards_strangers()).await;
    let (mut server, mut client) = house.joined(&ConnectOptions::default()).await;
    client.send("hello").await.unwrap();
    for _ in 0..20 {
        client.send("and more").await.unwrap();
    }
    assert_eq!(in_time(server.recv()).await, text("hello"));
    server.send("no").await.unwrap();
    server.close(1000, "").await;
    assert_eq!(in_time(client.recv()).await, text("no"));
    assert_eq!(in_time(client.recv()).await, closed(1000, ""));
    drop(client);
    assert!(in_time(house.tasks.shut_down(Duration::from_secs(5))).await);
}

#[tokio::test]
async fn who_asks_for_nothing_in_time_is_cut_off() {
    let house = server(Limits::default()).await;
    let ends = ["", "GET / HTTP/1.1\r\nHost: "].map(async |sent| {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let started = Instant::now();
        let mut rest = Vec::new();
        drop(in_time(stream.read_to_end(&mut rest)).await);
        started.elapsed()
    });
    for waited in futures_util::future::join_all(ends).await {
        assert!(
            waited + Duration::from_millis(500) >= http::FIRST_HEADER_TIMEOUT,
            "{waited:?}"
        );
        assert!(waited < http::HEADER_TIMEOUT, "{waited:?}");
    }
}
