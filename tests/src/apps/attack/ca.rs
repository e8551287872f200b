//! The CA: tokens that nobody gave out, connections that say nothing, streams that nobody reads, and as many of these as
//! there may be.

use std::convert::Infallible;
use std::rc::Rc;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Orders, PATIENCE, dial, over_and_over, tls};

/// A record of a ClientHello that says it has 512 octets, and five of them.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3];
/// What HTTP/2 begins with (RFC 9113 section 3.4), an empty SETTINGS, and the half of another.
const HALF_A_FRAME: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x40\x00";

pub(super) fn begin(orders: &Rc<Orders>) {
    over_and_over(orders, "ca forging connections", 16, forged);
    over_and_over(orders, "ca silent TLS", 300, silent);
    over_and_over(orders, "ca half a handshake", 100, half_a_handshake);
    over_and_over(orders, "ca half a frame", 50, half_a_frame);
    over_and_over(orders, "ca own streams", 300, streams);
    over_and_over(orders, "ca half a request", 32, half_a_request);
}

/// A body that has begun, and says no more.
type Open = StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>;

struct Connection {
    send: SendRequest<Open>,
    running: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Connection {
    async fn open(orders: &Orders) -> Result<Self> {
        let tls = tls::shake(dial(orders.ca).await?, b"h2").await?;
        let (send, connection) =
            timeout(PATIENCE, handshake(TokioExecutor::new(), TokioIo::new(tls))).await??;
        let running = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { send, running })
    }

    /// The status of the answer's head, gRPC's where it has one.
    async fn call(&mut self, method: &str, token: &str) -> Result<http::Response<hyper::body::Incoming>> {
        let request = Request::post(format!("https://ca/weft.identity.v1.Identity/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(StreamBody::new(stream::pending()))?;
        self.send.ready().await?;
        Ok(timeout(PATIENCE, self.send.send_request(request)).await??)
    }
}

/// A JWT of everything that the API server would write into one, but its signature.
fn made_up() -> String {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let header = part(json!({ "alg": "ES256", "kid": format!("{:x}", fastrand::u64(..)) }).to_string());
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["weft-ca"], "exp": 4_000_000_000_u64,
        "sub": "system:serviceaccount:weft-system:weft-control", "jti": fastrand::u64(..),
    });
    let signature: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(64).collect();
    format!("{header}.{}.{}", part(claims.to_string()), URL_SAFE_NO_PAD.encode(signature))
}

/// As many as a connection takes.
async fn forged(orders: &Orders, _: usize) -> Result<()> {
    sleep_until(orders.forge_from).await;
    let mut connection = Connection::open(orders).await?;
    loop {
        orders.counts.add("ca forged tokens sent");
        connection.call("WatchBundle", &made_up()).await?;
    }
}

async fn silent(orders: &Orders, _: usize) -> Result<()> {
    let mut tls = tls::shake(dial(orders.ca).await?, b"h2").await?;
    orders.counts.add("ca silent TLS open");
    let mut rest = Vec::new();
    let _ = tls.read_to_end(&mut rest).await;
    Ok(())
}

async fn half_a_handshake(orders: &Orders, _: usize) -> Result<()> {
    let mut tcp = dial(orders.ca).await?;
    tcp.write_all(HALF_A_HELLO).await?;
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    Ok(())
}

async fn half_a_frame(orders: &Orders, _: usize) -> Result<()> {
    let mut tls = tls::shake(dial(orders.ca).await?, b"h2").await?;
    tls.write_all(HALF_A_FRAME).await?;
    let mut rest = Vec::new();
    let _ = tls.read_to_end(&mut rest).await;
    Ok(())
}

/// Streams with the pod's own good token, until there may be no more; they are not read, and stay.
async fn streams(orders: &Orders, _: usize) -> Result<()> {
    let token = std::fs::read_to_string(&orders.token).context("the token")?;
    let mut connection = Connection::open(orders).await?;
    let mut open = Vec::new();
    loop {
        let answer = connection.call("WatchBundle", token.trim()).await?;
        if answer.headers().contains_key("grpc-status") {
            break;
        }
        open.push(answer);
        orders.counts.add("ca own streams");
    }
    // Until the CA has had enough of it.
    while !connection.running.is_finished() {
        sleep(PATIENCE / 10).await;
    }
    Ok(())
}

/// A signing request that begins and does not go on, by the same token.
async fn half_a_request(orders: &Orders, _: usize) -> Result<()> {
    let token = std::fs::read_to_string(&orders.token).context("the token")?;
    let mut connection = Connection::open(orders).await?;
    let _ = connection.call("Sign", token.trim()).await;
    Ok(())
}
