//! Identity from the mesh CA: `weft.identity.v1` over TLS.
//!
//! Two loops share one connection and one state. *Renew* makes a key, has it signed, and does so again at 50 to 66 % of
//! the leaf's life, so that a CA that is away costs nothing for at least a third of that life, and a mesh that started
//! at one moment does not renew at one moment. *Follow* keeps the bundle as the CA streams it: a root rotation reaches
//! the proxy without a new leaf. Neither gives up; each keeps what it has until it gets something better.

mod complaint;
mod connect;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weft_core::{Drain, SpiffeId};

use self::complaint::Complaint;
use self::connect::Connector;
use crate::backoff::Backoff;
use crate::leaf::rfc3339;
use crate::proto::identity_client::IdentityClient;
use crate::proto::{SignRequest, WatchBundleRequest, WatchBundleResponse};
use crate::{IdentityError, Leaf, LeafKey, Publisher, TrustBundle};

/// One call, connecting included. The CA answers in milliseconds; after this time something is wrong.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer: 64 roots of a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;
/// The wall clock may be set and a machine may sleep, which timers do not notice; look at it this often.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// A stream that lasted this long was healthy: the next failure is the first of its kind.
const HEALTHY: Duration = Duration::from_secs(30);

/// Takes the identity from the mesh CA and keeps it fresh.
#[derive(Debug, Clone)]
pub struct CaSource {
    /// `host:port` of the CA; resolved anew for each connection.
    pub address: String,
    /// PEM file with the roots that the CA itself is verified with, read anew for each connection.
    pub bundle: PathBuf,
    /// Who has to answer at the address.
    pub server_id: SpiffeId,
    /// The file with the token that proves this workload's identity, read anew for each call.
    pub token_file: PathBuf,
    /// The identity the token is meant to be for; a leaf for another is refused.
    pub expected_id: Option<SpiffeId>,
}

impl CaSource {
    /// Fetches and renews until the drain has closed.
    ///
    /// Must run inside a tokio runtime with time and I/O. What fails is logged, counted in
    /// [`crate::Identity::status`], and tried again.
    pub async fn run(self, publisher: Publisher, mut drain: Drain) {
        publisher.set_source(format!("ca {}", self.address));
        let session = Session::new(self, publisher);
        tokio::select! {
            () = drain.closed() => {}
            () = session.renew() => {}
            () = session.follow() => {}
        }
    }
}

/// One running source.
struct Session {
    source: CaSource,
    publisher: Publisher,
    connector: Connector,
    channel: Channel,
    state: Mutex<State>,
    /// The leaf has to be replaced before its time: the new bundle does not vouch for it.
    renew_now: Notify,
}

#[derive(Default)]
struct State {
    leaf: Option<Leaf>,
    /// As streamed by the CA; the bundle file is used until the first message.
    bundle: Option<TrustBundle>,
}

impl Session {
    fn new(source: CaSource, publisher: Publisher) -> Self {
        let connector = Connector::new(&source);
        let channel = connector.channel();
        Self { source, publisher, connector, channel, state: Mutex::default(), renew_now: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    async fn renew(&self) {
        let mut backoff = Backoff::new();
        let mut complaint = Complaint::new();
        loop {
            match self.renew_once().await {
                Ok(due) => {
                    backoff.reset();
                    complaint.settled(&self.source.address);
                    self.publisher.renewed(Some(due));
                    tokio::select! {
                        () = sleep_until_wall_clock(due) => {}
                        () = self.renew_now.notified() => {}
                    }
                }
                Err(error) => {
                    self.publisher.failed(&error);
                    let leaf = self.state().leaf.clone();
                    let pause = match &leaf {
                        None => backoff.short_pause(),
                        Some(_) => backoff.pause(),
                    };
                    self.report(&error, leaf.as_ref(), pause, &mut complaint);
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.renew_now.notified() => {}
                    }
                }
            }
        }
    }

    fn report(&self, error: &IdentityError, leaf: Option<&Leaf>, pause: Duration, complaint: &mut Complaint) {
        let retry_in = humantime::format_duration(Duration::from_millis(pause.as_millis() as u64));
        match leaf {
            // The workload is held back for this, so the line has to be found; it must not be one of thousands either.
            None => {
                if let Some(waiting) = complaint.due(error) {
                    tracing::warn!(
                        %error,
                        ca = self.source.address,
                        since = %rfc3339(complaint.since()),
                        %waiting,
                        "no identity yet, so not ready; asking the CA again every few seconds"
                    );
                }
            }
            Some(leaf) if SystemTime::now() > leaf.not_after() => {
                tracing::error!(%error, %retry_in, expired = %rfc3339(leaf.not_after()), "leaf expired and not renewed");
            }
            Some(leaf) => {
                tracing::warn!(%error, %retry_in, good_until = %rfc3339(leaf.not_after()), "leaf not renewed");
            }
        }
    }

    /// One new key and leaf. Returns when the next is due.
    async fn renew_once(&self) -> Result<SystemTime, IdentityError> {
        let key = LeafKey::generate()?;
        let request = SignRequest { csr: key.signing_request()?.as_ref().to_vec() };
        let request = self.connector.authorized(request)?;
        let answer = self.within(CALL_TIMEOUT, self.client().sign(request)).await?.into_inner();
        let leaf =
            key.with_chain(answer.certificate_chain.into_iter().map(CertificateDer::from).collect())?;
        if let Some(expected) = &self.source.expected_id
            && expected != leaf.id()
        {
            return Err(IdentityError::WrongIdentity {
                found: leaf.id().clone(),
                expected: expected.clone(),
            });
        }
        let now = SystemTime::now();
        let bundle = self.bundle()?;
        leaf.check(&bundle, now)?;
        let due = now + renew_after(now, leaf.not_after(), fastrand::f64());
        self.publisher.publish(&leaf, &bundle)?;
        self.state().leaf = Some(leaf);
        Ok(due)
    }

    /// What peers are verified with now.
    fn bundle(&self) -> Result<TrustBundle, IdentityError> {
        let streamed = self.state().bundle.clone();
        match streamed {
            Some(bundle) => Ok(bundle),
            None => TrustBundle::from_file(&self.source.bundle),
        }
    }

    async fn follow(&self) {
        let mut backoff = Backoff::new();
        loop {
            let began = tokio::time::Instant::now();
            let ended = self.follow_once().await;
            if began.elapsed() >= HEALTHY {
                backoff.reset();
            }
            let waits = self.state().leaf.is_none();
            let pause = if waits { backoff.short_pause() } else { backoff.pause() };
            match ended {
                Ok(()) => tracing::debug!("bundle stream ended; opening it again"),
                Err(error) if waits => {
                    self.publisher.bundle_heard(Err(&error));
                    tracing::debug!(%error, "no bundle stream yet");
                }
                Err(error) => {
                    self.publisher.bundle_heard(Err(&error));
                    tracing::warn!(%error, "bundle stream broken; the last bundle stays");
                }
            }
            sleep(pause).await;
        }
    }

    /// One bundle stream, until it ends.
    async fn follow_once(&self) -> Result<(), IdentityError> {
        // Two are enough: at most one bundle is being acknowledged while the first message waits to be sent.
        let (acknowledge, requests) = mpsc::channel(2);
        let bundle_hash = self.bundle().map(|bundle| bundle.hash().to_owned()).unwrap_or_default();
        let _ = acknowledge.try_send(WatchBundleRequest { bundle_hash });
        let request = self.connector.authorized(ReceiverStream::new(requests))?;
        let mut client = self.client();
        let mut stream = self.within(CALL_TIMEOUT, client.watch_bundle(request)).await?.into_inner();
        while let Some(message) = stream.message().await.map_err(|status| self.connector.explain(&status))? {
            let bundle_hash = self.adopt(message)?;
            // Waits where the CA does not read; it then learns of the newest bundle later, and nothing is lost.
            if acknowledge.send(WatchBundleRequest { bundle_hash }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Puts a streamed bundle to use and returns its hash.
    fn adopt(&self, message: WatchBundleResponse) -> Result<String, IdentityError> {
        let bundle =
            TrustBundle::from_der(message.ca_certificates.into_iter().map(CertificateDer::from).collect())?;
        if bundle.hash() != message.bundle_hash {
            return Err(IdentityError::Bundle(format!(
                "the CA calls it {:.64}, it is {}",
                message.bundle_hash,
                bundle.hash()
            )));
        }
        self.connector.trust(&bundle);
        self.publisher.bundle_heard(Ok(()));
        let leaf = {
            let mut state = self.state();
            state.bundle = Some(bundle.clone());
            state.leaf.clone()
        };
        if let Some(leaf) = leaf {
            self.publisher.publish(&leaf, &bundle)?;
            if let Err(error) = leaf.check(&bundle, SystemTime::now()) {
                tracing::warn!(%error, "the new bundle does not vouch for the own leaf; renewing now");
                self.renew_now.notify_one();
            }
        }
        Ok(bundle.hash().to_owned())
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, IdentityError> {
        match timeout(limit, call).await {
            Ok(answer) => answer.map_err(|status| self.connector.explain(&status)),
            Err(_) => Err(IdentityError::CaUnreachable {
                address: self.source.address.clone(),
                reason: format!("no answer within {limit:?}"),
            }),
        }
    }
}

/// How long after `now` to renew a leaf that ends at `not_after`: at 50 to 66 % of what is left, by `jitter` in 0..1.
///
/// Counted from the moment it was fetched, not from its start: that one is set back for clocks that are behind.
fn renew_after(now: SystemTime, not_after: SystemTime, jitter: f64) -> Duration {
    let left = not_after.duration_since(now).unwrap_or_default();
    left.mul_f64(0.5 + 0.16 * jitter.clamp(0.0, 1.0))
}

async fn sleep_until_wall_clock(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        sleep(left.min(CLOCK_CHECK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_falls_between_half_and_two_thirds_of_what_is_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(renew_after(now, now + day, 0.0), day / 2);
        let latest = renew_after(now, now + day, 1.0);
        assert!(latest > day.mul_f64(0.65) && latest < day.mul_f64(0.67), "{latest:?}");
        assert_eq!(renew_after(now, now - day, 0.5), Duration::ZERO);
    }
}
