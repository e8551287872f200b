//! The application's health checks, carried out for the kubelet.
//!
//! The kubelet speaks plaintext and has no identity, so under strict mutual TLS it cannot come to the application itself;
//! it asks here, and the proxy asks the application at the pod's own address, as the kubelet would have done. What it is
//! allowed to ask is fixed in the configuration. Anybody may come to this port, so a path names a check and that is all: of the
//! request nothing else is looked at, nothing of it reaches the application, and nothing but the outcome goes back.
//! All this is on the control thread.
//!
//! | module | |
//! |---|---|
//! | `http` | GET and redirects |
//! | `url`, `head` | what the kubelet makes of a definition's path and headers |
//! | `verbatim` | a connection on which just that is sent |
//! | `tls` | TLS that is not verified |
//! | `grpc` | `grpc.health.v1.Health/Check` |

mod grpc;
mod head;
mod http;
mod tls;
mod url;
mod verbatim;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_config::{Probe, ProbeCheck, ProxyConfig};

use self::http::{Definition, Dial, Door, Stream, Verdict};

/// The checks by their path.
pub(crate) struct Probes {
    by_path: HashMap<String, Probe>,
    /// Where the kubelet would have asked: the first of the pod's addresses.
    address: Option<IpAddr>,
    /// Ports where the proxy itself listens for the application (`inbound.listeners`), and where that is then.
    moved: HashMap<u16, SocketAddr>,
    tls: Arc<rustls::ClientConfig>,
}

/// Why the application counts as not healthy.
#[derive(Debug)]
enum Unhealthy {
    NoAddress,
    Connect(io::Error),
    Protocol(String),
    NotServing(String),
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("the workload has no address (workload.addresses)"),
            Self::Connect(error) => write!(f, "the application took no connection: {error}"),
            Self::Protocol(error) => write!(f, "the application gave no answer: {error}"),
            Self::NotServing(what) => write!(f, "the application says {what}"),
        }
    }
}

impl Probes {
    pub(crate) fn new(config: &ProxyConfig, own_addrs: &[IpAddr]) -> Result<Self, rustls::Error> {
        let moved = config.listeners.inbound.iter().map(|l| (l.address.port(), l.application));
        Ok(Self {
            by_path: config.probes.iter().map(|probe| (probe.path.clone(), probe.clone())).collect(),
            address: own_addrs.first().copied(),
            moved: moved.collect(),
            tls: tls::unverified()?,
        })
    }

    /// Carries out the check that is offered under `path`.
    pub(crate) async fn answer(&self, path: &str) -> Response {
        let Some(probe) = self.by_path.get(path) else {
            return (StatusCode::NOT_FOUND, "no such probe\n").into_response();
        };
        let unhealthy = |why: &dyn fmt::Display| {
            tracing::debug!(probe = probe.path, %why, "the application is not healthy");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        };
        match tokio::time::timeout(probe.timeout, self.check(&probe.check)).await {
            Ok(Ok(response)) => response,
            Ok(Err(why)) => unhealthy(&why),
            Err(_) => unhealthy(&format_args!("the application took longer than {:?}", probe.timeout)),
        }
    }

    async fn check(&self, check: &ProbeCheck) -> Result<Response, Unhealthy> {
        match check {
            ProbeCheck::Tcp { port } => {
                self.connect(*port).await?;
                Ok("connected\n".into_response())
            }
            ProbeCheck::Grpc { port, service } => {
                let stream = self.connect(*port).await?;
                grpc::check(stream, self.at(*port)?, service).await?;
                Ok("SERVING\n".into_response())
            }
            ProbeCheck::Http { port, path, tls, headers } => {
                let definition = Definition { door: Door { port: *port, tls: *tls }, path, headers };
                let address = self.address.ok_or(Unhealthy::NoAddress)?;
                http::ask(definition, address, self).await.map(told)
            }
        }
    }

    /// Where the kubelet would ask.
    fn at(&self, port: u16) -> Result<SocketAddr, Unhealthy> {
        Ok(SocketAddr::new(self.address.ok_or(Unhealthy::NoAddress)?, port))
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Unhealthy> {
        let address = match self.moved.get(&port) {
            Some(application) => *application,
            None => self.at(port)?,
        };
        TcpStream::connect(address).await.map_err(Unhealthy::Connect)
    }
}

impl Dial for Probes {
    type Stream = Box<dyn Stream>;

    async fn dial(&self, door: Door) -> Result<Box<dyn Stream>, Unhealthy> {
        let stream = self.connect(door.port).await?;
        if !door.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::IpAddress(self.at(door.port)?.ip().into());
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        let secured = connecting.await.map_err(|error| Unhealthy::Protocol(error.to_string()))?;
        Ok(Box::new(secured))
    }

    /// Whether some check asks there: a redirect must not lead to what is none of the application's.
    fn leads_to(&self, port: u16) -> bool {
        self.by_path.values().any(|probe| probe.check.port() == port)
    }
}

/// The outcome for the kubelet: its own words where it fails, and nothing that the application wrote. A status that the
/// kubelet would not take must not become one that it takes, nor a redirect from here.
fn told(verdict: Verdict) -> Response {
    let status = match verdict {
        Verdict::Redirect => return (StatusCode::OK, "a redirect that is not followed\n").into_response(),
        Verdict::Status(status) => status,
    };
    if status.is_success() {
        return status.into_response();
    }
    let failed = format!("HTTP probe failed with statuscode: {}\n", status.as_u16());
    let error = status.is_client_error() || status.is_server_error();
    (if error { status } else { StatusCode::SERVICE_UNAVAILABLE }, failed).into_response()
}
