//! What each part is given, and how it is run.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kube::Client;
use tokio::sync::watch;
use tokio::time::timeout;
use weft_ca::{Authority, Ca, CaError, CaParts};
use weft_core::{Drain, SpiffeId};
use weft_identity::IdentityError;
use weft_telemetry::{Registry, ServerSpans};

use super::admin::PartReadiness;
use super::config::ControlConfig;
use super::injector::{ca_address, native, written};
use super::run::{Binds, Part};
use super::wait::Wait;
use crate::KubeError;
use crate::controller;
use crate::credentials::{IssuerSecret, TokenReviewer};
use crate::inject::Injector;
use crate::names::CA_ACCOUNT;
use crate::webhook::{AuthoritySigner, Webhook, WebhookOptions};

/// One look at the Secret, its creation included.
const OPEN: Duration = Duration::from_secs(15);

/// A part at work. Ends when the drain has begun and its work is done.
type Running<'a> = Pin<Box<dyn Future<Output = Result<(), KubeError>> + Send + 'a>>;

/// What the parts share.
pub(super) struct Shared {
    /// As at the start.
    pub(super) config: Arc<ControlConfig>,
    /// As now.
    pub(super) settings: watch::Receiver<Arc<ControlConfig>>,
    pub(super) replica: String,
    pub(super) binds: Binds,
    pub(super) client: Client,
    pub(super) registry: Registry,
    pub(super) spans: ServerSpans,
    pub(super) passes: Arc<controller::Metrics>,
    /// Begins when the replica is told to end.
    pub(super) drain: Drain,
    /// Begins when nothing new is taken any more.
    pub(super) listeners: Drain,
}

impl Shared {
    /// Runs the parts until the drain has begun and all are done.
    pub(super) async fn work(self, parts: Vec<(Part, PartReadiness)>) -> Result<(), KubeError> {
        let issuer =
            IssuerSecret::new(self.client.clone(), self.config.namespace.clone(), self.registry.clone());
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
                Part::Injector => Box::pin(self.injector(authority.clone(), ready)),
                Part::Controller => Box::pin(self.controller(&authority, ready)),
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
        let ControlConfig { trust_domain, namespace, ca, .. } = &*self.config;
        let server_id = SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: namespace.clone(),
            service_account: CA_ACCOUNT.parse().map_err(IdentityError::from).map_err(CaError::from)?,
        };
        let mut wait = Wait::new(parts.iter().map(|(_, ready)| ready));
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
        let reviewer = TokenReviewer::new(self.client.clone(), config.trust_domain.clone(), &self.registry);
        let parts = CaParts {
            listen: self.binds.ca,
            authority,
            credentials: Arc::new(reviewer),
            registry: self.registry.clone(),
            spans: self.spans.clone(),
        };
        let ca = Ca::with(parts).await?.limited(config.ca.limits());
        ready.ready();
        Ok(ca.serve(self.listeners.clone()).await?)
    }

    async fn injector(&self, authority: Authority, ready: PartReadiness) -> Result<(), KubeError> {
        // Checked when the pages were bound.
        let Some(settings) = self.config.injector.clone() else { return Ok(()) };
        let mut begins = self.drain.clone();
        let own_namespace = self.config.namespace.to_string();
        let found = async {
            let native = native(&self.client, &settings, &ready).await;
            (native, ca_address(&self.client, &own_namespace, &ready).await)
        };
        let (native, ca) = tokio::select! {
            found = found => found,
            () = begins.draining() => return Ok(()),
        };
        let webhook = Webhook::bind(WebhookOptions {
            bind: self.binds.injector,
            injector: Injector { settings, native, own_namespace, ca },
            callers: self.config.webhook.clone(),
            signer: Arc::new(AuthoritySigner::new(authority.clone())),
            client: Some(self.client.clone()),
            registry: self.registry.clone(),
            spans: self.spans.clone(),
        })
        .await?;
        let written = async {
            written(&self.client, &authority, &ready).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = webhook.serve(self.drain.clone(), self.listeners.clone()) => Ok(()),
            () = written => Ok(()),
        }
    }

    /// Ready as soon as it runs: a replica that does not lead is a standby, and which one leads may change at any time.
    async fn controller(&self, authority: &Authority, ready: PartReadiness) -> Result<(), KubeError> {
        let settings = watch::Sender::new(Arc::new(self.config.settings()));
        let roots = watch::Sender::new(Arc::from(authority.bundle_pem()));
        let parts = controller::Parts {
            client: self.client.clone(),
            identity: self.replica.clone(),
            settings: settings.subscribe(),
            roots: roots.subscribe(),
            metrics: self.passes.clone(),
        };
        let (mut configs, mut bundles) = (self.settings.clone(), authority.watch_bundle());
        let feed = async {
            loop {
                tokio::select! {
                    Ok(()) = configs.changed() => {
                        let new = configs.borrow_and_update().settings();
                        settings.send_replace(Arc::new(new));
                    }
                    Ok(()) = bundles.changed() => {
                        bundles.mark_unchanged();
                        roots.send_replace(Arc::from(authority.bundle_pem()));
                    }
                    else => return std::future::pending::<()>().await,
                }
            }
        };
        ready.ready();
        tokio::select! {
            done = controller::run(parts, self.drain.clone()) => done,
            () = feed => Ok(()),
        }
    }
}

/// Waits for all; the first error ends the rest.
async fn all(mut running: FuturesUnordered<Running<'_>>) -> Result<(), KubeError> {
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}
