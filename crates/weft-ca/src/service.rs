//! `weft.identity.v1.Identity`: each call is authenticated, decided, and written to the audit log.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status, Streaming};
use weft_core::{Drain, SpiffeId};
use weft_identity::TrustBundle;
use weft_identity::proto::identity_server::Identity;
use weft_identity::proto::{SignRequest, SignResponse, WatchBundleRequest, WatchBundleResponse};

use crate::auth::bearer;
use crate::authority::message;
use crate::callers::{Seat, Stream};
use crate::csr;
use crate::issue::Subject;
use crate::limits::Limit;
use crate::metrics::Metrics;
use crate::watchers::{Watcher, Watchers};
use crate::{Authority, Credentials, PodRef, Proof, Unproven};

/// A bundle stream that has ended and whose end the caller does not take ends with its connection after this time.
const GOODBYE: Duration = Duration::from_secs(60);
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

/// In the answer of a call: whose it was, for its span.
#[derive(Clone)]
pub(crate) struct CallOf(pub(crate) SpiffeId);

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
    async fn authenticate<T>(
        &self,
        call: &'static str,
        request: &Request<T>,
    ) -> Result<(Caller, Seat), Status> {
        let seat = request.extensions().get::<Seat>();
        let seat = seat.ok_or_else(|| Status::internal("a call without a connection"))?;
        seat.heard().map_err(|limit| turned_down(call, seat, limit))?;
        let peer = seat.peer().to_string();
        let proven = match bearer(request.metadata()) {
            Ok(token) => match self.credentials.look(token).await {
                Ok(()) => {
                    let _turn = seat.turn().await.map_err(|limit| turned_down(call, seat, limit))?;
                    // Again: others of this address may have been refused while this one waited.
                    seat.heard().map_err(|limit| turned_down(call, seat, limit))?;
                    self.credentials.prove(token).await
                }
                Err(why) => Err(why),
            },
            Err(refusal) => Err(refusal.into()),
        };
        match proven {
            Ok(proof) => {
                seat.proven(&proof);
                Ok((Caller::new(proof, peer), seat.clone()))
            }
            Err(Unproven::Refused(reason)) => {
                seat.refused();
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

/// The answer to a caller that takes too much. It is in the metrics and no line of the audit log: nothing was decided
/// about anybody, and who floods the CA should not flood its log.
fn turned_down(call: &'static str, seat: &Seat, limit: Limit) -> Status {
    tracing::debug!(call, peer = %seat.peer(), %limit, "turned down");
    Status::resource_exhausted(format!("{limit}; come again later"))
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let (caller, _) = self.authenticate("Sign", &request).await?;
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
        let mut response = Response::new(SignResponse {
            certificate_chain: issued.chain.iter().map(|der| der.as_ref().to_vec()).collect(),
            not_after_unix_seconds: i64::try_from(not_after).unwrap_or(i64::MAX),
            spiffe_id: caller.id.to_string(),
        });
        response.extensions_mut().insert(CallOf(caller.id));
        Ok(response)
    }

    type WatchBundleStream = Pin<Box<dyn tokio_stream::Stream<Item = BundleItem> + Send>>;

    async fn watch_bundle(
        &self,
        request: Request<Streaming<WatchBundleRequest>>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let (caller, seat) = self.authenticate("WatchBundle", &request).await?;
        let life = seat.callers().shared().limits.stream;
        let end = Instant::now() + life.mul_f64(1.0 + fastrand::f64() / 10.0);
        let place = seat.stream(&caller.id, end + GOODBYE).map_err(|limit| {
            audit!(warn, "WatchBundle", &caller, outcome = "limited", reason = %limit);
            turned_down("WatchBundle", &seat, limit)
        })?;
        audit!(info, "WatchBundle", &caller, outcome = "opened");
        self.metrics.streams.inc();
        let mut bundles = self.authority.watch_bundle();
        // The first message is the bundle as it is.
        bundles.mark_changed();
        let call_of = CallOf(caller.id.clone());
        let open = BundleStream {
            id: caller.id,
            _place: place,
            end,
            bundles,
            reports: Some(request.into_inner()),
            over: false,
            authority: self.authority.clone(),
            metrics: self.metrics.clone(),
            watcher: Some(self.watchers.join()),
            watchers: self.watchers.clone(),
            drain: self.drain.clone(),
        };
        // No task and no channel: who does not read is not written for, and who has gone is dropped with its connection.
        let messages = stream::unfold(open, |mut open| async move {
            let message = open.next().await?;
            Some((message, open))
        });
        let mut response: Response<Self::WatchBundleStream> = Response::new(Box::pin(messages));
        response.extensions_mut().insert(call_of);
        Ok(response)
    }
}

type BundleItem = Result<WatchBundleResponse, Status>;

/// One open `WatchBundle` call.
struct BundleStream {
    id: SpiffeId,
    /// Among those of its connection and identity.
    _place: Stream,
    end: Instant,
    bundles: watch::Receiver<TrustBundle>,
    /// A caller may say only once what it has and then just listen.
    reports: Option<Streaming<WatchBundleRequest>>,
    over: bool,
    authority: Authority,
    metrics: Arc<Metrics>,
    watcher: Option<Watcher>,
    watchers: Watchers,
    drain: Drain,
}

impl BundleStream {
    /// The next message, or the end.
    async fn next(&mut self) -> Option<BundleItem> {
        while !self.over {
            tokio::select! {
                () = self.drain.draining() => return None,
                () = sleep_until(self.end) => return None,
                Ok(()) = self.bundles.changed() => {
                    return Some(Ok(message(&self.bundles.borrow_and_update())));
                }
                report = report(&mut self.reports) => match report {
                    Ok(Some(report)) if report.bundle_hash.len() <= HASH_LEN => self.note(report.bundle_hash),
                    Ok(Some(_)) => {
                        self.over = true;
                        return Some(Err(Status::invalid_argument("bundle_hash is no SHA-256 in hex")));
                    }
                    Ok(None) => self.reports = None,
                    Err(_) => self.over = true,
                },
            }
        }
        None
    }

    fn note(&self, hash: String) {
        let current = self.authority.bundle().hash().to_owned();
        tracing::debug!(identity = %self.id, up_to_date = hash == current, "bundle in use reported");
        if let Some(watcher) = &self.watcher {
            watcher.report(hash);
        }
        announce(&self.watchers, &current);
    }
}

impl Drop for BundleStream {
    fn drop(&mut self) {
        self.metrics.streams.dec();
        // Gone before it is asked whether all have the bundle.
        self.watcher = None;
        announce(&self.watchers, self.authority.bundle().hash());
    }
}

async fn report(
    reports: &mut Option<Streaming<WatchBundleRequest>>,
) -> Result<Option<WatchBundleRequest>, Status> {
    match reports {
        Some(reports) => reports.message().await,
        None => std::future::pending().await,
    }
}

/// Says when a bundle has come to everyone: what a rotation waits for before it signs with the new root.
fn announce(watchers: &Watchers, bundle: &str) {
    if let Some(proxies) = watchers.settled(bundle) {
        tracing::info!(bundle, proxies, "every connected proxy uses the bundle");
    }
}
