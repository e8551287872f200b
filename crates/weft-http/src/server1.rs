//! Serves an application's HTTP/1 connection.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::Drain;

use crate::activity::{Activity, Counted, Quiet, Tracked, Watch};
use crate::limits::READ_BUFFER;
use crate::{Abort, Answer, Body, Handler, Http1Limits, Interim, UpgradeIo};

/// Serves requests until the client closes, a limit is passed, or `drain` has begun and the request in flight is
/// answered. Requests of one connection are answered in order, also when they are pipelined. A connection that becomes
/// another protocol's is served until that ends.
///
/// The client closing its sending half ends the request in flight (as nginx does): it is the only sign that a client
/// gives when it goes away, and a call that nobody waits for must not go on in the mesh.
///
/// # Errors
/// What broke the connection; a client that goes away is not an error.
pub async fn serve_http1<S, H>(
    io: S,
    handler: Rc<H>,
    limits: &Http1Limits,
    mut drain: Drain,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let activity = Arc::new(Activity::default());
    let mut watch = Watch::new(Arc::clone(&activity), limits);
    let mut io = Counted::new(io, Arc::clone(&activity));
    loop {
        match serve_busy(io, &handler, &activity, limits, &mut watch, &mut drain).await? {
            Some(parked) => io = parked,
            None => return Ok(()),
        }
        let more = tokio::select! {
            biased;
            more = io.wait() => more.unwrap_or(false),
            _ = poll_fn(|cx| watch.poll_quiet(true, cx)) => false,
            () = drain.draining() => false,
        };
        if !more {
            return Ok(());
        }
    }
}

/// Serves until the connection is done, or has nothing to do and gives its buffers back: then the socket is returned.
///
/// hyper keeps a read buffer of 8 KiB for each connection, busy or not; thousands of idle connections are common
/// (clients' pools), and theirs are a waste.
async fn serve_busy<S, H>(
    io: Counted<S>,
    handler: &Rc<H>,
    activity: &Arc<Activity>,
    limits: &Http1Limits,
    watch: &mut Watch,
    drain: &mut Drain,
) -> Result<Option<Counted<S>>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let (handler, activity) = (Rc::clone(handler), Arc::clone(activity));
    let tunnel = Tunnel::default();
    let opened = Tunnel::clone(&tunnel);
    let service = service_fn(move |request: Request<Incoming>| {
        let in_flight = activity.begin();
        if takes_over(&request) {
            activity.take_over();
        }
        let (handler, opened) = (Rc::clone(&handler), Tunnel::clone(&opened));
        // Boxed, so that only connections with a request in flight pay for its size.
        Box::pin(async move {
            let mut response = call(&*handler, request, &opened).await?;
            // The version is the connection's own. hyper lowers it for an HTTP/1.0 client, and keeps the connection of
            // such a client alive only where it lowers it from 1.1.
            *response.version_mut() = Version::HTTP_11;
            Ok::<_, Abort>(response.map(|body| Tracked::new(body, in_flight)))
        })
    });
    let mut connection = builder(limits).serve_connection(TokioIo::new(io), service).with_upgrades();
    let result = tokio::select! {
        biased;
        result = &mut connection => result,
        quiet = poll_fn(|cx| watch.poll_quiet(false, cx)) => match quiet {
            Quiet::Parked => {
                return Ok(connection.into_parts().map(|parts| parts.io.into_inner().unread(parts.read_buf)));
            }
            Quiet::Head | Quiet::Idle => {
                tracing::debug!(?quiet, "closing an HTTP/1 connection");
                return Ok(None);
            }
        },
        () = drain.draining() => {
            // The request in flight is answered with `connection: close`; an idle connection closes.
            Pin::new(&mut connection).graceful_shutdown();
            connection.await
        }
    };
    match result {
        Ok(()) => {
            // Here and not in a task of its own: whoever ends, lists or counts this connection means these bytes as well.
            if let Some(tunnel) = tunnel.take() {
                tunnel.await;
            }
            Ok(None)
        }
        Err(error) if is_departure(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the connection is for once hyper has let go of it.
type Tunnel = Rc<Cell<Option<Pin<Box<dyn Future<Output = ()>>>>>>;

fn builder(limits: &Http1Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // A proxy adds no Date of its own (RFC 9110 section 6.6.1 asks for one from origin servers).
    builder.auto_date_header(false);
    builder.max_header_size(limits.max_header_bytes);
    builder.max_buf_size(limits.max_header_bytes.max(READ_BUFFER));
    if limits.max_headers != Http1Limits::default().max_headers {
        // Setting it makes hyper allocate per request.
        builder.max_headers(limits.max_headers);
    }
    builder
}

async fn call<H: Handler>(
    handler: &H,
    mut request: Request<Incoming>,
    tunnel: &Tunnel,
) -> Result<http::Response<H::Body>, Abort> {
    if !takes_over(&request) {
        let answer = handler.call(request.map(Body::from_incoming), Interim::Http1).await?;
        return Ok(answer.response);
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let Answer { response, upgrade } = handler.call(request.map(|_| Body::Empty), Interim::Http1).await?;
    if let Some(task) = upgrade {
        tunnel.set(Some(Box::pin(async move {
            match upgraded.await {
                Ok(io) => task(UpgradeIo::Http1(TokioIo::new(io))).await,
                Err(error) => tracing::debug!(%error, "the client left before its upgrade"),
            }
        })));
    }
    Ok(response)
}

/// Whether the bytes after this request may belong to another protocol. An upgrade request with a body keeps its body
/// and stays an ordinary request (RFC 9110 section 7.8 lets a server ignore the upgrade).
fn takes_over(request: &Request<Incoming>) -> bool {
    request.method() == Method::CONNECT
        || (request.headers().contains_key(UPGRADE)
            && request.headers().contains_key(CONNECTION)
            && http_body::Body::is_end_stream(request.body()))
}

/// The client went away, or we broke an exchange off on purpose.
fn is_departure(error: &hyper::Error) -> bool {
    error.is_closed()
        || error.is_canceled()
        || error.is_incomplete_message()
        || error.is_shutdown()
        || error.is_body_write_aborted()
        || error.source().is_some_and(|source| source.is::<Abort>() || source.is::<std::io::Error>())
}
