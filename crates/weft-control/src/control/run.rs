//! The parts, put together.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use weft_core::Drain;
use weft_telemetry::Registry;
use weft_telemetry::metrics::{BuildInfo, register_process};

use super::admin::{self, Pages, Readiness};
use super::config::ControlConfig;
use super::follow::follow;
use super::leaving::leave;
use super::parts::Shared;
use super::telemetry::Telemetry;
use crate::{KubeError, controller};

/// A part of `weft control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The certificate authority.
    Ca,
    /// The mutating webhook.
    Injector,
    /// Membership, twins and modes.
    Controller,
}

impl Part {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Ca, Self::Injector, Self::Controller];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Injector => "injector",
            Self::Controller => "controller",
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
    /// The injector, HTTPS.
    pub injector: SocketAddr,
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
            injector: SocketAddr::new(any, 15443),
            metrics: SocketAddr::new(any, 15020),
            health: SocketAddr::new(any, 15021),
        }
    }
}

/// What to run, and how.
pub struct ControlOptions {
    /// The settings.
    pub config: ControlConfig,
    /// Where they are from; changes are followed.
    pub file: Option<PathBuf>,
    /// This replica's name, unique among the replicas: the pod's.
    pub replica: String,
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
    file: Option<PathBuf>,
    replica: String,
    parts: BTreeSet<Part>,
    binds: Binds,
    client: Client,
    registry: Registry,
    telemetry: Telemetry,
    readiness: Readiness,
    metrics: TcpListener,
    health: TcpListener,
}

impl Control {
    /// Binds the pages. The API server is not asked yet.
    ///
    /// # Errors
    /// [`KubeError::Listen`]; [`KubeError::Config`] where a part lacks its section; [`KubeError::Telemetry`].
    pub async fn bind(options: ControlOptions, client: Client) -> Result<Self, KubeError> {
        let ControlOptions { config, file, replica, parts, mut binds, build } = options;
        if parts.contains(&Part::Injector) && config.injector.is_none() {
            return Err(KubeError::Config {
                path: file.unwrap_or_else(|| "config.yaml".into()),
                line: None,
                field: "injector.image".to_owned(),
                reason: "is missing and has no default; the injector needs it (--only leaves a part out)"
                    .to_owned(),
            });
        }
        let registry = Registry::default();
        register_process(&registry, build);
        let telemetry = Telemetry::new(&config, &replica, &registry)?;
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
        Ok(Self {
            config,
            file,
            replica,
            parts,
            binds,
            client,
            registry,
            telemetry,
            readiness: Readiness::default(),
            metrics,
            health,
        })
    }

    /// Where it listens; the ports of the pages are those that were bound.
    pub fn binds(&self) -> Binds {
        self.binds
    }

    /// Runs the parts until the drain has closed, or has begun and all are done. From its beginning the replica is not
    /// ready; CA and injector take connections for [`ControlConfig::drain_period`] more.
    ///
    /// # Errors
    /// What a part cannot work without and waiting will not bring: [`KubeError::Issuer`], [`KubeError::Ca`].
    pub async fn serve(self, drain: Drain) -> Result<(), KubeError> {
        let Self {
            config,
            file,
            replica,
            parts,
            binds,
            client,
            registry,
            telemetry,
            readiness,
            metrics,
            health,
        } = self;
        let (config, settings) = (Arc::new(config.clone()), watch::Sender::new(Arc::new(config)));
        let passes = Arc::<controller::Metrics>::default();
        if parts.contains(&Part::Controller) {
            passes.register(&registry);
        }
        let pages = Pages { registry: registry.clone(), readiness: readiness.clone(), drain: drain.clone() };
        let parts: Vec<_> = parts.iter().map(|part| (*part, readiness.part(part.as_str()))).collect();
        let (trigger, listeners) = weft_core::drain();
        let leave = leave(drain.clone(), config.drain_period, trigger);
        let shared = Shared {
            config,
            replica,
            settings: settings.subscribe(),
            binds,
            client,
            registry,
            spans: telemetry.spans.clone(),
            passes,
            drain,
            listeners,
        };
        let mut closes = shared.drain.clone();
        let exporting = telemetry.start();
        let done = tokio::select! {
            done = shared.work(parts) => done,
            () = pages.serve(metrics, health) => Ok(()),
            () = follow_file(file.as_deref(), &settings) => Ok(()),
            () = closes.closed() => Ok(()),
            () = leave => Ok(()),
        };
        exporting.finish().await;
        done
    }
}

async fn follow_file(file: Option<&Path>, settings: &watch::Sender<Arc<ControlConfig>>) {
    match file {
        Some(file) => follow(file, settings).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
