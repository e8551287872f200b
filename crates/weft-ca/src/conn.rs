//! One connection: HTTP/2 with the service behind it, until it ends or has to.

use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use weft_core::Drain;

use crate::callers::{End, Seat};
use crate::calls::Calls;

/// A proxy has one bundle stream and now and then a Sign call. Each has room for headers and a message while it waits.
const MAX_STREAMS: u32 = 4;
/// Headers of a call: a token of up to 16 KiB and little else.
const MAX_HEADERS: u32 = 24 * 1024;
/// What a caller may have on the way to us in one call: a signing request has 8 KiB at the most.
const WINDOW: u32 = 16 * 1024;
/// The same in all calls of a connection; HTTP/2 begins with this (RFC 9113 section 6.9.2) and cannot take any of it back.
const CONNECTION_WINDOW: u32 = 65_535;
/// What is kept for a caller that does not read: more than the largest bundle, of 64 roots with a kilobyte each.
const UNREAD: usize = 128 * 1024;
/// Idle connections are normal here; dead ones are found by pings.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// For the last answer and the goodbye of a connection that is told to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. When the drain begins it may finish its calls.
pub(crate) async fn serve<IO>(io: IO, seat: Seat, calls: Calls, mut drain: Drain)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answers = {
        let seat = seat.clone();
        service_fn(move |request| calls.clone().answer(seat.clone(), request))
    };
    // In one allocation of its own, so that what is done before (the TLS handshake) takes no room in it.
    let mut connection = Box::pin(http().serve_connection(TokioIo::new(io), answers));
    let end = tokio::select! {
        served = &mut connection => {
            if let Err(error) = served {
                tracing::debug!(peer = %seat.peer(), %error, "connection ended");
            }
            return;
        }
        end = seat.over() => Some(end),
        () = drain.draining() => None,
    };
    if end == Some(End::Now) {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let patience = async {
        match end {
            Some(_) => sleep(LAST_WORDS).await,
            // The calls under way have until the drain is over, idle and slow callers no longer than ever.
            None => {
                seat.over().await;
                sleep(LAST_WORDS).await;
            }
        }
    };
    tokio::select! {
        _ = &mut connection => {}
        () = patience => {}
    }
}

fn http() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(UNREAD)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}
