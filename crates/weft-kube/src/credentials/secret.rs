//! The Secret `weft-ca`: the one root of the mesh, shared by all replicas.
//!
//! A second root would cut off every workload of the first. So the Secret is only ever *created*, never overwritten: of
//! two replicas that start at once one wins, and the other takes what the winner made. A Secret that is half there stops
//! the start. One that disappears while a replica runs is put back from memory, because that is the root that the mesh
//! trusts.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use std::pin::pin;
use std::time::Duration;
use weft_ca::{Authority, RootPem};
use weft_core::{Namespace, TrustDomain};

use crate::KubeError;
use crate::client::describe;
use crate::names::{CA_BUNDLE as BUNDLE, CA_SECRET as SECRET, MANAGED_BY, WEFT};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca-key.pem";
/// A winner's Secret may be deleted before the loser reads it; after so many turns something is fighting us.
const TURNS: usize = 5;
/// After a failed attempt to put the Secret back.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads, makes and follows the Secret.
#[derive(Clone)]
pub struct IssuerSecret {
    secrets: Api<Secret>,
    namespace: Namespace,
}

impl IssuerSecret {
    /// For the Secret in `namespace`. Needs `get`, `list`, `watch` and `create` on secrets there.
    pub fn new(client: Client, namespace: Namespace) -> Self {
        Self { secrets: Api::namespaced(client, namespace.as_str()), namespace }
    }

    /// The root in the Secret; where there is no Secret, a new root that lasts `lifetime`, which is then in it.
    ///
    /// # Errors
    /// [`KubeError::Api`] where the API server cannot be asked: worth another try. [`KubeError::Issuer`] where the Secret
    /// is half there: somebody has to decide.
    pub async fn open(&self, trust_domain: &TrustDomain, lifetime: Duration) -> Result<RootPem, KubeError> {
        for _ in 0..TURNS {
            let found = self.secrets.get_opt(SECRET).await.map_err(|error| self.api("read", &error))?;
            if let Some(secret) = found {
                return self.root_in(&secret);
            }
            let made = RootPem::generate(trust_domain, lifetime)?;
            if self.create(&made).await? {
                tracing::info!(secret = %self, %trust_domain, "new root made");
                return Ok(made);
            }
            tracing::info!(secret = %self, "another replica has made the root; taking it");
        }
        Err(KubeError::Issuer {
            secret: self.to_string(),
            reason: "somebody deletes it as soon as it is made".to_owned(),
        })
    }

    /// Hands changes of the Secret to `authority`, and puts it back when it is deleted, for ever.
    pub async fn follow(&self, authority: &Authority) {
        let changes = watcher::watch_object(self.secrets.clone(), SECRET).default_backoff();
        let mut changes = pin!(changes);
        let mut away = false;
        // The watcher never ends by itself.
        while let Some(change) = changes.next().await {
            match change {
                Ok(Some(secret)) => self.take(&secret, authority),
                Ok(None) => self.put_back(authority).await,
                Err(error) => {
                    if !away {
                        tracing::warn!(secret = %self, %error, "cannot be watched; the last good root stays");
                    }
                    away = true;
                    continue;
                }
            }
            away = false;
        }
    }

    fn take(&self, secret: &Secret, authority: &Authority) {
        let taken = self.root_in(secret).and_then(|pem| authority.update(&pem).map_err(KubeError::from));
        if let Err(error) = taken {
            tracing::error!(secret = %self, %error, "change not taken; the last good root stays");
        }
    }

    /// Creates the Secret again from memory. Where another replica was faster its Secret is reported by the watch.
    async fn put_back(&self, authority: &Authority) {
        tracing::error!(secret = %self, "was deleted; putting the same root back: a new one would cut off the mesh");
        loop {
            match self.create(&authority.pem()).await {
                Ok(true) => {
                    tracing::info!(secret = %self, "put back");
                    return;
                }
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(%error, "not put back");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Creates the Secret; `false` where there is one.
    async fn create(&self, pem: &RootPem) -> Result<bool, KubeError> {
        let data = [(CERTIFICATE, &pem.certificate), (KEY, &pem.key), (BUNDLE, &pem.bundle)];
        let labels = [(MANAGED_BY, WEFT), ("app.kubernetes.io/name", SECRET)];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            data: Some(
                data.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into(),
            ),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(self.api("created", &error)),
        }
    }

    /// The three parts, all of them.
    fn root_in(&self, secret: &Secret) -> Result<RootPem, KubeError> {
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let part = |key: &str| {
            data.get(key).filter(|bytes| !bytes.0.is_empty()).map(|bytes| String::from_utf8_lossy(&bytes.0))
        };
        match (part(CERTIFICATE), part(KEY), part(BUNDLE)) {
            (Some(certificate), Some(key), Some(bundle)) => Ok(RootPem {
                certificate: certificate.into_owned(),
                key: key.into_owned(),
                bundle: bundle.into_owned(),
            }),
            parts => {
                let there =
                    [(CERTIFICATE, parts.0.is_some()), (KEY, parts.1.is_some()), (BUNDLE, parts.2.is_some())];
                let missing: Vec<_> =
                    there.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
                Err(KubeError::Issuer {
                    secret: self.to_string(),
                    reason: format!(
                        "is half there, without {}; restore it from a backup, or delete the Secret to begin a new mesh \
                         (every workload then has to be restarted)",
                        missing.join(" and ")
                    ),
                })
            }
        }
    }

    fn api(&self, what: &str, error: &kube::Error) -> KubeError {
        KubeError::Api { what: format!("Secret {self} cannot be {what}"), reason: describe(error) }
    }
}

impl std::fmt::Display for IssuerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{SECRET}", self.namespace)
    }
}
