//! Connections of a gateway's clients that carry requests.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::Drain;
use weft_http::{ResetOnClose, serve_http1, serve_http2};
use weft_net::{Detected, Prefixed};

use super::GatewayDoor;
use super::edge::{Edge, reset_on_close};
use crate::exchange::{Came, Exchange, Gateway, Times};
use crate::silence::{UNFINISHED, detect_or_give_up, silence};

/// Serves the requests of one connection.
pub(crate) async fn serve(door: Rc<GatewayDoor>, edge: Edge) {
    let Edge { mut io, client, local, port, tls, drain, open: _open, listed, .. } = edge;
    let http2 = tls.as_ref().map(|tls| tls.h2);
    let mut first = BytesMut::new();
    // In plaintext nothing has told yet; a client that says nothing is not waited for for ever.
    let http2 = match http2 {
        Some(http2) => http2,
        None => {
            tokio::select! {
                biased;
                detected = detect_or_give_up(&mut io, &mut first, UNFINISHED) => match detected {
                    Some(detected) => matches!(detected, Detected::Http2),
                    None => return,
                },
                () = silence(Some(door.shared.config.timeouts.idle)) => return,
                () = drain.clone().into_quiet() => return,
            }
        }
    };
    listed.update(|info| info.protocol = if http2 { "http/2" } else { "http/1" });
    let came = tls.map_or(Came::Plain, Came::Tls);
    let side = Gateway::new(&door, &port, came, (client, local));
    let facts = side.facts(client, local);
    let timeouts = &door.shared.config.timeouts;
    let times = Times { request: timeouts.request, tunnel_idle: timeouts.tcp_idle };
    let handler = Exchange::new(side, &door.telemetry, facts, times);
    let served = match first.is_empty() {
        true => requests(&door, io, reset_on_close, handler, http2, drain).await,
        false => {
            let io = Prefixed::new(first.freeze(), io);
            requests(&door, io, |io| reset_on_close(io.get_ref()), handler, http2, drain).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %client, "a client's connection failed");
    }
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    door: &GatewayDoor,
    io: S,
    reset_on_close: ResetOnClose<S>,
    handler: Rc<Exchange<Gateway>>,
    http2: bool,
    drain: Drain,
) -> Result<(), String> {
    if http2 {
        return serve_http2(io, handler, &door.limits.http2, drain).await.map_err(|error| error.to_string());
    }
    let served = serve_http1(io, reset_on_close, handler, &door.limits.http1, drain).await;
    served.map(drop).map_err(|error| error.to_string())
}
