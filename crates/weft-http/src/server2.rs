//! Serves HTTP/2: a mesh link, or an application that speaks h2c.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::Drain;

use crate::frames::{Frames, Stall, Wire};
use crate::pump::{Pump, Side, break_off, first_frame};
use crate::recv::{LOOKS, RecvHalf, Watch};
use crate::reset::Leaving;
use crate::send::SendHalf;
use crate::ticker::Ticker;
use crate::wire::WEFT_UPGRADE;
use crate::{
    Abort, Answer, Body, BodyError, ErrorCode, Handler, Http2Limits, Interim, InterimSink, Refusal,
    ResetCode, StreamIo, UpgradeIo, is_grpc,
};

/// Bytes that the future of a stream may have. It is moved and allocated whole for every request, so what is rare or large
/// in it is boxed. Two thirds of it are the head of a request in each of the two forms that it has, and the call.
const STREAM_ROOM: usize = 2304;

/// How often a connection takes requests and writes answers before others of the worker have their turn.
const ROUNDS: u32 = 4;

/// What a header field takes beside its octets: its place in the map of a head, and its share of the map's index.
const FIELD: usize = 96;

/// The memory that the heads of requests take which have no answer yet.
struct Heads {
    taken: Rc<Cell<usize>>,
    most: usize,
}

/// The head of one of them.
struct HeadInUse {
    taken: Rc<Cell<usize>>,
    size: usize,
    /// It has the mark of an upgrade.
    upgrade: bool,
}

impl Heads {
    fn new(most: usize) -> Self {
        Self { taken: Rc::default(), most }
    }

    /// Counts a head, unless there is no room for it. One that is alone is bounded by its own limit.
    fn admit(&self, request: &Request<RecvStream>) -> Option<HeadInUse> {
        let (mut fields, mut upgrade) = (0, false);
        for (name, value) in request.headers() {
            fields += name.as_str().len() + value.len();
            upgrade |= *name == WEFT_UPGRADE;
        }
        let path = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let size = fields + path + FIELD * request.headers().len();
        let taken = self.taken.get();
        if taken > 0 && taken + size > self.most {
            return None;
        }
        self.taken.set(taken + size);
        Some(HeadInUse { taken: Rc::clone(&self.taken), size, upgrade })
    }
}

impl Drop for HeadInUse {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - self.size);
    }
}

/// Serves streams until the client closes, the connection has been idle for its limit, or `drain` has begun and the
/// streams in flight have ended: GOAWAY first lets everything already on its way in (RFC 9113 section 6.8). A client that has
/// only just connected hears it behind its first request: many take one that they hear before for a connection that cannot
/// be used, and there may be no other.
///
/// Streams are futures of the connection's own task. They need no task each, a reset or a lost connection drops them
/// and so cancels what they were doing, and their answers leave in one write.
///
/// # Errors
/// What broke the connection.
pub async fn serve_http2<S, H>(
    io: S,
    handler: Rc<H>,
    limits: &Http2Limits,
    drain: Drain,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    // A peer that does not even send the preface is as idle as one can be.
    let wire = Wire::new(limits);
    let io = Frames::of_client(io, Rc::clone(&wire));
    let mut connection = tokio::select! {
        shaken = tokio::time::timeout(limits.idle, handshake(io, limits)) => match shaken {
            Ok(shaken) => shaken?,
            Err(_) => return Ok(()),
        },
        () = drain.clone().into_quiet() => return Ok(()),
    };
    let heads = Heads::new(limits.head_budget);
    let mut stall = Stall::new(&wire);
    let mut looks = limits.pause.map(|pause| Ticker::new(pause / LOOKS));
    let mut streams = FuturesUnordered::new();
    let mut begun = drain.clone();
    let mut draining = std::pin::pin!(async move { begun.draining().await });
    let mut quiet = std::pin::pin!(drain.into_quiet());
    let mut leave = Leave::Stays;
    let mut end = End::new(limits.idle);
    poll_fn(|cx| {
        if leave.is_due(end.used, draining.as_mut(), quiet.as_mut(), cx) {
            connection.graceful_shutdown();
        }
        for round in 0.. {
            wire.begin_turn();
            let closed = accept(&mut connection, cx, |request, mut respond| {
                (end.busy, end.used) = (true, true);
                let Some(head) = heads.admit(&request) else {
                    return respond.send_reset(Reason::REFUSED_STREAM);
                };
                let stream = serve_stream(Rc::clone(&handler), request, respond, head, Rc::clone(&wire));
                debug_assert!(size_of_val(&stream) <= STREAM_ROOM, "{}", size_of_val(&stream));
                streams.push(stream);
            })?;
            if let Some(calm) = calm(&mut connection, &wire, closed, cx) {
                return calm;
            }
            let mut progress = false;
            while let Poll::Ready(Some(())) = Pin::new(&mut streams).poll_next(cx) {
                progress = true;
            }
            if closed && streams.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !progress {
                break;
            }
            // What the streams queued leaves now, in one write.
            if round == ROUNDS {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if stall.poll(&wire, cx) {
            tracing::debug!("HTTP/2 peer does not read");
            return Poll::Ready(Ok(()));
        }
        if let Some(ticker) = &mut looks
            && !wire.inbox.is_empty()
        {
            while ticker.poll_tick(cx).is_ready() {
                wire.inbox.look();
            }
        }
        if end.poll(&mut connection, streams.is_empty(), handler.is_valid(), cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// How far a drain has come for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Stays,
    /// It has begun, and the peer has not been told.
    Begun,
    Told,
}

impl Leave {
    /// Whether the peer is to be told now: at once, or behind its first request, for which there is time until it is `quiet`.
    fn is_due(
        &mut self,
        used: bool,
        draining: Pin<&mut impl Future<Output = ()>>,
        quiet: Pin<&mut impl Future<Output = ()>>,
        cx: &mut Context<'_>,
    ) -> bool {
        if *self == Self::Stays && draining.poll(cx).is_ready() {
            *self = Self::Begun;
        }
        let due = *self == Self::Begun && (used || quiet.poll(cx).is_ready());
        if due {
            *self = Self::Told;
        }
        due
    }
}

/// Ends a connection whose peer floods: first it is told so, as far as it reads.
fn calm<S>(
    connection: &mut h2::server::Connection<S, Bytes>,
    wire: &Wire,
    closed: bool,
    cx: &mut Context<'_>,
) -> Option<Poll<Result<(), h2::Error>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !wire.is_flooded() {
        return None;
    }
    if closed {
        return Some(Poll::Ready(Err(Reason::ENHANCE_YOUR_CALM.into())));
    }
    if wire.begin_calming() {
        tracing::debug!("HTTP/2 peer floods");
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        cx.waker().wake_by_ref();
    }
    None
}

/// Takes the requests that have come. `true`: there will be no more.
fn accept<S>(
    connection: &mut h2::server::Connection<S, Bytes>,
    cx: &mut Context<'_>,
    mut begin: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
) -> Result<bool, h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(accepted)) => {
                let (request, respond) = accepted?;
                begin(request, respond);
            }
            Poll::Ready(None) => return Ok(true),
            Poll::Pending => return Ok(false),
        }
    }
}

fn handshake<S>(io: S, limits: &Http2Limits) -> h2::server::Handshake<S, Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    h2::server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_frame_size(limits.max_frame_size)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_error_resets)
        .enable_connect_protocol()
        .handshake(io)
}

/// When a connection ends of which nobody makes use, or whose peer may no longer make use of it.
struct End {
    ticker: Ticker,
    /// A stream has begun since the last tick.
    busy: bool,
    /// One has ever begun.
    used: bool,
    /// Ticks since the end was announced.
    announced: Option<u32>,
}

/// What follows from a tick.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Stay,
    /// GOAWAY: what is under way goes on.
    Announce,
    Close,
}

impl End {
    fn new(limit: Duration) -> Self {
        Self { ticker: Ticker::new(limit), busy: false, used: false, announced: None }
    }

    /// Looks whether the connection has to end now, or has to be told that it will.
    fn poll<S>(
        &mut self,
        connection: &mut h2::server::Connection<S, Bytes>,
        unused: bool,
        valid: bool,
        cx: &mut Context<'_>,
    ) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        while self.ticker.poll_tick(cx).is_ready() {
            match self.tick(unused, valid) {
                Turn::Stay => {}
                Turn::Announce => {
                    connection.graceful_shutdown();
                    // The GOAWAY leaves with the next poll of the connection.
                    cx.waker().wake_by_ref();
                }
                Turn::Close => return true,
            }
        }
        false
    }

    /// `unused`: no stream is open. `valid`: the peer may open more.
    fn tick(&mut self, unused: bool, valid: bool) -> Turn {
        let busy = std::mem::take(&mut self.busy);
        let idle = !busy && unused;
        match &mut self.announced {
            None if idle || !valid => {
                self.announced = Some(0);
                Turn::Announce
            }
            None => Turn::Stay,
            // The end is final only when the peer answers a ping (RFC 9113 section 6.8). One that does not is not waited
            // for where it has nothing more to say, or where it may not and still begins streams.
            Some(_) if idle => Turn::Close,
            Some(ticks) if *ticks > 0 && busy && !valid => Turn::Close,
            Some(ticks) => {
                *ticks += 1;
                Turn::Stay
            }
        }
    }
}

/// A request with its body, whose length the head may tell, and who looks after its pauses. (Not in the future of a stream: that
/// would have room for both.)
fn with_body(request: Request<RecvStream>, wire: &Rc<Wire>) -> (Request<Body>, Option<Watch>) {
    debug_assert_eq!(request.version(), Version::HTTP_2, "what is of HTTP/1 counts as clean");
    let (head, recv) = request.into_parts();
    let body = Body::received(recv, wire).declared(&head.headers);
    let watch = wire.pause().and_then(|_| body.watch());
    if let Some(watch) = watch
        && !goes_both_ways(&head.headers)
    {
        wire.inbox.limit(watch, true);
    }
    (Request::from_parts(head, body), watch)
}

/// Whether a call's client may wait for the server's word before it says more, and the server answers with its first message
/// only: gRPC, and the calls of Connect that stream (<https://connectrpc.com/docs/protocol>).
fn goes_both_ways(headers: &HeaderMap) -> bool {
    is_grpc(headers)
        || headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/connect+"))
}

/// One request from its head to the end of its answer.
async fn serve_stream<H: Handler>(
    handler: Rc<H>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    in_use: HeadInUse,
    wire: Rc<Wire>,
) {
    if (in_use.upgrade && handler.is_link()) || request.method() == Method::CONNECT {
        // Boxed: every stream would have its room.
        return Box::pin(serve_upgrade(handler, request, respond, in_use, wire)).await;
    }
    let (request, watch) = with_body(request, &wire);
    let answered = answer(&*handler, request, respond, &wire, watch).await;
    let Some((Answer { response, .. }, respond)) = answered else { return };
    drop(in_use);
    // Until the answer has ended, both may be silent as long as they like.
    let _talking = watch.map(|watch| wire.inbox.talking(watch));
    send_answer(response, respond, &wire).await;
}

/// Sends an answer to its end.
async fn send_answer<B>(response: Response<B>, mut respond: SendResponse<Bytes>, wire: &Rc<Wire>)
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let (head, mut body) = response.into_parts();
    let head = Response::from_parts(head, ());
    let first = if wire.is_strained() { Ok(None) } else { first_frame(&mut body).await };
    let first = match first {
        Ok(first) => first,
        Err(error) => {
            let side = Side::answer(&head);
            if let Ok(stream) = respond.send_response(head, false) {
                break_off(&mut SendHalf::new(stream, wire), side, &error);
            }
            return;
        }
    };
    if first.is_none() && body.is_end_stream() {
        // Failing to send means that the stream or the connection is gone, here and below: nobody is left to tell.
        let _ = respond.send_response(head, true);
        return;
    }
    let side = Side::answer(&head);
    let Ok(stream) = respond.send_response(head, false) else { return };
    if let (mut pump, None) = Pump::new(body, SendHalf::new(stream, wire), first, side)
        && let Err(error) = poll_fn(|cx| pump.poll(cx)).await
    {
        // The client's code, if it was the client: what the body itself said has ended it already.
        let _leaving = Leaving::by(ResetCode::of(&error));
        drop(pump);
    }
}

/// A request after whose answer the stream may carry another protocol.
async fn serve_upgrade<H: Handler>(
    handler: Rc<H>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    in_use: HeadInUse,
    wire: Rc<Wire>,
) {
    let (head, recv) = request.into_parts();
    let request = Request::from_parts(head, Body::Empty);
    let Some((Answer { response, upgrade }, mut respond)) =
        answer(&*handler, request, respond, &wire, None).await
    else {
        return;
    };
    drop(in_use);
    let (head, body) = response.into_parts();
    let ended = upgrade.is_none() && body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended) else { return };
    if let Some(task) = upgrade {
        let io = StreamIo::new(SendHalf::new(stream, &wire), RecvHalf::new(recv, &wire));
        task(UpgradeIo::Http2(io)).await;
    } else if !ended
        && let (mut pump, None) = Pump::new(body, SendHalf::new(stream, &wire), None, Side::Answer)
    {
        let _ = poll_fn(|cx| pump.poll(cx)).await;
    }
}

/// How a call came to its end.
enum Called<B> {
    Answered(Result<Answer<B>, Abort>),
    /// The client has reset the stream.
    Left(Result<Reason, h2::Error>),
    /// The client has paused for too long.
    Late,
}

/// The way back to the client of one request.
struct Respond<'a> {
    stream: RefCell<SendResponse<Bytes>>,
    wire: &'a Wire,
}

impl InterimSink for Respond<'_> {
    fn send(&self, head: Response<()>) {
        if self.wire.is_full() {
            return;
        }
        let fields = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
        self.wire.queue_head(FIELD + fields.sum::<usize>());
        // Failure means the stream is gone, which the final response will find out.
        let _ = self.stream.borrow_mut().send_informational(head);
    }
}

/// Calls the handler; a reset by the client drops the call, and so does a pause that is too long. `None` means that the stream
/// has ended.
async fn answer<H: Handler>(
    handler: &H,
    request: Request<Body>,
    respond: SendResponse<Bytes>,
    wire: &Wire,
    watch: Option<Watch>,
) -> Option<(Answer<H::Body>, SendResponse<Bytes>)> {
    let respond = Respond { stream: RefCell::new(respond), wire };
    let mut leaving = None;
    let called = {
        let mut call = std::pin::pin!(handler.call(request, Interim::Http2(&respond)));
        let called = poll_fn(|cx| {
            // Before whoever reads the body is told.
            if watch.is_some_and(|watch| wire.inbox.is_given_up(watch)) {
                return Poll::Ready(Called::Late);
            }
            if let Poll::Ready(result) = call.as_mut().poll(cx) {
                return Poll::Ready(Called::Answered(result));
            }
            respond.stream.borrow_mut().poll_reset(cx).map(Called::Left)
        })
        .await;
        if let Called::Left(reset) = &called {
            leaving = Some(Leaving::by(reset.as_ref().ok().map(|reason| ResetCode::from(*reason))));
        }
        called
    };
    drop(leaving);
    let mut respond = respond.stream.into_inner();
    match called {
        Called::Answered(Ok(answer)) => return Some((answer, respond)),
        Called::Answered(Err(Abort(code))) => respond.send_reset(code.into()),
        Called::Left(_) => respond.send_reset(Reason::CANCEL),
        Called::Late => {
            handler.refused(ErrorCode::RequestTimeout);
            refuse(respond, ErrorCode::RequestTimeout);
        }
    }
    None
}

/// Answers in the handler's place.
fn refuse(mut respond: SendResponse<Bytes>, code: ErrorCode) {
    let (head, body) = Refusal { code, grpc: false }.response().into_parts();
    if let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), false) {
        let text = if let Body::Full(text) = body { text } else { Bytes::new() };
        let _ = stream.send_data(text, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> End {
        End::new(Duration::from_secs(1))
    }

    #[test]
    fn an_unused_connection_is_told_and_then_closed() {
        let mut end = end();
        end.busy = true;
        assert_eq!(end.tick(false, true), Turn::Stay, "in use");
        assert_eq!(end.tick(false, true), Turn::Stay, "a long answer");
        assert_eq!(end.tick(true, true), Turn::Announce);
        assert_eq!(end.tick(true, true), Turn::Close, "the ping was not answered");
    }

    #[test]
    fn whose_certificate_has_ended_opens_no_streams_for_long() {
        let mut honest = end();
        honest.busy = true;
        assert_eq!(honest.tick(false, false), Turn::Announce);
        assert!((0..10).all(|_| honest.tick(false, false) == Turn::Stay), "what is under way goes on");
        let mut hostile = end();
        let mut turns = [(); 3].map(|()| {
            hostile.busy = true;
            hostile.tick(false, false)
        });
        turns.reverse();
        assert_eq!(turns, [Turn::Close, Turn::Stay, Turn::Announce]);
    }
}
