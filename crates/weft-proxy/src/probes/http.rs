//! GET as the kubelet does it, redirects included.
//!
//! The kubelet follows a redirect within the pod, up to ten requests in all, and counts one to another host as success.
//! So is one to the proxy's own ports counted here: what the application answers must not have the proxy ask itself.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;

use ::http::{Request, StatusCode, header};
use axum::body::Body;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_config::ProbeHeader;

use super::Unhealthy;
use super::head::{Headers, Question};
use super::url::Url;
use super::verbatim::Verbatim;

/// The kubelet reads no more of an answer than this, 10 KiB, and one that breaks off before that has failed.
const MOST_BODY: usize = 10 * 1024;
/// The most of a head that is read: as much as servers commonly send at most, many times over.
const MOST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 512;
/// Requests for one check, the first included: the limit of Go's client.
const MOST_REQUESTS: usize = 10;

/// A connection to the application.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// How a check comes to the application.
pub(super) trait Dial {
    type Stream: Stream;
    fn dial(&self, door: Door) -> impl Future<Output = Result<Self::Stream, Unhealthy>> + Send;
    /// Whether a redirect may lead to this port.
    fn leads_to(&self, port: u16) -> bool;
}

/// Where a request of a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// What a definition asks for.
#[derive(Clone, Copy)]
pub(super) struct Definition<'a> {
    pub(super) door: Door,
    pub(super) path: &'a str,
    pub(super) headers: &'a [ProbeHeader],
}

/// What the check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The application's last status.
    Status(StatusCode),
    /// It answered with a redirect that is not followed, which is success.
    Redirect,
}

/// Carries the check out; `address` is the pod's.
pub(super) async fn ask(
    definition: Definition<'_>,
    address: IpAddr,
    application: &impl Dial,
) -> Result<Verdict, Unhealthy> {
    let scheme = if definition.door.tls { "https" } else { "http" };
    let authority = SocketAddr::new(address, definition.door.port).to_string();
    let no_host = || Unhealthy::Protocol("the path of the check names no host to ask".to_owned());
    let mut url = Url::of_probe(scheme, &authority, definition.path).ok_or_else(no_host)?;
    let headers = Headers::of_probe(definition.headers);
    let mut host = headers.first("Host").filter(|host| !host.is_empty());
    let (mut door, mut from) = (definition.door, None);
    for _ in 0..MOST_REQUESTS {
        let head = Question { url: &url, host, headers: &headers, from: from.as_ref() }.head();
        let answer = exchange(application.dial(door).await?, head).await?;
        let Some(location) = answer.location else { return Ok(answer.verdict()) };
        let (next, relative) = follow(&url, &location)?;
        if next.hostname() != url.hostname() {
            return Ok(Verdict::Redirect);
        }
        door = match (&next.scheme[..], next.port()) {
            (b"http" | b"https", Some(port)) => Door { port, tls: next.scheme == b"https" },
            _ => return Err(Unhealthy::Protocol("a redirect to what is no HTTP".to_owned())),
        };
        if !application.leads_to(door.port) {
            return Ok(Verdict::Redirect);
        }
        host = host.filter(|_| relative);
        from = Some(std::mem::replace(&mut url, next));
    }
    Err(Unhealthy::Protocol(format!("a redirect after {MOST_REQUESTS} requests")))
}

/// Where `location` leads from `url`, and whether it was written without a scheme.
fn follow(url: &Url, location: &[u8]) -> Result<(Url, bool), Unhealthy> {
    let malformed = || Unhealthy::Protocol("a redirect with a malformed location".to_owned());
    let reference = Url::parse(location).ok_or_else(malformed)?;
    let relative = reference.scheme.is_empty();
    Ok((url.join(reference), relative))
}

struct Answer {
    status: StatusCode,
    /// Where it is a redirect that leads somewhere.
    location: Option<Vec<u8>>,
}

impl Answer {
    fn verdict(&self) -> Verdict {
        if self.status.is_redirection() { Verdict::Redirect } else { Verdict::Status(self.status) }
    }
}

async fn exchange(stream: impl Stream, head: Vec<u8>) -> Result<Answer, Unhealthy> {
    let failed = |error: hyper::Error| Unhealthy::Protocol(error.to_string());
    let io = TokioIo::new(Verbatim::new(stream, head));
    let mut client = http1::Builder::new();
    client.max_buf_size(MOST_HEAD).max_headers(MOST_HEADERS);
    let (mut sender, connection) = client.handshake(io).await.map_err(failed)?;
    let mut connection = std::pin::pin!(connection);
    let answering = async {
        // What hyper writes of it is not sent: see `verbatim`.
        let response = sender.send_request(Request::new(Body::empty())).await.map_err(failed)?;
        let answer = Answer { status: response.status(), location: location(&response) };
        if answer.location.is_none() {
            read_beginning(response.into_body()).await.map_err(failed)?;
        }
        Ok(answer)
    };
    // The connection moves the exchange along; how it ended is told by the exchange itself.
    let driving = async {
        let _ = connection.as_mut().await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        answer = answering => answer,
        never = driving => match never {},
    }
}

/// Where a redirect leads; one without a location is an answer like any other.
fn location<B>(response: &::http::Response<B>) -> Option<Vec<u8>> {
    let followed = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| followed)?;
    (!location.is_empty()).then(|| location.as_bytes().to_vec())
}

/// Reads as far as the kubelet would.
async fn read_beginning(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut read = 0;
    while read < MOST_BODY {
        let frame = std::future::poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.transpose()),
            Poll::Pending => Poll::Pending,
        });
        let Some(frame) = frame.await? else { break };
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
    }
    Ok(())
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
