//! Servers below HTTP.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::checksum::{Checksum, piece};

/// Sends back what comes, until the client's half-close, then closes.
pub(super) async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.context("echo")?;
    write.shutdown().await.context("closing")
}

/// Speaks first, as SMTP does (RFC 5321 section 3.1), then answers each line.
pub(super) async fn greet(stream: TcpStream, name: Arc<str>) -> Result<()> {
    let (read, mut write) = stream.into_split();
    write.write_all(format!("220 {name} ready\r\n").as_bytes()).await.context("greeting")?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.context("reading a line")? {
        write.write_all(format!("250 {line}\r\n").as_bytes()).await.context("answering")?;
        if line == "QUIT" {
            break;
        }
    }
    write.shutdown().await.context("closing")
}

/// Reads until the client's half-close and answers only then: `<bytes> <checksum>`.
pub(super) async fn sink(mut stream: TcpStream) -> Result<()> {
    let (mut count, mut sum) = (0_u64, Checksum::default());
    let mut buffer = vec![0; 65_536];
    loop {
        let length = stream.read(&mut buffer).await.context("reading")?;
        if length == 0 {
            break;
        }
        sum.add(&buffer[..length]);
        count += length as u64;
    }
    stream.write_all(format!("{count} {:016x}\n", sum.value()).as_bytes()).await.context("answering")?;
    stream.shutdown().await.context("closing")
}

/// Reads a line with a number, sends so many bytes of the pattern, half-closes, and goes on reading until the client
/// closes; then logs how much came after the half-close.
pub(super) async fn source(stream: TcpStream) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    read.read_line(&mut line).await.context("reading the number")?;
    let count: u64 = line.trim().parse().context("the number")?;
    let mut at = 0;
    while at < count {
        let bytes = piece(at, count);
        write.write_all(&bytes).await.context("sending")?;
        at += bytes.len() as u64;
    }
    write.shutdown().await.context("half-close")?;
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.context("reading after the half-close")?;
    super::report(&format!("after half-close {} bytes", rest.len()));
    Ok(())
}
