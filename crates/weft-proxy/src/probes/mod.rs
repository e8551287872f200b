//! The application's health checks, carried out for the kubelet.
//!
//! The kubelet speaks plaintext and has no identity, so under strict mutual TLS it cannot come to the application itself;
//! it asks here, and the proxy asks the application at the pod's own address, as the kubelet would have done. What it is
//! allowed to ask is fixed in the configuration. Anybody may come to this port, and a check costs the application work (a
//! `preStop` may even begin its end), so a path has a secret that the pod's spec tells the kubelet. Of the request nothing
//! but the path is looked at, nothing of it reaches the application, and nothing but a status goes back: why a check failed is
//! in the proxy's log. All this is on the control thread.
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::StatusCode;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_config::{Bind, Probe, ProbeCheck, ProxyConfig, ProxyProtocolPorts};
use weft_net::proxy_protocol;

use self::http::{Definition, Dial, Door, Stream, Verdict};

/// The checks.
pub(crate) struct Probes {
    offered: Vec<Offered>,
    /// Where the kubelet would have asked: the first of the pod's addresses.
    address: Option<IpAddr>,
    /// Ports where the proxy itself listens for the application (`inbound.listeners`), and where that is then.
    moved: HashMap<u16, SocketAddr>,
    /// Ports where the application is told who connects.
    announced: ProxyProtocolPorts,
    /// Where the proxy listens for itself.
    bind: Bind,
    tls: Arc<rustls::ClientConfig>,
}

/// A check, and how it went last.
struct Offered {
    probe: Probe,
    failing: AtomicBool,
}

/// Why the application counts as not healthy.
#[derive(Debug)]
enum Unhealthy {
    NoAddress,
    Connect(io::Error),
    Protocol(String),
    NotServing(String),
    Status(StatusCode),
    TooSlow(Duration),
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("the workload has no address (workload.addresses)"),
            Self::Connect(error) => write!(f, "the application took no connection: {error}"),
            Self::Protocol(error) => write!(f, "the application gave no answer: {error}"),
            Self::NotServing(what) => write!(f, "the application says {what}"),
            Self::Status(status) => write!(f, "the application answered {}", status.as_u16()),
            Self::TooSlow(limit) => write!(f, "the application took longer than {limit:?}"),
        }
    }
}

impl Unhealthy {
    /// What the kubelet is told. A status that it would not take must not become one that it takes, nor a redirect from here.
    fn status(&self) -> StatusCode {
        match self {
            Self::Status(status) if status.is_client_error() || status.is_server_error() => *status,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Offered {
    /// Tells a change once, and the rest to whoever listens closely: a kubelet asks every few seconds.
    fn note(&self, outcome: &Result<StatusCode, Unhealthy>) {
        let failed = outcome.is_err();
        let changed = self.failing.swap(failed, Ordering::Relaxed) != failed;
        let probe = &self.probe.path;
        match outcome {
            Err(why) if changed => tracing::info!(%probe, %why, "the application fails a health check"),
            Err(why) => tracing::debug!(%probe, %why, "the application fails a health check"),
            Ok(_) if changed => tracing::info!(%probe, "the application passes the health check again"),
            Ok(_) => {}
        }
    }
}

impl Probes {
    pub(crate) fn new(config: &ProxyConfig, own_addrs: &[IpAddr]) -> Result<Self, rustls::Error> {
        let moved = config.listeners.inbound.iter().map(|l| (l.address.port(), l.application));
        let offered = |probe: &Probe| Offered { probe: probe.clone(), failing: AtomicBool::new(false) };
        if let Some(probe) = config.probes.iter().find(|probe| !probe.path.is_secret()) {
            tracing::warn!(
                probe = %probe.path,
                "whoever reaches the health port can guess the path of this check and have it carried out; an older injector \
                 wrote it: make the pod anew (in a file, begin paths with /probe/ and 32 random hexadecimal digits)"
            );
        }
        Ok(Self {
            offered: config.probes.iter().map(offered).collect(),
            address: own_addrs.first().copied(),
            moved: moved.collect(),
            announced: config.proxy_protocol.clone(),
            bind: config.bind,
            tls: tls::unverified()?,
        })
    }

    /// Carries out the check that is offered under `path`. Without one the answer is that of any page that is not there.
    pub(crate) async fn answer(&self, path: &str) -> StatusCode {
        let Some(offered) = self.find(path) else { return StatusCode::NOT_FOUND };
        let Probe { check, timeout, .. } = &offered.probe;
        let checked = tokio::time::timeout(*timeout, self.check(check)).await;
        let outcome = checked.unwrap_or(Err(Unhealthy::TooSlow(*timeout)));
        offered.note(&outcome);
        outcome.unwrap_or_else(|why| why.status())
    }

    /// Compares in a time that does not tell how much of a path was right; its length is no secret.
    fn find(&self, path: &str) -> Option<&Offered> {
        let mut found = None;
        for offered in &self.offered {
            let known = offered.probe.path.as_str();
            if verify_slices_are_equal(known.as_bytes(), path.as_bytes()).is_ok() {
                found = Some(offered);
            }
        }
        found
    }

    async fn check(&self, check: &ProbeCheck) -> Result<StatusCode, Unhealthy> {
        match check {
            ProbeCheck::Tcp { port } => {
                self.connect(*port).await?;
                Ok(StatusCode::OK)
            }
            ProbeCheck::Grpc { port, service } => {
                let stream = self.connect(*port).await?;
                grpc::check(stream, self.at(*port)?, service).await?;
                Ok(StatusCode::OK)
            }
            ProbeCheck::Http { port, path, tls, headers } => {
                let definition = Definition { door: Door { port: *port, tls: *tls }, path, headers };
                let address = self.address.ok_or(Unhealthy::NoAddress)?;
                match http::ask(definition, address, self).await? {
                    // One that is not followed counts as success.
                    Verdict::Redirect => Ok(StatusCode::OK),
                    Verdict::Status(status) if status.is_success() => Ok(status),
                    Verdict::Status(status) => Err(Unhealthy::Status(status)),
                }
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
        let mut stream = TcpStream::connect(address).await.map_err(Unhealthy::Connect)?;
        if let Some(version) = self.announced.get(address.port()) {
            let announcing = async {
                let header = proxy_protocol::own(version, &stream)?;
                proxy_protocol::write(&mut stream, version, &header).await
            };
            announcing.await.map_err(Unhealthy::Connect)?;
        }
        Ok(stream)
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

    /// Anywhere in the pod but to the proxy itself: a check that led to a check would have no end.
    fn leads_to(&self, port: u16) -> bool {
        self.at(port).is_ok_and(|address| self.moved.contains_key(&port) || !self.bind.takes(address))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
