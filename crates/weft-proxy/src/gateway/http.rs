//! Requests of a gateway's clients.

use std::rc::Rc;

use http::{Request, Response, StatusCode};
use weft_http::{Abort, Answer, Body, Handler, Interim, serve_http1, serve_http2};

use super::GatewayDoor;
use super::edge::{Edge, EdgeIo};

/// Serves the requests of one connection.
pub(crate) async fn serve(door: Rc<GatewayDoor>, edge: Edge) {
    let Edge { io, client, drain, tls, state, open: _open, listed, .. } = edge;
    let handler = Rc::new(Unrouted);
    let _ = (&state.sockets, tls.as_ref().map(|tls| (&tls.sni, &tls.client_certificate)));
    let http2 = tls.is_some_and(|tls| tls.h2);
    listed.update(|info| info.protocol = if http2 { "http/2" } else { "http/1" });
    let served = if http2 {
        serve_http2(io, handler, &door.limits.http2, drain).await.map_err(|error| error.to_string())
    } else {
        let served = serve_http1(io, EdgeIo::reset_on_close, handler, &door.limits.http1, drain).await;
        served.map(drop).map_err(|error| error.to_string())
    };
    if let Err(error) = served {
        tracing::debug!(%error, %client, "a client's connection failed");
    }
}

/// Answers 404 for everything.
struct Unrouted;

impl Handler for Unrouted {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, _request: Request<Body>, _interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_FOUND;
        Ok(response.into())
    }
}
