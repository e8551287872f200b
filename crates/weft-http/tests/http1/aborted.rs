//! An answer that ends with its connection, and does not end well.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::io::StreamReader;
use weft_core::Drain;
use weft_http::{Abort, Answer, Body, Handler, Http1Limits, Http1Pool, Interim, serve_http1};

use crate::support::local;

/// Asks an application that answers without a length.
struct Forward {
    pool: Rc<Http1Pool>,
    /// It resets its connection behind the first bytes, instead of closing it.
    resets: bool,
}

impl Handler for Forward {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let head = if request.version() == Version::HTTP_10 { "HTTP/1.0 200 OK" } else { "HTTP/1.1 200 OK" };
        let mut answer = vec![Ok(Bytes::from(format!("{head}\r\n\r\nsome")))];
        if self.resets {
            answer.push(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        let application = tokio::io::join(StreamReader::new(stream::iter(answer)), tokio::io::sink());
        let application = Cell::new(Some(application));
        let connect = async || application.take().map(|io| (io, ())).ok_or(());
        Ok(self.pool.send(request, &interim, connect).await.unwrap().into())
    }
}

thread_local! {
    static RESETS: Cell<u32> = const { Cell::new(0) };
}

fn reset_on_close(_: &DuplexStream) {
    RESETS.set(RESETS.get() + 1);
}

/// What an HTTP/1.`minor` client gets, and whether its connection is reset.
async fn answer(minor: u8, resets: bool) -> (String, bool) {
    RESETS.set(0);
    let (mut client, served) = tokio::io::duplex(4096);
    let handler = Rc::new(Forward { pool: Http1Pool::new(Http1Limits::default()), resets });
    let serving = tokio::task::spawn_local(async move {
        serve_http1(served, reset_on_close, handler, &Http1Limits::default(), Drain::never()).await
    });
    let request = format!("GET / HTTP/1.{minor}\r\nHost: h\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    drop(client);
    serving.await.unwrap().unwrap();
    (got, RESETS.get() > 0)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_broke_off_does_not_end_like_a_whole_one() {
    local(async {
        let (got, reset) = answer(0, true).await;
        assert!(got.ends_with("\r\n\r\nsome"), "what came of it has left: {got}");
        assert!(reset);
        let (got, reset) = answer(0, false).await;
        assert!(got.ends_with("\r\n\r\nsome") && !reset, "{got}");
        // Where the answer says itself that its end is missing, an ordinary close takes nothing away that has left.
        let (got, reset) = answer(1, true).await;
        assert!(got.ends_with("4\r\nsome\r\n") && !reset, "{got}");
        let (got, reset) = answer(1, false).await;
        assert!(got.ends_with("0\r\n\r\n") && !reset, "{got}");
    })
    .await;
}
