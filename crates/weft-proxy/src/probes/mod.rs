//! The application's health checks, carried out for the kubelet.
//!
//! The kubelet speaks plaintext and has no identity, so under strict mutual TLS it cannot come to the application itself;
//! it asks here, and the proxy asks the application at the pod's own address, as the kubelet would have done. What it is
//! allowed to ask is fixed in the configuration: a path names a check, it is not passed on. All this is on the control thread.
//!
//! | module | |
//! |---|---|
//! | `http` | GET, over TLS that is not verified where asked |
//! | `grpc` | `grpc.health.v1.Health/Check` |

mod grpc;
mod http;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::{Request, StatusCode};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpStream;
use weft_config::{Probe, ProbeCheck, ProxyConfig};

/// The checks by their path.
pub(crate) struct Probes {
    by_path: HashMap<String, Probe>,
    /// Where the kubelet would have asked: the first of the pod's addresses.
    address: Option<IpAddr>,
    /// Ports where the proxy itself listens for the application (`inbound.listeners`), and where that is then.
    moved: HashMap<u16, SocketAddr>,
    /// The port that the kubelet asks instead of the application's.
    own_port: u16,
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
    pub(crate) fn new(
        config: &ProxyConfig,
        own_addrs: &[IpAddr],
        own_port: u16,
    ) -> Result<Self, rustls::Error> {
        let moved = config.listeners.inbound.iter().map(|l| (l.address.port(), l.application));
        Ok(Self {
            by_path: config.probes.iter().map(|probe| (probe.path.clone(), probe.clone())).collect(),
            address: own_addrs.first().copied(),
            moved: moved.collect(),
            own_port,
            tls: http::unverified()?,
        })
    }

    /// Carries out the check that the request's path names.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response {
        let Some(probe) = self.by_path.get(request.uri().path()) else {
            return (StatusCode::NOT_FOUND, "no such probe\n").into_response();
        };
        let unhealthy = |why: &dyn fmt::Display| {
            tracing::debug!(probe = probe.path, %why, "the application is not healthy");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        };
        match tokio::time::timeout(probe.timeout, self.check(&probe.check, request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(why)) => unhealthy(&why),
            Err(_) => unhealthy(&format_args!("the application took longer than {:?}", probe.timeout)),
        }
    }

    async fn check(&self, check: &ProbeCheck, request: Request<Body>) -> Result<Response, Unhealthy> {
        match check {
            ProbeCheck::Tcp { port } => {
                self.connect(*port).await?;
                Ok("connected\n".into_response())
            }
            ProbeCheck::Grpc { port, service } => {
                let stream = self.connect(*port).await?;
                grpc::check(stream, service).await?;
                Ok("SERVING\n".into_response())
            }
            ProbeCheck::Http { port, path, tls } => {
                let stream = self.connect(*port).await?;
                let peer = stream.peer_addr().map_err(Unhealthy::Connect)?;
                let request = http::request(request, path, peer, self.own_port)?;
                if *tls {
                    let stream = http::secure(stream, Arc::clone(&self.tls), peer).await?;
                    http::exchange(stream, request).await
                } else {
                    http::exchange(stream, request).await
                }
            }
        }
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Unhealthy> {
        let address = match self.moved.get(&port) {
            Some(application) => *application,
            None => SocketAddr::new(self.address.ok_or(Unhealthy::NoAddress)?, port),
        };
        TcpStream::connect(address).await.map_err(Unhealthy::Connect)
    }
}
