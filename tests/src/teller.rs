//! An HTTP/1.1 backend that tells what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// A backend whose answers are its name, then the request as it came. A path decides what else it does:
///
/// | path | |
/// |---|---|
/// | `/flaky...` | 503 to the first of two |
/// | `/upgrade...` | 101, then it says what it hears |
/// | `/close...` | closes the connection without an answer |
#[derive(Clone, Debug)]
pub struct Teller {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Teller {
    /// Starts one; it runs as long as the test.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let teller = Self { addr: listener.local_addr()?, seen: Arc::default() };
        let of = teller.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let of = of.clone();
                thread::spawn(move || of.serve(name, stream));
            }
        });
        Ok(teller)
    }

    /// The requests so far: head and body.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn serve(&self, name: &str, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        while let Some(head) = head(&mut reader)? {
            let body = body(&head, &mut reader)?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(format!("{head}\n{body}"));
            let count = seen.len();
            drop(seen);
            let path = head.split(' ').nth(1).unwrap_or_default();
            if path.starts_with("/close") {
                return Ok(());
            }
            if path.starts_with("/upgrade") {
                writer.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                )?;
                std::io::copy(&mut reader, &mut writer)?;
                return Ok(());
            }
            let status = if path.starts_with("/flaky") && count % 2 == 1 { "503 Busy" } else { "200 OK" };
            let said = format!("{name}\n{head}\n{body}");
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{said}", said.len());
            writer.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

/// A request's head, lines ended by line feeds; `None`: the client has gone.
fn head(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" if head.is_empty() => {}
            "" => return Ok(Some(head)),
            line => {
                head.push_str(line);
                head.push('\n');
            }
        }
    }
}

fn body(head: &str, reader: &mut impl BufRead) -> std::io::Result<String> {
    let field = |name: &str| {
        head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let mut octets = Vec::new();
    if let Some((_, length)) = field("content-length") {
        octets.resize(length.parse().unwrap_or(0), 0);
        reader.read_exact(&mut octets)?;
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            octets.extend_from_slice(chunk.get(..size).unwrap_or_default());
        }
    }
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
