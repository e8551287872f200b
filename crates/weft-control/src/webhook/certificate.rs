//! The certificate that the webhook serves with.
//!
//! Each replica makes its own key and certificate at its start, keeps both in memory, and replaces them in time. There
//! is no Secret with a key in it, nothing to rotate by hand, and nothing that two replicas could disagree about: the API
//! server trusts the root, not the leaf.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::NoClientAuth;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use weft_identity::crypto_provider;

use crate::KubeError;

/// Timers do not notice when the wall clock is set or the machine slept.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// A certificate with its key.
pub struct ServingCertificate {
    /// Leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// The leaf's end.
    pub not_after: SystemTime,
}

/// Who signs it: the mesh's own authority.
pub trait ServingSigner: Send + Sync {
    /// A fresh certificate for a TLS server with this DNS name.
    ///
    /// # Errors
    /// Why there is none, for the log.
    fn sign(&self, name: &str) -> Result<ServingCertificate, String>;

    /// The roots that vouch for it, PEM.
    fn bundle_pem(&self) -> String;

    /// Resolves when the roots have changed since it last did; never, where they cannot change any more.
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The TLS configuration in use, and the bundle that goes with it.
pub(crate) struct Serving {
    signer: Arc<dyn ServingSigner>,
    name: String,
    callers: Arc<dyn ClientCertVerifier>,
    config: ArcSwap<ServerConfig>,
    bundle: watch::Sender<String>,
    first_due: SystemTime,
}

impl Serving {
    /// With a first certificate for `name`. Only callers whose certificate `callers` takes are served; without it, all.
    pub(crate) fn new(
        signer: Arc<dyn ServingSigner>,
        name: String,
        callers: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, KubeError> {
        let bundle = signer.bundle_pem();
        // The API server shows no certificate unless each cluster is set up for it. What is answered is no secret: it
        // follows from the question.
        let callers = callers.unwrap_or_else(|| Arc::new(NoClientAuth));
        let (config, first_due) = make(&*signer, &name, &callers).map_err(KubeError::Serving)?;
        let bundle = watch::Sender::new(bundle);
        Ok(Self { signer, name, callers, config: ArcSwap::from(config), bundle, first_due })
    }

    /// What the next connection is served with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// The bundle, and its changes.
    pub(crate) fn bundle(&self) -> watch::Receiver<String> {
        self.bundle.subscribe()
    }

    /// Replaces the certificate at half of its life, and where the roots have changed, for ever: with the roots the
    /// certificate that it is signed with may have, too.
    pub(crate) async fn keep_fresh(&self) {
        let mut due = self.first_due;
        loop {
            tokio::select! {
                () = until(due) => {}
                () = self.signer.changed() => {}
            }
            // Read before the certificate is signed: a root that comes in between is seen as another change.
            let bundle = self.signer.bundle_pem();
            match make(&*self.signer, &self.name, &self.callers) {
                Ok((config, next)) => {
                    self.config.store(config);
                    due = next;
                    tracing::debug!(name = self.name, "serving certificate renewed");
                }
                Err(error) => {
                    tracing::error!(error, "serving certificate not renewed; the last one stays");
                    due = SystemTime::now() + CLOCK_CHECK;
                }
            }
            self.bundle.send_if_modified(|last| {
                let changed = *last != bundle;
                *last = bundle;
                changed
            });
        }
    }
}

async fn until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(CLOCK_CHECK)).await;
    }
}

/// A fresh certificate in a TLS configuration, and when to replace it.
fn make(
    signer: &dyn ServingSigner,
    name: &str,
    callers: &Arc<dyn ClientCertVerifier>,
) -> Result<(Arc<ServerConfig>, SystemTime), String> {
    let now = SystemTime::now();
    let ServingCertificate { chain, key, not_after } = signer.sign(name)?;
    let mut config = ServerConfig::builder_with_provider(crypto_provider().clone())
        // API servers speak TLS 1.3 unless a cluster was told otherwise.
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(callers.clone())
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let left = not_after.duration_since(now).unwrap_or_default();
    Ok((Arc::new(config), now + left / 2))
}
