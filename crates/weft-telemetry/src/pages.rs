//! Serves pages for scrapers, probes and operators over HTTP/1, with limits.
//!
//! Most of these listeners are open to the network and share the process's descriptors with its traffic. So a request
//! head has its time, and only so many connections are open at once: the *oldest* gives way, because a probe or a scrape
//! is over in milliseconds, and what has been there for long is not one.
//!
//! What every page has beside that are layers of `tower-http`, around whatever router is served.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tower::Service as _;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;

/// How long a request head may take, and how long a connection may stay without one. Longer than any probe waits.
const HEAD_READ: Duration = Duration::from_secs(10);
/// Connections of one listener.
const MOST: usize = 128;
/// After a failed accept (no descriptors): short, because readiness is asked for here.
const PAUSE: Duration = Duration::from_millis(100);
/// Of a request's body. What is asked here is a line of log directives, or a request that is to be explained.
const BODY: usize = 64 << 10;

/// Serves for as long as it is polled.
pub async fn serve_pages(listener: TcpListener, router: Router) {
    let router = layered(router);
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "pages listener");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MOST
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(connection(stream, router.clone())).abort_handle());
    }
}

/// What all pages have, those that the router has not included; the last layer is the outermost.
fn layered(router: Router) -> Router {
    router
        // Connections times what one may send is what somebody can make the process keep.
        .layer(RequestBodyLimitLayer::new(BODY))
        // A scrape is text that repeats itself, each quarter of a minute from every pod. The fastest level makes a tenth of it.
        .layer(CompressionLayer::new().gzip(true).quality(CompressionLevel::Fastest))
        // A page is true for the moment, and some tell what not everybody is to find in a cache.
        .layer(SetResponseHeaderLayer::overriding(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        // Pages quote what others have sent (paths, names); no browser is to take them for another type than they say.
        .layer(SetResponseHeaderLayer::overriding(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
}

async fn connection(stream: TcpStream, router: Router) {
    // A router is always ready.
    let service =
        service_fn(move |request: http::Request<Incoming>| router.clone().call(request.map(Body::new)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "pages connection");
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
