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
/// | `/page` | a page, where it has one |
/// | `/close...` | closes the connection without an answer |
/// | `/fail/HOW/N...` | the first N tries of this very path fail: `503`, `early` (503 before it reads the body), `close` (it reads nothing of the body, and closes), `mute` (it never answers) |
#[derive(Clone, Debug)]
pub struct Teller {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    page: &'static str,
}

impl Teller {
    /// Starts one; it runs as long as the test.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(name: &'static str) -> Result<Self> {
        Self::with_page(name, "")
    }

    /// One that has a page in HTML at `/page`.
    ///
    /// # Errors
    /// There is no port.
    pub fn with_page(name: &'static str, page: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let teller = Self { addr: listener.local_addr()?, seen: Arc::default(), page };
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

    /// Keeps a request; how many there are now.
    fn keep(&self, head: &str, body: &str) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(format!("{head}\n{body}"));
        seen.len()
    }

    /// How this try of a path is to fail.
    fn fails<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (how, rest) = path.strip_prefix("/fail/")?.split_once('/')?;
        let times: usize = rest.split('/').next()?.parse().ok()?;
        let seen = self.seen();
        let tries = seen.iter().filter(|seen| seen.split(' ').nth(1) == Some(path)).count();
        (tries < times).then_some(how)
    }

    fn serve(&self, name: &str, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        while let Some(head) = head(&mut reader)? {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let fails = self.fails(path);
            match fails {
                Some("early") => writer.write_all(BUSY)?,
                Some("close") => {
                    self.keep(&head, "");
                    return Ok(());
                }
                _ => {}
            }
            let body = body(&head, &mut reader)?;
            let count = self.keep(&head, &body);
            match fails {
                Some("early") => continue,
                Some("mute") => return std::io::copy(&mut reader, &mut std::io::sink()).map(drop),
                Some(_) => {
                    writer.write_all(BUSY)?;
                    continue;
                }
                None => {}
            }
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
            let (kind, said) = match path {
                "/page" => ("content-type: text/html\r\n", self.page.to_owned()),
                _ => ("", format!("{name}\n{head}\n{body}")),
            };
            let answer = format!("HTTP/1.1 {status}\r\n{kind}content-length: {}\r\n\r\n{said}", said.len());
            writer.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

/// An answer that asks for another try.
const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";

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
