//! Idle connections: each makes one request over HTTP/1.1 and then stays open without another.
//!
//! Runs as a process of its own (`cargo xtask hold`, hidden), because it must be inside a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bench::backend::TINY;
use crate::process;

/// Options of the hidden command.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to connect.
    address: SocketAddr,
    /// How many connections.
    count: usize,
    /// Made when all are open.
    ready: PathBuf,
}

/// Opens the connections, says so, and holds them until this process is ended.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut open = Vec::with_capacity(options.count);
    for at in 0..options.count {
        open.push(connect(options.address).with_context(|| format!("connection {at}"))?);
    }
    std::fs::write(&options.ready, "ready\n")?;
    loop {
        process::pause(Duration::from_secs(3600));
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(format!("GET /tiny HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    // The body is the last of the answer, whether it is counted or in one chunk.
    while !String::from_utf8_lossy(&answer).contains(TINY) {
        match stream.read(&mut part)? {
            0 => bail!("closed after {:?}", String::from_utf8_lossy(&answer)),
            count => answer.extend_from_slice(&part[..count]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(stream)
    } else {
        bail!("{:?}", String::from_utf8_lossy(&answer))
    }
}
