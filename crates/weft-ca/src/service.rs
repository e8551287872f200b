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

use crate::auth::bearer;
use crate::authority::message;
use crate::conn::PeerInfo;
use crate::csr;
use crate::issue::Subject;
use crate::metrics::Metrics;
use crate::watchers::{Watcher, Watchers};
use crate::{Authority, Credentials, PodRef, Proof, Unproven};

/// A bundle stream ends after this time, and up to a tenth later: the proxy opens it again and proves itself anew, so
/// that a token that has expired or was removed does not live on in a stream.
const STREAM_LIFE: Duration = Duration::from_secs(3600);
/// A SHA-256 in hex.
const HASH_LEN: usize = 64;

/// The answer to every refused credential, whatever is wrong with it.
const REFUSED: &str = "credential refused";
/// The answer where nobody could say what the credential proves.
const UNCHECKED: &str = "the credential cannot be checked now";

pub(crate) struct IdentityService {
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) authority: Authority,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watchers: Watchers,
    pub(crate) drain: Drain,
}

/// Who calls, as far as the audit log tells it.
struct Caller {
    id: SpiffeId,
    peer: String,
    pod: String,
    pod_uid: String,
}

impl Caller {
    fn new(proof: Proof, peer: String) -> Self {
        let PodRef { name: pod, uid: pod_uid } =
            proof.pod.unwrap_or(PodRef { name: String::new(), uid: String::new() });
        Self { id: proof.id, peer, pod, pod_uid }
    }
}

/// One line of the audit log about a known caller; fields without a value are left out.
macro_rules! audit {
    ($level:ident, $call:literal, $caller:expr, $($rest:tt)*) => {{
        let caller: &Caller = $caller;
        tracing::$level!(
            target: "weft::audit",
            call = $call,
            peer = caller.peer,
            identity = %caller.id,
            pod = (!caller.pod.is_empty()).then_some(caller.pod.as_str()),
            pod_uid = (!caller.pod_uid.is_empty()).then_some(caller.pod_uid.as_str()),
            $($rest)*
        );
    }};
}

impl IdentityService {
    /// What the call's credential proves, or the one answer to a refused credential.
    async fn authenticate<T>(&self, call: &'static str, request: &Request<T>) -> Result<Caller, Status> {
        let info = request.extensions().get::<PeerInfo>();
        let peer = info.map_or_else(|| "unknown".to_owned(), |info| info.address.to_string());
        let proven = match bearer(request.metadata()) {
            Ok(token) => self.credentials.prove(token).await,
            Err(refusal) => Err(refusal.into()),
        };
        match proven {
            Ok(proof) => {
                if let Some(info) = info {
                    info.authenticated();
                }
                Ok(Caller::new(proof, peer))
            }
            Err(Unproven::Refused(reason)) => {
                self.metrics.refused.inc();
                tracing::warn!(target: "weft::audit", call, peer, outcome = "refused", %reason);
                Err(Status::unauthenticated(REFUSED))
            }
            Err(Unproven::Unavailable(reason)) => {
                self.metrics.unavailable.inc();
                tracing::error!(target: "weft::audit", call, peer, outcome = "unavailable", %reason);
                Err(Status::unavailable(UNCHECKED))
            }
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let caller = self.authenticate("Sign", &request).await?;
        let key = csr::key(&request.get_ref().csr).map_err(|reason| {
            self.metrics.refused.inc();
            audit!(warn, "Sign", &caller, outcome = "refused", %reason);
            Status::invalid_argument(reason.to_string())
        })?;
        let subject = Subject::Workload(&caller.id);
        let signed = self.authority.signer().issuer.issue(subject, &key, SystemTime::now());
        let issued = signed.map_err(|reason| {
            self.metrics.failed.inc();
            audit!(error, "Sign", &caller, outcome = "failed", %reason);
            Status::unavailable("the CA cannot sign now")
        })?;
        self.metrics.signed.inc();
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        audit!(
            info,
            "Sign",
            &caller,
            outcome = "signed",
            serial = issued.serial,
            not_after = %humantime::format_rfc3339_seconds(issued.not_after),
        );
        Ok(Response::new(SignResponse {
            certificate_chain: issued.chain.iter().map(|der| der.as_ref().to_vec()).collect(),
            not_after_unix_seconds: i64::try_from(not_after).unwrap_or(i64::MAX),
            spiffe_id: caller.id.to_string(),
        }))
    }

    type WatchBundleStream = ReceiverStream<Result<WatchBundleResponse, Status>>;

    async fn watch_bundle(
        &self,
        request: Request<Streaming<WatchBundleRequest>>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let caller = self.authenticate("WatchBundle", &request).await?;
        audit!(info, "WatchBundle", &caller, outcome = "opened");
        // One is enough: a proxy that has not read the last bundle gets the newest when it has.
        let (send, receive) = mpsc::channel(1);
        let stream = BundleStream {
            id: caller.id,
            send,
            reports: request.into_inner(),
            authority: self.authority.clone(),
            metrics: self.metrics.clone(),
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
    authority: Authority,
    metrics: Arc<Metrics>,
    watcher: Watcher,
    watchers: Watchers,
    drain: Drain,
}

impl BundleStream {
    async fn run(mut self) {
        self.metrics.streams.inc();
        self.serve().await;
        let Self { watcher, watchers, authority, metrics, .. } = self;
        metrics.streams.dec();
        drop(watcher);
        announce(&watchers, authority.bundle().hash());
    }

    async fn serve(&mut self) {
        let end = Instant::now() + STREAM_LIFE.mul_f64(1.0 + fastrand::f64() / 10.0);
        let mut bundles = self.authority.watch_bundle();
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
        let current = self.authority.bundle().hash().to_owned();
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
