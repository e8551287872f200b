//! One connection of an application, step by step: a TCP stream, or a WebSocket after its handshake.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use weft_testbed::{Pod, Result};

/// A safety net.
const PATIENCE: Duration = Duration::from_secs(20);

/// A socket belongs to the network namespace that it was made in, so the story's own thread can use it afterwards.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn open(pod: &Pod, host: &str, port: u16) -> Result<Self> {
        let ip = *pod.resolve(host)?.first().context("no address")?;
        let stream = pod.run(async || Ok(TcpStream::connect((ip, port))?))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// An upgraded connection to the test application, which echoes from then on.
    pub(crate) fn websocket(pod: &Pod, host: &str, port: u16) -> Result<Self> {
        let mut wire = Self::open(pod, host, port)?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire.0.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            wire.0.read_exact(&mut byte).context("reading the answer to an upgrade")?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if !head.starts_with("HTTP/1.1 101 ") {
            bail!("the upgrade was answered with {head}");
        }
        Ok(wire)
    }

    /// Sends a line and waits for its echo. A line, because a few letters alone may still become an HTTP request: for as long
    /// as they do, detection keeps them.
    pub(crate) fn echo(&mut self, text: &str) -> Result<()> {
        let bytes = format!("{text}\n").into_bytes();
        self.0.write_all(&bytes).with_context(|| format!("sending {text:?}"))?;
        let mut back = vec![0; bytes.len()];
        self.0.read_exact(&mut back).with_context(|| format!("waiting for the echo of {text:?}"))?;
        if back != bytes {
            bail!("sent {text:?}, got {:?}", String::from_utf8_lossy(&back));
        }
        Ok(())
    }

    /// Waits until the other side ends it, orderly or by a reset; nothing more may come before that.
    pub(crate) fn wait_end(&mut self) -> Result<()> {
        let mut rest = [0; 64];
        match self.0.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("more bytes came: {rest:?}"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error).context("waiting for the end of the connection"),
        }
    }
}
