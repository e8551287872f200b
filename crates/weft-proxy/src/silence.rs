//! How long to wait for somebody to speak, and for the end of what was begun.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use weft_net::{Detected, OpaqueReason, detect_first, read_more};

/// How long a client may leave a line unfinished that could still become a request. Clients send a request's first line
/// in one piece; one that waits for an answer to half a line speaks something else (JDWP, ZooKeeper's `ruok`).
pub(crate) const UNFINISHED: Duration = Duration::from_secs(1);

/// Resolves when a connection on which nobody has spoken is over: as a relay is that carries nothing (`timeouts.tcpIdle`;
/// without one, keepalive ends connections whose peers are gone, and those that are there may be silent).
pub(crate) async fn silence(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits for what the client speaks; a client that has begun and then waits is opaque.
pub(crate) async fn detect_or_give_up<S>(
    client: &mut S,
    first: &mut BytesMut,
    unfinished: Duration,
) -> Option<Detected>
where
    S: AsyncRead + Unpin,
{
    // However long it is silent.
    if first.is_empty() {
        read_more(client, first).await.ok()?;
    }
    loop {
        let before = first.len();
        match tokio::time::timeout(unfinished, detect_first(client, first)).await {
            Ok(detected) => return detected.ok(),
            Err(_) if first.len() == before => return Some(Detected::Opaque(OpaqueReason::Unfinished)),
            Err(_) => {}
        }
    }
}
