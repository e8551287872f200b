//! What little octets of a peer can make a connection hold. Counted is what the allocator has given out and not got back on
//! the test's own thread, both sides of the connection together: no clock, and nothing of the system's.
//!
//! A connection has fixed budgets (what waits to be written, what is held for readers without a window, heads), and each stream
//! or connection has its state. Beyond these no octet of a peer holds more than ten.
#![expect(unsafe_code, reason = "the allocator that counts")]

mod peer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame as BodyFrame;
use peer::{END_HEADERS, END_STREAM, Frame, GET, PREFACE, kind, setting, settle};
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use weft_core::Drain;
use weft_http::{
    Abort, Answer, Body, BodyError, Handler, Http1Limits, Http2Limits, Interim, serve_http1, serve_http2,
};

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
struct Counting;

// SAFETY: all is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LIVE.try_with(|live| live.set(live.get().wrapping_add(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get().wrapping_sub(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What lives now.
fn live() -> usize {
    LIVE.with(Cell::get)
}

/// An octet may hold so many.
const FACTOR: usize = 10;
/// What a stream may take without its octets: its future (2 KiB at most), what `h2` knows of it, its head.
const A_STREAM: usize = 8 << 10;
/// What may wait to be written, and what may be held for want of window, with a chunk of each kind (`frames.rs`); what the
/// test's own pipes hold.
const A_CONNECTION: usize = 3 << 20;

/// Answers with a body that never ends, or not at all, after so many interim answers.
struct App {
    answers: bool,
    interim: usize,
}

impl Handler for App {
    type Body = Endless;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Endless>, Abort> {
        for _ in 0..self.interim {
            let mut hints = Response::new(());
            *hints.status_mut() = StatusCode::EARLY_HINTS;
            hints.headers_mut().insert("link", "x".repeat(4000).parse().unwrap());
            interim.send(hints);
        }
        if !self.answers {
            let _kept = Box::new(request);
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Endless).into())
    }
}

struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Ok(BodyFrame::data(Bytes::from(vec![0; 1 << 16])))))
    }
}

/// A client of HTTP/2 that reads nothing at all, and has said this much.
struct Client {
    io: DuplexStream,
    said: usize,
    before: usize,
}

impl Client {
    async fn connect(app: App, limits: Http2Limits, window: u32) -> Self {
        let before = live();
        let (io, far) = tokio::io::duplex(1 << 16);
        tokio::task::spawn_local(
            async move { serve_http2(far, Rc::new(app), &limits, Drain::never()).await },
        );
        let mut this = Self { io, said: 0, before };
        this.say(PREFACE).await;
        this.say(&setting(peer::INITIAL_WINDOW_SIZE, window).bytes()).await;
        this
    }

    async fn say(&mut self, octets: &[u8]) {
        self.said += octets.len();
        self.io.write_all(octets).await.expect("it is taken");
        tokio::task::yield_now().await;
    }

    async fn ask(&mut self, number: u32, block: &[u8]) {
        let frame = Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 1 + 2 * number, block);
        self.say(&frame.bytes()).await;
    }

    async fn held(&self) -> usize {
        settle().await;
        live().saturating_sub(self.before)
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn readers_without_window_and_readers_of_nothing() {
    for window in [0, (1 << 31) - 1] {
        let app = App { answers: true, interim: 0 };
        let mut client = Client::connect(app, Http2Limits::default(), window).await;
        client.say(&Frame::new(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]).bytes()).await;
        for number in 0..200 {
            client.ask(number, GET).await;
        }
        let (held, most) = (client.held().await, A_CONNECTION + 200 * A_STREAM + FACTOR * client.said);
        assert!(held <= most, "window {window}: {held} of {most}");
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn heads_that_few_octets_stand_for() {
    let budget = 256 << 10;
    let limits = Http2Limits { head_budget: budget, ..Http2Limits::default() };
    let mut client = Client::connect(App { answers: false, interim: 0 }, limits, 65_535).await;
    // A field of 4000 octets is put into the dynamic table once, and then said ten times over by one octet each.
    let mut first = GET.to_vec();
    first.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    first.extend_from_slice(&[b'v'; 4000]);
    client.ask(0, &first).await;
    let mut again = GET.to_vec();
    again.extend_from_slice(&[0xbe; 10]);
    for number in 1..200 {
        client.ask(number, &again).await;
    }
    let (held, most) = (client.held().await, budget + (1 << 18) + 20 * A_STREAM + FACTOR * client.said);
    assert!(held <= most, "{held} of {most}");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn interim_answers_that_nobody_reads() {
    let app = App { answers: false, interim: 900 };
    let mut client = Client::connect(app, Http2Limits::default(), 65_535).await;
    for number in 0..20 {
        client.ask(number, GET).await;
    }
    let (held, most) = (client.held().await, A_CONNECTION + 20 * A_STREAM + FACTOR * client.said);
    assert!(held <= most, "{held} of {most}");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn slow_readers_over_http_1() {
    const CONNECTIONS: usize = 20;
    /// What an HTTP/1 connection has before it asks a body for no more (`h1/output.rs`), and the test's pipe.
    const EACH: usize = (1 << 16) + (256 << 10);
    let before = live();
    let mut kept = Vec::new();
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    for _ in 0..CONNECTIONS {
        let (mut io, far) = tokio::io::duplex(1 << 16);
        let app = Rc::new(App { answers: true, interim: 0 });
        tokio::task::spawn_local(async move {
            serve_http1(far, |_| (), app, &Http1Limits::default(), Drain::never()).await
        });
        // The rest of them wait in the system, not here.
        for _ in 0..100 {
            io.write_all(request).await.expect("it is taken");
        }
        kept.push(io);
    }
    settle().await;
    let held = live().saturating_sub(before);
    let most = CONNECTIONS * (EACH + FACTOR * 100 * request.len());
    assert!(held <= most, "{held} of {most}");
}
