//! The Secret `weft-ca`: the one root of the mesh, shared by all replicas.
//!
//! A second root would cut off every workload of the first. So the Secret is only ever *created*, never overwritten: of
//! two replicas that start at once one wins, and the other takes what the winner made. A Secret that is half there stops
//! the start. One that disappears while a replica runs is put back from memory, because that is the root that the mesh
//! trusts.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use std::pin::pin;
use std::time::Duration;
use weft_ca::{Authority, RootPem};
use weft_core::{Namespace, TrustDomain};
use weft_telemetry::Registry;
use weft_telemetry::metrics::families;

use crate::KubeError;
use crate::client::describe;
use crate::names::{CA_BUNDLE as BUNDLE, CA_SECRET as SECRET, MANAGED_BY, MESH_CONFIG, WEFT};

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
    /// What proxies of a mesh trust.
    bundles: Api<ConfigMap>,
    namespace: Namespace,
    registry: Registry,
}

/// Why a root was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// There is no mesh yet.
    First,
    /// Proxies trust another one, whose Secret is gone.
    Lost,
    /// Whether there is a mesh cannot be told.
    Unknown,
}

impl Made {
    fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

impl IssuerSecret {
    /// For the Secret in `namespace`. Needs `get`, `list`, `watch` and `create` on secrets there, and, to tell a new mesh
    /// from a lost root, `list` on the ConfigMaps `weft-mesh`. Counts in `registry`.
    pub fn new(client: Client, namespace: Namespace, registry: Registry) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace.as_str()),
            bundles: Api::all(client),
            namespace,
            registry,
        }
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
            let why = self.why_there_is_none().await;
            if self.create(&made).await? {
                self.say(why, trust_domain);
                return Ok(made);
            }
            tracing::info!(secret = %self, "another replica has made the root; taking it");
        }
        Err(KubeError::Issuer {
            secret: self.to_string(),
            reason: "somebody deletes it as soon as it is made".to_owned(),
        })
    }

    /// Whether proxies trust a root already.
    async fn why_there_is_none(&self) -> Made {
        // With the name, or the right to list these alone would not do.
        let one = ListParams::default().fields(&format!("metadata.name={MESH_CONFIG}")).limit(1);
        match self.bundles.list_metadata(&one).await {
            Ok(found) if found.items.is_empty() => Made::First,
            Ok(_) => Made::Lost,
            Err(error) => {
                tracing::debug!(error = describe(&error), "whether there is a mesh cannot be told");
                Made::Unknown
            }
        }
    }

    fn say(&self, why: Made, trust_domain: &TrustDomain) {
        self.registry.shared().counter(&families::CA_ROOTS_MADE, &[why.as_str()]).inc();
        match why {
            Made::First => tracing::info!(secret = %self, %trust_domain, "new root made"),
            Made::Lost => tracing::warn!(
                secret = %self,
                %trust_domain,
                "the Secret was gone while there is a mesh: a NEW root was made, which running workloads do not trust. \
                 Restore the Secret from a backup and restart weft-control, or restart every workload with a sidecar"
            ),
            Made::Unknown => tracing::warn!(
                secret = %self,
                %trust_domain,
                "there was no Secret: a new root was made. If there is a mesh already, its workloads do not trust it: \
                 restore the Secret from a backup and restart weft-control, or restart every workload with a sidecar"
            ),
        }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Method, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server without the Secret, that answers the question about a mesh like this.
    fn issuer(mesh: Result<usize, StatusCode>, registry: &Registry) -> IssuerSecret {
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let (status, body) = answer(request.method(), request.uri(), mesh);
            let answer = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(answer.unwrap()) }
        });
        let client = Client::new(service, "default");
        IssuerSecret::new(client, "weft-system".parse().unwrap(), registry.clone())
    }

    fn failure(status: StatusCode) -> (StatusCode, Value) {
        let code = status.as_u16();
        (
            status,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no",
            "reason": if code == 404 { "NotFound" } else { "Forbidden" }, "code": code}),
        )
    }

    fn answer(method: &Method, uri: &hyper::Uri, mesh: Result<usize, StatusCode>) -> (StatusCode, Value) {
        match (method, uri.path()) {
            (&Method::GET, "/api/v1/namespaces/weft-system/secrets/weft-ca") => {
                failure(StatusCode::NOT_FOUND)
            }
            (&Method::POST, "/api/v1/namespaces/weft-system/secrets") => (
                StatusCode::CREATED,
                json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "weft-ca"}}),
            ),
            (&Method::GET, "/api/v1/configmaps") => {
                assert!(uri.query().unwrap().contains("metadata.name%3Dweft-mesh"), "{uri}");
                match mesh {
                    Err(status) => failure(status),
                    Ok(count) => {
                        let items =
                            vec![json!({"metadata": {"name": "weft-mesh", "namespace": "shop"}}); count];
                        let meta = "PartialObjectMetadataList";
                        (
                            StatusCode::OK,
                            json!({"kind": meta, "apiVersion": "meta.k8s.io/v1", "metadata": {},
                            "items": items}),
                        )
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_root_that_replaces_a_lost_one_is_told_from_the_first() {
        let cases = [(Ok(0), "first"), (Ok(1), "lost"), (Err(StatusCode::FORBIDDEN), "unknown")];
        for (mesh, reason) in cases {
            let registry = Registry::default();
            let issuer = issuer(mesh, &registry);
            issuer.open(&"weft.local".parse().unwrap(), Duration::from_secs(3600)).await.unwrap();
            let mut page = String::new();
            registry.encode(&mut page);
            assert!(page.contains(&format!("weft_ca_roots_made_total{{reason=\"{reason}\"}} 1")), "{page}");
        }
    }
}
