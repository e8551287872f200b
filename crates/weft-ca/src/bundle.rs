//! The roots that the mesh trusts, as a file, watched.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use weft_identity::proto::WatchBundleResponse;
use weft_identity::{FileWatch, TrustBundle};

use crate::CaError;

/// The current bundle, and each change of it to whoever watches.
pub(crate) struct BundleFeed {
    path: PathBuf,
    /// What we sign with is in the bundle and must stay in it; `None` for an intermediate.
    must_hold: Option<CertificateDer<'static>>,
    current: watch::Sender<TrustBundle>,
}

impl BundleFeed {
    /// Reads the bundle for a CA that signs with `certificate`.
    pub(crate) fn load(path: PathBuf, certificate: &CertificateDer<'static>) -> Result<Self, CaError> {
        let bundle = TrustBundle::from_file(&path)?;
        let must_hold = bundle.certificates().find(|root| *root == certificate).cloned();
        Ok(Self { path, must_hold, current: watch::Sender::new(bundle) })
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<TrustBundle> {
        self.current.subscribe()
    }

    pub(crate) fn hash(&self) -> String {
        self.current.borrow().hash().to_owned()
    }

    /// Follows the file, for ever. A bad edit keeps the last good bundle.
    pub(crate) async fn keep_fresh(&self) {
        let mut watch = FileWatch::new([&self.path]);
        loop {
            watch.changed().await;
            match self.read() {
                Ok(bundle) => {
                    let hash = bundle.hash().to_owned();
                    if self.current.send_if_modified(|current| {
                        let new = *current != bundle;
                        *current = bundle;
                        new
                    }) {
                        tracing::info!(file = %self.path.display(), bundle = hash, "bundle changed");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "bundle file is not usable; the last good bundle stays");
                }
            }
        }
    }

    fn read(&self) -> Result<TrustBundle, CaError> {
        let bundle = TrustBundle::from_file(&self.path)?;
        if let Some(own) = &self.must_hold
            && !bundle.certificates().any(|root| root == own)
        {
            return Err(CaError::file(
                &self.path,
                "lacks the root that leaves are signed with: every workload would be cut off",
            ));
        }
        Ok(bundle)
    }
}

/// A bundle as it is sent.
pub(crate) fn message(bundle: &TrustBundle) -> WatchBundleResponse {
    WatchBundleResponse {
        ca_certificates: bundle.certificates().map(|root| root.as_ref().to_vec()).collect(),
        bundle_hash: bundle.hash().to_owned(),
    }
}
