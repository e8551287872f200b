//! A key-value server with one command: enough of redis for the demo, on a machine that has none and no right to install
//! it. It speaks RESP, the redis serialization protocol.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The counts by key.
pub(super) type Counts = Arc<Mutex<HashMap<String, i64>>>;

/// The longest argument that is read.
const LONGEST: usize = 1024;

/// `INCR <key>`; anything else is an error.
pub(super) async fn serve(stream: TcpStream, counts: Counts) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(words) = command(&mut stream).await? {
        let mut reply = String::new();
        if let [name, key] = words.as_slice()
            && name.eq_ignore_ascii_case("incr")
        {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(key.clone()).or_default();
            *count += 1;
            write!(reply, ":{count}\r\n")?;
        } else {
            reply.push_str("-ERR unknown command\r\n");
        }
        stream.write_all(reply.as_bytes()).await.context("answering")?;
    }
    Ok(())
}

/// An array of bulk strings; `None` at the end.
async fn command(stream: &mut BufReader<TcpStream>) -> Result<Option<Vec<String>>> {
    let Some(count) = number(stream, '*').await? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count.min(LONGEST) {
        let length = number(stream, '$').await?.context("an unfinished command")?;
        anyhow::ensure!(length <= LONGEST, "an argument of {length} octets");
        let mut bytes = vec![0; length + 2];
        stream.read_exact(&mut bytes).await.context("reading an argument")?;
        bytes.truncate(length);
        words.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(Some(words))
}

async fn number(stream: &mut BufReader<TcpStream>, mark: char) -> Result<Option<usize>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.context("reading a command")? == 0 {
        return Ok(None);
    }
    let digits = line.trim_end().strip_prefix(mark).with_context(|| format!("{line:?} is not RESP"))?;
    Ok(Some(digits.parse().with_context(|| format!("{line:?} is not RESP"))?))
}
