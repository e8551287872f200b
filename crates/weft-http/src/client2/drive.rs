//! Drives a connection: waits for the peer's first words, notes what it changes, and finds out when it has gone.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{NOT_SAID, Root, STREAMS_WITHOUT_SETTINGS, State};
use crate::frames::{Stall, Wire};

/// Waits for the peer's first SETTINGS.
pub(super) async fn first_settings<S>(
    connection: &mut Connection<S, Bytes>,
    wire: &Wire,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        wire.begin_turn();
        match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended.and(Err(Reason::NO_ERROR.into()))),
            Poll::Pending if wire.is_flooded() => Poll::Ready(Err(Reason::ENHANCE_YOUR_CALM.into())),
            Poll::Pending if connection.max_concurrent_send_streams() == NOT_SAID => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        }
    })
    .await
}

/// Notes what the peer may have changed.
pub(super) fn look<S>(connection: &Connection<S, Bytes>, state: &State, root: &Root)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = match connection.max_concurrent_send_streams() {
        NOT_SAID => STREAMS_WITHOUT_SETTINGS,
        said => said,
    };
    let limit = limit.min(state.most);
    let grown = limit > state.limit.replace(limit);
    let ended = !state.closed.get() && root.has_ended();
    if ended {
        state.closed.set(true);
    }
    if grown || ended {
        root.tell();
    }
}

/// Drives the connection until it ends or has been idle for `idle`.
pub(super) async fn drive<S>(
    mut connection: Connection<S, Bytes>,
    state: Rc<State>,
    root: Weak<Root>,
    wire: Rc<Wire>,
    idle: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut seen = state.started.get();
    let mut stall = Stall::new(&wire);
    loop {
        let driven = poll_fn(|cx| {
            wire.begin_turn();
            let ended = Pin::new(&mut connection).poll(cx);
            if wire.take_news()
                && let Some(root) = root.upgrade()
            {
                look(&connection, &state, &root);
            }
            if wire.is_flooded() || stall.poll(&wire, cx) {
                // A client has no way to say why (`h2` has none for it): what it has asked for ends with the connection.
                return Poll::Ready(Err(Reason::ENHANCE_YOUR_CALM.into()));
            }
            ended
        });
        let turn = async {
            tokio::select! {
                biased;
                result = driven => Some(result),
                () = state.dead.notified() => None,
            }
        };
        match tokio::time::timeout(idle, turn).await {
            Ok(None) => {
                tracing::debug!("HTTP/2 peer does not answer PING");
                break;
            }
            Ok(Some(result)) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "HTTP/2 connection ended");
                }
                break;
            }
            Err(_) if state.active.get() == 0 && state.started.get() == seen => break,
            Err(_) => seen = state.started.get(),
        }
    }
    state.closed.set(true);
    drop(connection);
    if let Some(root) = root.upgrade() {
        root.tell();
    }
}

/// Asks a connection that is in use whether the peer is still there.
pub(super) async fn probe(mut ping: h2::PingPong, state: Rc<State>, every: Duration, patience: Duration) {
    while !state.closed.get() {
        tokio::time::sleep(every).await;
        if state.active.get() == 0 {
            continue;
        }
        match tokio::time::timeout(patience, ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => return state.dead.notify_one(),
        }
    }
}
