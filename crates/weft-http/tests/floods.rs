//! Clients that send much for nothing, read nothing, or cancel all they ask for.

mod peer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use peer::{ACK, END_HEADERS, END_STREAM, Frame, GET, PREFACE, kind, setting, settle};
use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use weft_core::Drain;
use weft_http::{Abort, Answer, Body, Handler, Http2Limits, Interim, serve_http2};

/// ENHANCE_YOUR_CALM and REFUSED_STREAM (RFC 9113 section 7).
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

/// Answers with so many octets, at once or never.
#[derive(Default)]
struct App {
    octets: usize,
    silent: bool,
    link: bool,
    called: Cell<usize>,
    /// Calls that were given up.
    dropped: Rc<Cell<usize>>,
    /// What the bodies of answers have given out.
    given: Rc<Cell<usize>>,
}

struct Dropped(Rc<Cell<usize>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Handler for App {
    type Body = Pieces;

    fn is_link(&self) -> bool {
        self.link
    }

    async fn call(&self, _: Request<Body>, _: Interim<'_>) -> Result<Answer<Pieces>, Abort> {
        self.called.set(self.called.get() + 1);
        let dropped = Dropped(Rc::clone(&self.dropped));
        if self.silent {
            std::future::pending::<()>().await;
        }
        std::mem::forget(dropped);
        Ok(Response::new(Pieces { left: self.octets, given: Rc::clone(&self.given) }).into())
    }
}

/// A body in pieces of 64 KiB that knows how much was taken of it.
struct Pieces {
    left: usize,
    given: Rc<Cell<usize>>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = weft_http::BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let size = self.left.min(1 << 16);
        if size == 0 {
            return std::task::Poll::Ready(None);
        }
        self.left -= size;
        self.given.set(self.given.get() + size);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(vec![0; size])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

/// A client that writes what it likes.
struct Client {
    write: WriteHalf<DuplexStream>,
    seen: Rc<RefCell<Vec<Frame>>>,
    serving: tokio::task::JoinHandle<Result<(), h2::Error>>,
    next: u32,
    _read: Option<ReadHalf<DuplexStream>>,
}

impl Client {
    /// Connects with the given settings; `reads` says whether it ever reads.
    async fn connect(app: &Rc<App>, limits: Http2Limits, settings: &[Frame], reads: bool) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let app = Rc::clone(app);
        let serving =
            tokio::task::spawn_local(async move { serve_http2(far, app, &limits, Drain::never()).await });
        let (mut read, mut write) = tokio::io::split(near);
        write.write_all(PREFACE).await.unwrap();
        if settings.is_empty() {
            write.write_all(&Frame::new(kind::SETTINGS, 0, 0, &[]).bytes()).await.unwrap();
        }
        for frame in settings {
            write.write_all(&frame.bytes()).await.unwrap();
        }
        let seen = Rc::new(RefCell::new(Vec::new()));
        let mut kept = None;
        if reads {
            let seen = Rc::clone(&seen);
            tokio::task::spawn_local(async move {
                while let Some(frame) = Frame::read(&mut read).await {
                    seen.borrow_mut().push(frame);
                }
            });
        } else {
            kept = Some(read);
        }
        Self { write, seen, serving, next: 1, _read: kept }
    }

    /// Sends frames, or finds that the server has closed.
    async fn send(&mut self, frames: &[Frame]) -> bool {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.write.write_all(&bytes).await.is_ok()
    }

    fn request(&mut self, block: &[u8]) -> Frame {
        let stream = self.next;
        self.next += 2;
        Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, stream, block)
    }

    fn count(&self, kind: u8) -> usize {
        self.seen.borrow().iter().filter(|frame| frame.kind == kind && frame.flags & ACK == 0).count()
    }

    /// The lengths of DATA frames.
    fn data(&self) -> std::vec::IntoIter<usize> {
        let seen = self.seen.borrow();
        let lengths = seen.iter().filter(|frame| frame.kind == kind::DATA).map(|frame| frame.payload.len());
        lengths.collect::<Vec<_>>().into_iter()
    }

    /// The code of the last GOAWAY.
    fn goaway(&self) -> Option<u32> {
        let seen = self.seen.borrow();
        let frame = seen.iter().rev().find(|frame| frame.kind == kind::GOAWAY)?;
        Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()))
    }

    fn answers(&self) -> usize {
        self.seen.borrow().iter().filter(|frame| frame.kind == kind::HEADERS).count()
    }
}

/// Sends a frame many times over; says how often before the server had enough, and the code it gave.
async fn flood(frame: Frame, times: usize, limits: Http2Limits) -> Option<u32> {
    let app = Rc::new(App::default());
    let mut client = Client::connect(&app, limits, &[], true).await;
    for _ in 0..times.div_ceil(100) {
        if !client.send(&vec![frame.clone(); 100]).await {
            break;
        }
    }
    settle().await;
    let ended = client.serving.is_finished();
    assert_eq!(ended, client.goaway().is_some());
    client.goaway()
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn frames_that_carry_nothing_end_the_connection_when_they_are_many() {
    let limits = Http2Limits::default();
    let frames = [
        setting(peer::INITIAL_WINDOW_SIZE, 65_535),
        Frame::new(kind::PING, 0, 0, &[1; 8]),
        Frame::new(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1]),
        Frame::new(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        Frame::new(0x77, 0, 0, b"unknown"),
        Frame::new(0x77, 0, 0, b""),
    ];
    for frame in frames {
        let few = flood(frame.clone(), 900, limits).await;
        assert_eq!(few, None, "{frame:?}: a second's worth of them is borne");
        let many = flood(frame.clone(), 5000, limits).await;
        assert_eq!(many, Some(ENHANCE_YOUR_CALM), "{frame:?}");
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn as_many_over_a_longer_time_are_no_flood() {
    let app = Rc::new(App::default());
    let mut client = Client::connect(&app, Http2Limits::default(), &[], true).await;
    for _ in 0..20 {
        assert!(client.send(&vec![Frame::new(kind::PING, 0, 0, &[1; 8]); 500]).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(client.goaway(), None);
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn requests_earn_the_frames_that_belong_to_them() {
    let app = Rc::new(App { octets: 10, ..App::default() });
    let mut client = Client::connect(&app, Http2Limits::default(), &[], true).await;
    for _ in 0..5000 {
        let request = client.request(GET);
        let update = Frame::new(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 10]);
        let priority = Frame::new(kind::PRIORITY, 0, request.stream, &[0, 0, 0, 0, 1]);
        assert!(client.send(&[request, priority, update]).await);
        tokio::task::yield_now().await;
    }
    settle().await;
    assert_eq!((client.goaway(), client.answers()), (None, 5000));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_reader_may_open_its_windows_for_every_message() {
    let app = Rc::new(App { octets: 20 << 20, ..App::default() });
    let mut client = Client::connect(&app, Http2Limits::default(), &[], true).await;
    let request = client.request(GET);
    client.send(&[request]).await;
    let (mut frames, mut octets) = (0, 0);
    while octets < 20 << 20 {
        settle().await;
        let pieces: Vec<usize> = client.data().skip(frames).collect();
        assert!(!pieces.is_empty(), "it goes on");
        frames += pieces.len();
        for piece in pieces {
            octets += piece;
            let more = u32::try_from(piece).unwrap().to_be_bytes();
            let update = |stream| Frame::new(kind::WINDOW_UPDATE, 0, stream, &more);
            assert!(client.send(&[update(0), update(1)]).await);
        }
    }
    assert_eq!(client.goaway(), None);
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn cancelling_everything_ends_a_client_and_not_a_link() {
    let all_at_once = |client: &mut Client| {
        (0..200)
            .flat_map(|_| {
                let request = client.request(GET);
                let reset = Frame::new(kind::RST_STREAM, 0, request.stream, &[0, 0, 0, 8]);
                [request, reset]
            })
            .collect::<Vec<_>>()
    };
    let app = Rc::new(App { silent: true, ..App::default() });
    let mut client = Client::connect(&app, Http2Limits::default(), &[], true).await;
    let frames = all_at_once(&mut client);
    client.send(&frames).await;
    settle().await;
    assert_eq!(client.goaway(), Some(ENHANCE_YOUR_CALM));

    let app = Rc::new(App { silent: true, link: true, ..App::default() });
    let limits =
        Http2Limits { max_pending_resets: usize::MAX, max_error_resets: None, ..Http2Limits::default() };
    let mut link = Client::connect(&app, limits, &[], true).await;
    for _ in 0..20 {
        let frames = all_at_once(&mut link);
        assert!(link.send(&frames).await);
    }
    settle().await;
    assert_eq!((link.goaway(), link.serving.is_finished()), (None, false));
    assert_eq!(app.called.get(), app.dropped.get(), "nothing is left of those that were begun");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn heads_of_unanswered_requests_have_a_budget() {
    let app = Rc::new(App { silent: true, ..App::default() });
    let limits = Http2Limits { head_budget: 256 << 10, ..Http2Limits::default() };
    let mut client = Client::connect(&app, limits, &[], true).await;
    // A field of 4000 octets is put into the dynamic table once, and then said ten times over by one octet each.
    let mut first = GET.to_vec();
    first.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    first.extend_from_slice(&[b'v'; 4000]);
    let mut again = GET.to_vec();
    again.extend_from_slice(&[0xbe; 10]);
    let request = client.request(&first);
    client.send(&[request]).await;
    for _ in 0..100 {
        let request = client.request(&again);
        assert!(client.send(&[request]).await);
    }
    settle().await;
    assert!((3..=7).contains(&app.called.get()), "{}", app.called.get());
    let refused = client
        .seen
        .borrow()
        .iter()
        .filter(|f| f.kind == kind::RST_STREAM && f.number() == REFUSED_STREAM)
        .count();
    assert_eq!(refused + app.called.get(), 101);
    // Those that end give their share back.
    for stream in (1..client.next).step_by(2) {
        client.send(&[Frame::new(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])]).await;
    }
    settle().await;
    let before = app.called.get();
    let request = client.request(&again);
    client.send(&[request]).await;
    settle().await;
    assert_eq!(app.called.get(), before + 1);
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_reader_without_window_holds_little_and_not_for_ever() {
    let app = Rc::new(App { octets: 10 << 20, ..App::default() });
    let limits = Http2Limits { write_stall: Some(Duration::from_secs(60)), ..Http2Limits::default() };
    let mut client = Client::connect(&app, limits, &[setting(peer::INITIAL_WINDOW_SIZE, 0)], true).await;
    for _ in 0..200 {
        let request = client.request(GET);
        client.send(&[request]).await;
        tokio::task::yield_now().await;
    }
    settle().await;
    assert_eq!((app.called.get(), client.answers()), (200, 200));
    assert!(app.given.get() <= 2 << 20, "{}", app.given.get());
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(client.count(kind::RST_STREAM), 200, "all of them were given up");
    let request = client.request(GET);
    client.send(&[request]).await;
    settle().await;
    assert_eq!(client.answers(), 201, "and the connection is as good as before");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_slow_reader_is_no_stalled_one() {
    let app = Rc::new(App { octets: 1 << 20, ..App::default() });
    let limits = Http2Limits { write_stall: Some(Duration::from_secs(60)), ..Http2Limits::default() };
    let mut client = Client::connect(&app, limits, &[setting(peer::INITIAL_WINDOW_SIZE, 0)], true).await;
    let request = client.request(GET);
    client.send(&[request]).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        client.send(&[Frame::new(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100])]).await;
    }
    settle().await;
    let seen: usize =
        client.seen.borrow().iter().filter(|f| f.kind == kind::DATA).map(|f| f.payload.len()).sum();
    assert_eq!((seen, client.count(kind::RST_STREAM)), (10_000, 0));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn who_reads_nothing_at_all_is_closed_and_holds_little_meanwhile() {
    let app = Rc::new(App { octets: 10 << 20, ..App::default() });
    let limits = Http2Limits { write_stall: Some(Duration::from_secs(60)), ..Http2Limits::default() };
    let window = setting(peer::INITIAL_WINDOW_SIZE, (1 << 31) - 1);
    let mut client = Client::connect(&app, limits, &[window], false).await;
    client.send(&[Frame::new(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])]).await;
    for _ in 0..200 {
        let request = client.request(GET);
        client.send(&[request]).await;
        tokio::task::yield_now().await;
    }
    settle().await;
    assert!(app.given.get() <= 4 << 20, "{}", app.given.get());
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert!(client.serving.is_finished());
}
