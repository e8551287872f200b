//! What a running CA signs with and what its mesh trusts: one value, changed only where nobody is cut off by it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use weft_core::SpiffeId;
use weft_identity::proto::WatchBundleResponse;
use weft_identity::{FileWatch, TrustBundle};

use crate::CaError;
use crate::issue::Subject;
use crate::material::{self, Names, RootPem, Signer};
use crate::root;

/// The issuer and the trust bundle of one mesh. Clones share it.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    names: Names,
    server_id: SpiffeId,
    leaf_lifetime: Duration,
    /// As last taken.
    pem: Mutex<RootPem>,
    signer: watch::Sender<Arc<Signer>>,
    bundle: watch::Sender<TrustBundle>,
}

/// Tells of each change of an [`Authority`]: of its bundle, and of what it signs with.
#[derive(Debug)]
pub struct AuthorityWatch {
    signer: watch::Receiver<Arc<Signer>>,
    bundle: watch::Receiver<TrustBundle>,
}

impl AuthorityWatch {
    /// Resolves when there was a change since the last call, or since the watch was made. Nothing is lost by dropping it
    /// half-way.
    pub async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.signer.changed() => {}
            Ok(()) = self.bundle.changed() => {}
            // The authority is gone, and with it all change.
            else => std::future::pending().await,
        }
    }
}

/// A certificate for a TLS server that is known by DNS names, with its key.
#[derive(Debug)]
pub struct ServerCertificate {
    /// Leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// ECDSA P-256, made for it.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// Its end.
    pub not_after: SystemTime,
}

impl Authority {
    /// An authority with a root from memory. `server_id` is the identity that the CA serves with.
    ///
    /// # Errors
    /// [`CaError::File`] naming `ca.pem`, `ca-key.pem` or `root.pem` and what is wrong with it: no PEM, not a CA's
    /// certificate, another certificate's key, expired, or not vouched for by the bundle.
    pub fn new(pem: RootPem, server_id: SpiffeId, leaf_lifetime: Duration) -> Result<Self, CaError> {
        Self::named(pem, Names::default(), server_id, leaf_lifetime)
    }

    pub(crate) fn named(
        pem: RootPem,
        names: Names,
        server_id: SpiffeId,
        leaf_lifetime: Duration,
    ) -> Result<Self, CaError> {
        let bundle = material::bundle(&pem, &names)?;
        let signer = Signer::new(&pem, &names, &bundle, leaf_lifetime, &server_id)?;
        Ok(Self(Arc::new(Inner {
            names,
            server_id,
            leaf_lifetime,
            pem: Mutex::new(pem),
            signer: watch::Sender::new(Arc::new(signer)),
            bundle: watch::Sender::new(bundle),
        })))
    }

    /// Takes a changed root: the bundle where it vouches for what is signed now, and then the certificate and key where
    /// the new bundle vouches for them.
    ///
    /// # Errors
    /// What was not taken, and why. The last good state stays for that part; a good bundle beside a bad certificate is
    /// taken.
    pub fn update(&self, pem: &RootPem) -> Result<(), CaError> {
        let inner = &*self.0;
        let mut current = inner.lock();
        if *current == *pem {
            return Ok(());
        }
        let bundle = material::bundle(pem, &inner.names)?;
        let old = inner.signer.borrow().clone();
        // A root that has ended signs nothing any more: then there is nobody left to cut off.
        if SystemTime::now() < old.not_after && old.vouched_by(&bundle, &inner.server_id).is_err() {
            return Err(CaError::file(
                &inner.names.bundle,
                "lacks the root that leaves are signed with: every workload would be cut off",
            ));
        }
        let (signer, result) = match inner.signer(pem, &bundle) {
            Ok(signer) => {
                *current = pem.clone();
                (Some(signer), Ok(()))
            }
            Err(error) => {
                current.bundle.clone_from(&pem.bundle);
                // The same signer again: whether it travels with its leaves depends on the bundle.
                (inner.signer(&current, &bundle).ok(), Err(error))
            }
        };
        drop(current);
        inner.store(bundle, signer);
        result
    }

    /// The root as last taken, the key included.
    pub fn pem(&self) -> RootPem {
        self.0.lock().clone()
    }

    /// The trust bundle.
    pub fn bundle(&self) -> TrustBundle {
        self.0.bundle.borrow().clone()
    }

    /// The trust bundle as the text it was read from, for ConfigMaps and the like: replicas have the same.
    pub fn bundle_pem(&self) -> String {
        self.0.lock().bundle.clone()
    }

    /// Tells of each change of the bundle.
    pub fn watch_bundle(&self) -> watch::Receiver<TrustBundle> {
        self.0.bundle.subscribe()
    }

    /// Tells of each change of what is signed with or trusted.
    pub fn watch(&self) -> AuthorityWatch {
        AuthorityWatch { signer: self.0.signer.subscribe(), bundle: self.0.bundle.subscribe() }
    }

    /// The end of the certificate that leaves are signed with.
    pub fn not_after(&self) -> SystemTime {
        self.0.signer.borrow().not_after
    }

    /// The identity that the CA serves with.
    pub fn server_id(&self) -> &SpiffeId {
        &self.0.server_id
    }

    /// Makes a key and signs it for a TLS server with these DNS names, for 24 h.
    ///
    /// It carries no SPIFFE id and is good for servers only, so that it can never stand for a workload.
    ///
    /// # Errors
    /// [`CaError::Sign`] where there is no name or one is not a DNS name, [`CaError::Root`] where the root has ended.
    pub fn issue_server(&self, names: &[&str]) -> Result<ServerCertificate, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| CaError::Sign(error.to_string()))?;
        let issued = self.signer().issuer.issue(Subject::Dns(names), &key, SystemTime::now())?;
        tracing::info!(
            target: "weft::audit",
            call = "issue_server",
            outcome = "signed",
            ?names,
            serial = issued.serial,
            not_after = %humantime::format_rfc3339_seconds(issued.not_after),
        );
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(ServerCertificate { chain: issued.chain, key, not_after: issued.not_after })
    }

    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.0.signer.borrow().clone()
    }

    pub(crate) fn watch_signer(&self) -> watch::Receiver<Arc<Signer>> {
        self.0.signer.subscribe()
    }

    /// Follows the bundle's file, for ever. A bad edit keeps the last good bundle.
    pub(crate) async fn follow_bundle(&self, file: &Path) {
        let mut watch = FileWatch::new([file]);
        loop {
            watch.changed().await;
            let taken = root::read(file).and_then(|bundle| self.update(&RootPem { bundle, ..self.pem() }));
            if let Err(error) = taken {
                tracing::error!(%error, "bundle file is not usable; the last good bundle stays");
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, RootPem> {
        // Whole after each statement.
        self.pem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signer(&self, pem: &RootPem, bundle: &TrustBundle) -> Result<Signer, CaError> {
        Signer::new(pem, &self.names, bundle, self.leaf_lifetime, &self.server_id)
    }

    /// Bundle first: who is told of a new signer must find its root trusted.
    fn store(&self, bundle: TrustBundle, signer: Option<Signer>) {
        let hash = bundle.hash().to_owned();
        if self.bundle.send_if_modified(|current| {
            let new = *current != bundle;
            *current = bundle;
            new
        }) {
            tracing::info!(bundle = hash, "bundle changed");
        }
        let Some(signer) = signer else { return };
        let other = self.signer.borrow().subject != signer.subject;
        if other {
            let ends = humantime::format_rfc3339_seconds(signer.not_after);
            tracing::info!(root = signer.subject, root_ends = %ends, "issuer changed");
        }
        self.signer.send_replace(Arc::new(signer));
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("bundle", &self.bundle().hash()).finish_non_exhaustive()
    }
}

/// A bundle as it is sent.
pub(crate) fn message(bundle: &TrustBundle) -> WatchBundleResponse {
    WatchBundleResponse {
        ca_certificates: bundle.certificates().map(|root| root.as_ref().to_vec()).collect(),
        bundle_hash: bundle.hash().to_owned(),
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
