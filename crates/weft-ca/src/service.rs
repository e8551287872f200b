//! `weft.identity.v1.Identity`: each call is authenticated, decided, and written to the audit log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_core::{Drain, SpiffeId};
use weft_identity::proto::identity_server::Identity;
use weft_identity::proto::{SignRequest, SignResponse, WatchBundleRequest, WatchBundleResponse};

use crate::auth::Authenticator;
use crate::bundle::{BundleFeed, message};
use crate::conn::PeerInfo;
use crate::csr;
use crate::issue::{LeafIssuer, Purpose};
use crate::watchers::{Watcher, Watchers};

/// A bundle stream ends after this time, and up to a tenth later: the proxy opens it again and proves itself anew, so
/// that a token that has expired or was removed does not live on in a stream.
const STREAM_LIFE: Duration = Duration::from_secs(3600);
/// A SHA-256 in hex.
const HASH_LEN: usize = 64;

/// The answer to every refused credential, whatever is wrong with it.
const REFUSED: &str = "credential refused";

pub(crate) struct IdentityService {
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) issuer: Arc<LeafIssuer>,
    pub(crate) bundle: Arc<BundleFeed>,
    pub(crate) watchers: Watchers,
    pub(crate) drain: Drain,
}

impl IdentityService {
    /// The caller's identity, or the one answer to a refused credential.
    fn authenticate<T>(
        &self,
        call: &'static str,
        request: &Request<T>,
    ) -> Result<(SpiffeId, String), Status> {
        let info = request.extensions().get::<PeerInfo>();
        let peer = info.map_or_else(|| "unknown".to_owned(), |info| info.address.to_string());
        match self.auth.authenticate(request.metadata()) {
            Ok(id) => {
                if let Some(info) = info {
                    info.authenticated();
                }
                Ok((id, peer))
            }
            Err(reason) => {
                tracing::warn!(target: "weft::audit", call, peer, outcome = "refused", %reason);
                Err(Status::unauthenticated(REFUSED))
            }
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let (id, peer) = self.authenticate("Sign", &request)?;
        let key = csr::key(&request.get_ref().csr).map_err(|reason| {
            tracing::warn!(target: "weft::audit", call = "Sign", peer, identity = %id, outcome = "refused", %reason);
            Status::invalid_argument(reason.to_string())
        })?;
        let issued = self.issuer.issue(&id, &key, Purpose::Workload, SystemTime::now()).map_err(|reason| {
            tracing::error!(target: "weft::audit", call = "Sign", peer, identity = %id, outcome = "failed", %reason);
            Status::unavailable("the CA cannot sign now")
        })?;
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        tracing::info!(
            target: "weft::audit",
            call = "Sign",
            peer,
            identity = %id,
            outcome = "signed",
            serial = issued.serial,
            not_after = %humantime::format_rfc3339_seconds(issued.not_after),
        );
        Ok(Response::new(SignResponse {
            certificate_chain: issued.chain.iter().map(|der| der.as_ref().to_vec()).collect(),
            not_after_unix_seconds: i64::try_from(not_after).unwrap_or(i64::MAX),
            spiffe_id: id.to_string(),
        }))
    }

    type WatchBundleStream = ReceiverStream<Result<WatchBundleResponse, Status>>;

    async fn watch_bundle(
        &self,
        request: Request<Streaming<WatchBundleRequest>>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let (id, peer) = self.authenticate("WatchBundle", &request)?;
        tracing::info!(target: "weft::audit", call = "WatchBundle", peer, identity = %id, outcome = "opened");
        // One is enough: a proxy that has not read the last bundle gets the newest when it has.
        let (send, receive) = mpsc::channel(1);
        let stream = BundleStream {
            id,
            send,
            reports: request.into_inner(),
            bundle: self.bundle.clone(),
            watcher: self.watchers.join(),
            watchers: self.watchers.clone(),
            drain: self.drain.clone(),
        };
        tokio::spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// One open `WatchBundle` call.
struct BundleStream {
    id: SpiffeId,
    send: mpsc::Sender<Result<WatchBundleResponse, Status>>,
    reports: Streaming<WatchBundleRequest>,
    bundle: Arc<BundleFeed>,
    watcher: Watcher,
    watchers: Watchers,
    drain: Drain,
}

impl BundleStream {
    async fn run(mut self) {
        self.serve().await;
        let Self { watcher, watchers, bundle, .. } = self;
        drop(watcher);
        announce(&watchers, &bundle.hash());
    }

    async fn serve(&mut self) {
        let end = Instant::now() + STREAM_LIFE.mul_f64(1.0 + fastrand::f64() / 10.0);
        let mut bundles = self.bundle.subscribe();
        bundles.mark_changed();
        let mut reporting = true;
        loop {
            tokio::select! {
                () = self.drain.draining() => return,
                () = self.send.closed() => return,
                () = sleep_until(end) => return,
                Ok(()) = bundles.changed() => {
                    let next = message(&bundles.borrow_and_update());
                    if self.send.send(Ok(next)).await.is_err() {
                        return;
                    }
                }
                report = self.reports.message(), if reporting => match report {
                    Ok(Some(report)) if report.bundle_hash.len() <= HASH_LEN => self.note(report.bundle_hash),
                    Ok(Some(_)) => {
                        let _ = self.send.send(Err(Status::invalid_argument("bundle_hash is no SHA-256 in hex"))).await;
                        return;
                    }
                    // A caller may say only once what it has and then just listen.
                    Ok(None) => reporting = false,
                    Err(_) => return,
                },
            }
        }
    }

    fn note(&self, hash: String) {
        let current = self.bundle.hash();
        tracing::debug!(identity = %self.id, up_to_date = hash == current, "bundle in use reported");
        self.watcher.report(hash);
        announce(&self.watchers, &current);
    }
}

/// Says when a bundle has come to everyone: what a rotation waits for before it signs with the new root.
fn announce(watchers: &Watchers, bundle: &str) {
    if let Some(proxies) = watchers.settled(bundle) {
        tracing::info!(bundle, proxies, "every connected proxy uses the bundle");
    }
}
