//! A websocket as the load generator needs it: whole text frames, little memory, no task of its own.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use crate::Failure;

/// Bytes of the buffers of one connection.
const BUFFER_BYTES: usize = 4096;

/// Returns small buffers, for both sides of what is not under test.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: WebSocketStream<TcpStream>,
}

impl Wire {
    /// Connects from the loopback address number `source`: many validators do not come from one place.
    pub(crate) async fn open(address: SocketAddr, source: usize, path: &str) -> Result<Self, Failure> {
        let [high, low] = u16::try_from(source % 60_000)?.to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0)))?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!("ws://{address}{path}").into_client_request()?;
        let opening = tokio_tungstenite::client_async_with_config(request, stream, Some(config()));
        let (socket, _) = opening.await?;
        Ok(Self { socket })
    }

    /// Sends one text frame.
    pub(crate) async fn say(&mut self, text: String) -> Result<(), Failure> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Waits for a text frame of this type about this job.
    pub(crate) async fn expect(&mut self, message_type: &str, job: &str) -> Result<(), Failure> {
        loop {
            match self.socket.next().await.ok_or("the miner went away")?? {
                Message::Text(text) => {
                    // Signed messages have their signature before it.
                    let word = format!("\"message_type\":\"{message_type}\"");
                    if text.contains(&word) && text.contains(job) {
                        return Ok(());
                    }
                    return Err(format!("instead of {message_type} for {job} came {text}").into());
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => return Err(format!("instead of {message_type} came {other:?}").into()),
            }
        }
    }

    /// Ends the connection with 1000 and waits until the other side has, too.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: String::new().into(),
        };
        self.socket.close(Some(frame)).await?;
        while let Some(Ok(_)) = self.socket.next().await {}
        Ok(())
    }
}
