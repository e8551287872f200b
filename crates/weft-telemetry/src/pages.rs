//! Serves pages for scrapers, probes and operators over HTTP/1, with limits.
//!
//! Most of these listeners are open to the network and share the process's descriptors with its traffic. So a request
//! head has its time, and only so many connections are open at once: the *oldest* gives way, because a probe or a scrape
//! is over in milliseconds, and what has been there for long is not one.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tower::Service as _;

/// How long a request head may take, and how long a connection may stay without one. Longer than any probe waits.
const HEAD_READ: Duration = Duration::from_secs(10);
/// Connections of one listener.
const MOST: usize = 128;
/// After a failed accept (no descriptors): short, because readiness is asked for here.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for as long as it is polled.
pub async fn serve_pages(listener: TcpListener, router: Router) {
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
