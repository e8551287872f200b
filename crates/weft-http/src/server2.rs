//! Serves HTTP/2: a mesh link, or an application that speaks h2c.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::Drain;

use crate::pump::{Pump, first_frame};
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
    let handshake = h2::server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_frame_size(limits.max_frame_size)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(io);
    // A peer that does not even send the preface is as idle as one can be.
    let Ok(connection) = tokio::time::timeout(limits.idle, handshake).await else { return Ok(()) };
    let mut connection = connection?;
    let mut streams = FuturesUnordered::new();
    let mut draining = std::pin::pin!(async move { drain.draining().await });
    let mut drained = false;
    let mut idle = std::pin::pin!(tokio::time::sleep(limits.idle));
    let mut busy = false;
    let mut leaving = false;
    poll_fn(|cx| {
        if !drained && draining.as_mut().poll(cx).is_ready() {
            drained = true;
            connection.graceful_shutdown();
        }
        loop {
            let closed = loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        busy = true;
                        let stream = serve_stream(Rc::clone(&handler), request, respond);
                        debug_assert!(size_of_val(&stream) <= STREAM_ROOM, "{}", size_of_val(&stream));
                        streams.push(stream);
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => break true,
                    Poll::Pending => break false,
                }
            };
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
        while idle.as_mut().poll(cx).is_ready() {
            if !busy && streams.is_empty() {
                if leaving {
                    // The end was announced an idle time ago, and the peer does not answer its ping.
                    return Poll::Ready(Ok(()));
                }
                leaving = true;
                connection.graceful_shutdown();
                // The GOAWAY leaves with the next poll of the connection.
                cx.waker().wake_by_ref();
            }
            busy = false;
            idle.as_mut().reset(tokio::time::Instant::now() + limits.idle);
        }
        Poll::Pending
    })
    .await
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
