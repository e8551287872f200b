//! A workload of the mesh that is not Weft, and writes what it likes into its link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::Request;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peers::connect;

/// Only a safety net.
const DEADLINE: Duration = Duration::from_secs(20);

/// One link, or one connection in plaintext.
pub(crate) struct Speaker(SendRequest<Bytes>);

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// A whole answer: status, `weft-error`, body.
    Answer(u16, String, String),
    /// The stream was reset.
    Reset(Option<Reason>),
}

impl Got {
    pub(crate) fn is_error(&self, status: u16, code: &str) -> bool {
        matches!(self, Self::Answer(seen, error, _) if *seen == status && error == code)
    }

    pub(crate) fn status(&self) -> u16 {
        if let Self::Answer(status, ..) = self { *status } else { 0 }
    }
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(DEADLINE, work).await.with_context(|| format!("waited in vain for {what}"))
}

impl Speaker {
    pub(crate) async fn connect(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let io = in_time("a link", connect(to, config)).await?.context("a link")?;
        let (send, connection) = in_time("HTTP/2", h2::client::handshake(io)).await?.context("HTTP/2")?;
        tokio::spawn(connection);
        Ok(Self(send))
    }

    /// Sends a head and then bytes, which is all the same to the stream whether they are a body or not, without an end
    /// where `open`, and waits for the whole answer.
    pub(crate) async fn say(&mut self, request: Request<()>, body: &str, open: bool) -> Result<Got> {
        in_time("an answer", self.talk(request, body, open)).await?
    }

    async fn talk(&mut self, request: Request<()>, body: &str, open: bool) -> Result<Got> {
        let mut send = self.0.clone().ready().await.context("the link has ended")?;
        let at_once = body.is_empty() && !open;
        let (response, mut stream) = send.send_request(request, at_once).context("a head")?;
        if !at_once {
            // The other side may have ended the stream already.
            let _ = stream.send_data(Bytes::copy_from_slice(body.as_bytes()), !open);
        }
        let response = match response.await {
            Ok(response) => response,
            Err(error) if error.is_reset() => return Ok(Got::Reset(error.reason())),
            Err(error) => bail!("the link ended: {error}"),
        };
        let error =
            response.headers().get("weft-error").map_or("", |value| value.to_str().unwrap_or("?")).to_owned();
        let (head, mut body) = response.into_parts();
        let mut text = String::new();
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => {
                    let _ = body.flow_control().release_capacity(data.len());
                    text.push_str(&String::from_utf8_lossy(&data));
                }
                Err(error) => return Ok(Got::Reset(error.reason())),
            }
            if open && text.ends_with("\n\n") {
                break;
            }
        }
        Ok(Got::Answer(head.status.as_u16(), error, text))
    }
}

/// A head as no library sends it: literals without an index (RFC 7541 section 6.2.2), as they are given.
pub(crate) fn head_frame(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // Lengths of up to 126 take one byte.
            block.push(u8::try_from(text.len()).unwrap_or(126));
            block.extend_from_slice(text.as_bytes());
        }
    }
    // HEADERS with END_HEADERS and END_STREAM.
    frame(1, 0x5, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Sends one head over a link of its own, byte by byte as given, and returns the code with which its stream is reset;
/// `None` for an answer.
pub(crate) async fn raw(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    fields: &[(&str, &str)],
) -> Result<Option<u32>> {
    let work = async {
        let mut io = connect(to, config).await.context("a link")?;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(head_frame(1, fields));
        io.write_all(&bytes).await.context("writing")?;
        io.flush().await.context("writing")?;
        loop {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.context("the link has ended")?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            io.read_exact(&mut payload).await.context("the link has ended")?;
            match head[3] {
                1 => return Ok(None),
                3 => return Ok(Some(u32::from_be_bytes(payload.try_into().unwrap_or_default()))),
                _ => {}
            }
        }
    };
    in_time("a reset", work).await?
}
