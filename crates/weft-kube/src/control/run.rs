//! The parts, put together.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kube::Client;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use weft_ca::{Authority, Ca, CaError, CaParts};
use weft_core::{Drain, SpiffeId};
use weft_identity::IdentityError;
use weft_telemetry::Registry;
use weft_telemetry::metrics::{BuildInfo, register_process};

use super::admin::{self, Pages, PartReadiness, Readiness};
use super::config::ControlConfig;
use crate::KubeError;
use crate::credentials::{IssuerSecret, TokenReviewer};

/// The service account that the CA's certificate names.
const CA_ACCOUNT: &str = "weft-ca";
/// One look at the Secret, its creation included.
const OPEN: Duration = Duration::from_secs(15);
/// The pause after the first failure to reach the API server; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Short, because pods wait for their certificates meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same failure is told again after this time.
const REMIND: Duration = Duration::from_secs(60);

/// A part of `weft control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The certificate authority.
    Ca,
}

impl Part {
    /// All there are.
    pub const ALL: [Self; 1] = [Self::Ca];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|part| part.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|part| part.as_str()).collect();
            format!("there is no such part; the parts are {}", all.join(", "))
        })
    }
}

/// Where to listen.
#[derive(Debug, Clone, Copy)]
pub struct Binds {
    /// The CA, gRPC over TLS.
    pub ca: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
    /// `/live` and `/ready`.
    pub health: SocketAddr,
}

impl Default for Binds {
    /// The ports of the manifests, on every address of both families, or of IPv4 where the kernel has no IPv6.
    fn default() -> Self {
        let any = match std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
            Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
            Err(_) => Ipv4Addr::UNSPECIFIED.into(),
        };
        Self {
            ca: SocketAddr::new(any, 15012),
            metrics: SocketAddr::new(any, 15020),
            health: SocketAddr::new(any, 15021),
        }
    }
}

/// What to run, and how.
pub struct ControlOptions {
    /// The settings.
    pub config: ControlConfig,
    /// The parts to run.
    pub parts: BTreeSet<Part>,
    /// Where to listen.
    pub binds: Binds,
    /// What `weft_build_info` says.
    pub build: BuildInfo,
}

/// `weft control` with its health and metrics addresses, about to run.
pub struct Control {
    config: ControlConfig,
    parts: BTreeSet<Part>,
    binds: Binds,
    client: Client,
    registry: Registry,
    readiness: Readiness,
    metrics: TcpListener,
    health: TcpListener,
}

/// A part at work. Ends when the drain has begun and its work is done.
type Running<'a> = Pin<Box<dyn Future<Output = Result<(), KubeError>> + Send + 'a>>;

impl Control {
    /// Binds the pages. The API server is not asked yet.
    ///
    /// # Errors
    /// [`KubeError::Listen`].
    pub async fn bind(options: ControlOptions, client: Client) -> Result<Self, KubeError> {
        let ControlOptions { config, parts, mut binds, build } = options;
        let registry = Registry::default();
        register_process(&registry, build);
        let (metrics, address) = admin::bind("metrics", binds.metrics).await?;
        binds.metrics = address;
        let (health, address) = admin::bind("health", binds.health).await?;
        binds.health = address;
        let names: Vec<_> = parts.iter().map(|part| part.as_str()).collect();
        tracing::info!(
            parts = names.join(","),
            namespace = %config.namespace,
            metrics = %binds.metrics,
            health = %binds.health,
            "control starts"
        );
        Ok(Self { config, parts, binds, client, registry, readiness: Readiness::default(), metrics, health })
    }

    /// Where it listens; the ports of the pages are those that were bound.
    pub fn binds(&self) -> Binds {
        self.binds
    }

    /// Runs the parts until the drain has closed, or has begun and all are done.
    ///
    /// # Errors
    /// What a part cannot work without and waiting will not bring: [`KubeError::Issuer`], [`KubeError::Ca`].
    pub async fn serve(self, drain: Drain) -> Result<(), KubeError> {
        let Self { config, parts, binds, client, registry, readiness, metrics, health } = self;
        let pages = Pages { registry: registry.clone(), readiness: readiness.clone(), drain: drain.clone() };
        let parts: Vec<_> = parts.iter().map(|part| (*part, readiness.part(part.as_str()))).collect();
        let shared = Shared { config, binds, client, registry, drain };
        let mut closes = shared.drain.clone();
        tokio::select! {
            done = shared.work(parts) => done,
            () = pages.serve(metrics, health) => Ok(()),
            () = closes.closed() => Ok(()),
        }
    }
}

/// What the parts share.
struct Shared {
    config: ControlConfig,
    binds: Binds,
    client: Client,
    registry: Registry,
    drain: Drain,
}

impl Shared {
    async fn work(self, parts: Vec<(Part, PartReadiness)>) -> Result<(), KubeError> {
        let issuer = IssuerSecret::new(self.client.clone(), self.config.namespace.clone());
        let mut begins = self.drain.clone();
        let authority = tokio::select! {
            authority = self.authority(&issuer, &parts) => authority?,
            // Nothing is served yet, so nothing has to be finished.
            () = begins.draining() => return Ok(()),
        };
        let running: FuturesUnordered<Running<'_>> = parts
            .into_iter()
            .map(|(part, ready)| match part {
                Part::Ca => Box::pin(self.ca(authority.clone(), ready)) as Running<'_>,
            })
            .collect();
        tokio::select! {
            done = all(running) => done,
            () = issuer.follow(&authority) => Ok(()),
        }
    }

    /// The root out of the Secret. Waits for an API server that is away, for as long as it takes.
    async fn authority(
        &self,
        issuer: &IssuerSecret,
        parts: &[(Part, PartReadiness)],
    ) -> Result<Authority, KubeError> {
        let ControlConfig { trust_domain, namespace, ca, .. } = &self.config;
        let server_id = SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: namespace.clone(),
            service_account: CA_ACCOUNT.parse().map_err(IdentityError::from).map_err(CaError::from)?,
        };
        let mut wait = Wait::new(parts);
        loop {
            let opened = timeout(OPEN, issuer.open(trust_domain, ca.root_lifetime)).await;
            let error = match opened {
                Ok(Ok(pem)) => {
                    wait.over();
                    return Authority::new(pem, server_id, ca.leaf_lifetime).map_err(|error| {
                        let reason = format!("cannot be used: {error}");
                        KubeError::Issuer { secret: issuer.to_string(), reason }
                    });
                }
                Ok(Err(error @ KubeError::Api { .. })) => error.to_string(),
                Ok(Err(error)) => return Err(error),
                Err(_) => format!("Secret {issuer}: no answer from the API server within {OPEN:?}"),
            };
            wait.failed(&error).await;
        }
    }

    async fn ca(&self, authority: Authority, ready: PartReadiness) -> Result<(), KubeError> {
        let config = &self.config;
        let parts = CaParts {
            listen: self.binds.ca,
            authority,
            credentials: Arc::new(TokenReviewer::new(self.client.clone(), config.trust_domain.clone())),
            registry: self.registry.clone(),
        };
        let ca = Ca::with(parts).await?;
        ready.ready();
        Ok(ca.serve(self.drain.clone()).await?)
    }
}

/// Waits for all; the first error ends the rest.
async fn all(mut running: FuturesUnordered<Running<'_>>) -> Result<(), KubeError> {
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

/// Waiting for the API server: says so once, again when the reason changes, and sparingly after that.
struct Wait<'a> {
    parts: &'a [(Part, PartReadiness)],
    since: Instant,
    pause: Duration,
    said: Option<(String, Instant)>,
}

impl<'a> Wait<'a> {
    fn new(parts: &'a [(Part, PartReadiness)]) -> Self {
        Self { parts, since: Instant::now(), pause: FIRST_PAUSE, said: None }
    }

    async fn failed(&mut self, error: &str) {
        for (_, ready) in self.parts {
            ready.waiting(format!("waits for the API server: {error}"));
        }
        if self.said.as_ref().is_none_or(|(last, at)| last != error || at.elapsed() >= REMIND) {
            let waiting = humantime::format_duration(Duration::from_secs(self.since.elapsed().as_secs()));
            tracing::warn!(error, %waiting, "waiting for the API server; not ready");
            self.said = Some((error.to_owned(), Instant::now()));
        }
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn over(&self) {
        if self.said.is_some() {
            tracing::info!("the API server is there");
        }
    }
}
