//! Serves HTTP/2: a mesh link, or an application that speaks h2c.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::Drain;

use crate::pump::{Pump, first_frame};
use crate::ticker::Ticker;
use crate::wire::WEFT_UPGRADE;
use crate::{Abort, Answer, Body, Handler, Http2Limits, Interim, StreamIo, UpgradeIo};

/// Bytes that the future of a stream may have. It is moved and allocated whole for every request, so what is rare or large
/// in it is boxed.
const STREAM_ROOM: usize = 2048;

/// Serves streams until the client closes, the connection has been idle for its limit, or `drain` has begun and the
/// streams in flight have ended: GOAWAY first lets everything already on its way in (RFC 9113 section 6.8).
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
    mut drain: Drain,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    // A peer that does not even send the preface is as idle as one can be.
    let Ok(connection) = tokio::time::timeout(limits.idle, handshake(io, limits)).await else {
        return Ok(());
    };
    let mut connection = connection?;
    let mut streams = FuturesUnordered::new();
    let mut draining = std::pin::pin!(async move { drain.draining().await });
    let mut drained = false;
    let mut end = End::new(limits.idle);
    poll_fn(|cx| {
        if !drained && draining.as_mut().poll(cx).is_ready() {
            drained = true;
            connection.graceful_shutdown();
        }
        loop {
            let closed = accept(&mut connection, cx, |request, respond| {
                end.busy = true;
                let stream = serve_stream(Rc::clone(&handler), request, respond);
                debug_assert!(size_of_val(&stream) <= STREAM_ROOM, "{}", size_of_val(&stream));
                streams.push(stream);
            })?;
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
        }
        while end.ticker.poll_tick(cx).is_ready() {
            match end.tick(streams.is_empty(), handler.is_valid()) {
                Turn::Stay => {}
                Turn::Announce => {
                    connection.graceful_shutdown();
                    // The GOAWAY leaves with the next poll of the connection.
                    cx.waker().wake_by_ref();
                }
                Turn::Close => return Poll::Ready(Ok(())),
            }
        }
        Poll::Pending
    })
    .await
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
        .enable_connect_protocol()
        .handshake(io)
}

/// When a connection ends of which nobody makes use, or whose peer may no longer make use of it.
struct End {
    ticker: Ticker,
    /// A stream has begun since the last tick.
    busy: bool,
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
        Self { ticker: Ticker::new(limit), busy: false, announced: None }
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

/// One request from its head to the end of its answer.
async fn serve_stream<H: Handler>(
    handler: Rc<H>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let marked = handler.is_link() && request.headers().contains_key(&WEFT_UPGRADE);
    if marked || request.method() == Method::CONNECT {
        // Boxed: every stream would have its room.
        return Box::pin(serve_upgrade(handler, request, respond)).await;
    }
    let request = request.map(Body::from_stream);
    let Some((Answer { response, .. }, mut respond)) = answer(&*handler, request, respond).await else {
        return;
    };
    let (head, mut body) = response.into_parts();
    let head = http::Response::from_parts(head, ());
    let first = match first_frame(&mut body).await {
        Ok(first) => first,
        Err(error) => return respond.send_reset(error.reset_reason()),
    };
    if first.is_none() && body.is_end_stream() {
        // Failing to send means that the stream or the connection is gone, here and below: nobody is left to tell.
        let _ = respond.send_response(head, true);
        return;
    }
    let Ok(stream) = respond.send_response(head, false) else { return };
    if let (mut pump, None) = Pump::new(body, stream, first) {
        let _ = poll_fn(|cx| pump.poll(cx)).await;
    }
}

/// A request after whose answer the stream may carry another protocol.
async fn serve_upgrade<H: Handler>(
    handler: Rc<H>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (head, recv) = request.into_parts();
    let request = Request::from_parts(head, Body::Empty);
    let Some((Answer { response, upgrade }, mut respond)) = answer(&*handler, request, respond).await else {
        return;
    };
    let (head, body) = response.into_parts();
    let ended = upgrade.is_none() && body.is_end_stream();
    let Ok(stream) = respond.send_response(http::Response::from_parts(head, ()), ended) else { return };
    if let Some(task) = upgrade {
        task(UpgradeIo::Http2(StreamIo::new(stream, recv))).await;
    } else if !ended && let (mut pump, None) = Pump::new(body, stream, None) {
        let _ = poll_fn(|cx| pump.poll(cx)).await;
    }
}

/// Calls the handler; a reset by the client drops the call. `None` means that the stream has ended.
async fn answer<H: Handler>(
    handler: &H,
    request: Request<Body>,
    respond: SendResponse<Bytes>,
) -> Option<(Answer<H::Body>, SendResponse<Bytes>)> {
    let respond = RefCell::new(respond);
    let result = {
        let mut call = std::pin::pin!(handler.call(request, Interim::Http2(&respond)));
        poll_fn(|cx| {
            if let Poll::Ready(result) = call.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            respond.borrow_mut().poll_reset(cx).map(|_| None)
        })
        .await
    };
    match result {
        Some(Ok(answer)) => Some((answer, respond.into_inner())),
        Some(Err(Abort(reason))) => {
            respond.into_inner().send_reset(reason);
            None
        }
        None => {
            respond.into_inner().send_reset(Reason::CANCEL);
            None
        }
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
