//! A server that takes the connections, frames and signatures of jobs, and keeps and decides nothing: what the wire
//! itself costs.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use horde::core::clock::Clock;
use horde::core::crypto::{Keypair, SignatureBytes, verify};
use horde::core::tasks::{Tasks, signals};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::script::{Generation, Script};
use crate::{Failure, parts, process, wire};

/// Serves until it is told to stop.
pub(crate) async fn run(address: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await?;
    let tasks = Tasks::new();
    let _received = signals::listen(&tasks)?;
    loop {
        let stream = tokio::select! {
            () = tasks.stopped() => break,
            accepted = listener.accept() => accepted?.0,
        };
        let stop = tasks.token();
        tasks.spawn("connection", async move {
            let outcome = tokio::select! {
                () = stop.cancelled() => Ok(()),
                outcome = serve(stream) => outcome,
            };
            if let Err(failure) = outcome {
                eprintln!("bare server: {failure}");
            }
        });
    }
    tasks.shut_down(process::GRACE).await;
    Ok(())
}

/// A signature to check and a key to sign with, as often as the miner does.
struct Signer {
    keypair: Keypair,
    blob: Vec<u8>,
    signature: SignatureBytes,
}

impl Signer {
    fn new() -> Result<Self, Failure> {
        let keypair = Keypair::from_uri(parts::MINER_KEY)?;
        // As long as a receipt.
        let blob = vec![b'x'; 400];
        let signature = keypair.sign(&blob);
        Ok(Self {
            keypair,
            blob,
            signature,
        })
    }

    fn work(&self, checks: usize, signatures: usize) -> Result<(), Failure> {
        for _ in 0..checks {
            verify(self.keypair.hotkey(), &self.blob, &self.signature)?;
        }
        for _ in 0..signatures {
            std::hint::black_box(self.keypair.sign(&self.blob));
        }
        Ok(())
    }
}

#[expect(
    clippy::result_large_err,
    reason = "the library's type of a refused handshake"
)]
async fn serve(stream: TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut is_executor = false;
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        is_executor = request.uri().path().contains("executor");
        Ok(response)
    };
    let opening = tokio_tungstenite::accept_hdr_async_with_config(stream, look, Some(wire::config()));
    let Ok(mut socket) = opening.await else {
        // Whoever only looked whether somebody listens.
        return Ok(());
    };
    let signer = SIGNER.as_ref().map_err(ToString::to_string)?;
    let lines = SCRIPT.as_ref().map_err(ToString::to_string)?;
    if is_executor {
        socket.send(Message::text(lines.initial.clone())).await?;
    }
    let mut heard = 0;
    while let Some(message) = socket.next().await {
        let Ok(Message::Text(_)) = message else {
            continue;
        };
        heard += 1;
        let (checks, signatures, answers): (_, _, Vec<&String>) = match (is_executor, heard) {
            (true, 1) => (0, 0, vec![&lines.order]),
            // Authentication, the request's receipt, the accepted receipt, the order, the finished receipt.
            (false, 1) => (1, 0, vec![&lines.ready]),
            (false, 2 | 3) => (1, 1, vec![&lines.ready]),
            (false, 4) => (0, 0, vec![&lines.volumes, &lines.done, &lines.finished]),
            (false, 5) => (1, 1, Vec::new()),
            _ => continue,
        };
        signer.work(checks, signatures)?;
        for answer in answers {
            socket.send(Message::text(answer.clone())).await?;
        }
    }
    Ok(())
}

static SIGNER: std::sync::LazyLock<Result<Signer, Failure>> = std::sync::LazyLock::new(Signer::new);

static SCRIPT: std::sync::LazyLock<Result<Script, Failure>> = std::sync::LazyLock::new(|| {
    let keypair = Keypair::from_uri(parts::MINER_KEY)?;
    Script::new(&keypair, keypair.hotkey(), &Clock::system(), Generation::Baseline)
});
