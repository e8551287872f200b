//! An HTTP/1.1 server written to the socket, for what a library does by itself or hides.
//!
//! | path | what it does |
//! |---|---|
//! | `/hints` | 103 with a `link`, then 200 (RFC 8297) |
//! | `/continue` | waits for `Expect: 100-continue`, sends 100, reads the body, answers with its length |
//! | `/refuse` | answers 417 without a 100 and without reading the body |
//! | `/until-close` | an HTTP/1.0 answer without a length, ended by closing |
//! | `/head` | the request's head as it came, byte for byte, as the body |
//! | `/split` | the answer in pieces of one byte |

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any head of a test.
const MOST: usize = 256 << 10;

pub(super) async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer).await? {
        if !answer(&mut stream, &head, &mut buffer).await? {
            break;
        }
    }
    stream.shutdown().await.context("closing")
}

/// The bytes up to and with the empty line; what follows stays in the buffer.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            return Ok(Some(std::mem::replace(buffer, rest)));
        }
        if buffer.len() > MOST {
            bail!("a head of more than {MOST} bytes");
        }
        if stream.read_buf(buffer).await.context("reading a head")? == 0 {
            return Ok(None);
        }
    }
}

/// Whether the connection goes on.
async fn answer(stream: &mut TcpStream, head: &[u8], buffer: &mut Vec<u8>) -> Result<bool> {
    let text = String::from_utf8_lossy(head).into_owned();
    let target = text.split_whitespace().nth(1).unwrap_or("/");
    // An absolute-form target (RFC 9112 section 3.2.2) counts by its path as well.
    let path =
        target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let length = header(&text, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    match path {
        "/hints" => {
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
            write(stream, hints.as_bytes()).await?;
            write(stream, &ok(b"done\n")).await?;
        }
        "/continue" => {
            let expected =
                header(&text, "expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
            // If a byte of the body is here already, somebody else has told the client to go on.
            let early = !buffer.is_empty();
            if expected {
                write(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            let got = read_body(stream, buffer, length).await?;
            write(stream, &ok(format!("expected={expected} early={early} body={got}\n").as_bytes())).await?;
        }
        "/refuse" => {
            write(
                stream,
                b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n",
            )
            .await?;
            return Ok(false);
        }
        "/until-close" => {
            write(stream, b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end\n").await?;
            return Ok(false);
        }
        "/split" => {
            for byte in ok(b"piece by piece\n") {
                write(stream, &[byte]).await?;
            }
        }
        _ => {
            read_body(stream, buffer, length).await?;
            write(stream, &ok(head)).await?;
        }
    }
    Ok(true)
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await.context("writing")
}

async fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Result<usize> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await.context("reading a body")? == 0 {
            bail!("the body ended after {} of {length} bytes", buffer.len());
        }
    }
    buffer.drain(..length);
    Ok(length)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
