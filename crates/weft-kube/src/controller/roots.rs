//! The trust bundle that goes into every `weft-mesh`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;

/// The Secret of the CA, and the only key of it that is looked at.
const SECRET: (&str, &str) = ("weft-ca", "root.pem");
/// Time between two looks while there is none; the CA makes it when it first starts.
const UNKNOWN: Duration = Duration::from_secs(2);
/// Time between two looks. A new root is staged for long before anything is signed with it.
const KNOWN: Duration = Duration::from_secs(30);

/// Where the trust bundle comes from. While it is not known, no `weft-mesh` is written.
#[derive(Clone, Debug)]
pub enum Roots {
    /// From the CA in this process: certificates in PEM; empty while not known.
    Followed(watch::Receiver<Arc<str>>),
    /// From the Secret `weft-ca`, key `root.pem`, looked at every 30 s.
    Secret,
}

impl Roots {
    /// What to follow, and what fills it.
    pub(crate) fn split(self) -> (watch::Receiver<Arc<str>>, Option<watch::Sender<Arc<str>>>) {
        match self {
            Self::Followed(roots) => (roots, None),
            Self::Secret => {
                let (tx, rx) = watch::channel(Arc::from(""));
                (rx, Some(tx))
            }
        }
    }
}

/// Reads the Secret again and again, until dropped.
pub(crate) async fn follow(client: &Client, namespace: &str, roots: watch::Sender<Arc<str>>) {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    loop {
        match api.get_opt(SECRET.0).await {
            Ok(found) => {
                let pem = found.and_then(|secret| secret.data).and_then(|mut data| data.remove(SECRET.1));
                let pem = pem.and_then(|pem| String::from_utf8(pem.0).ok()).filter(|pem| !pem.is_empty());
                // One that is gone is no reason to take the roots from proxies.
                if let Some(pem) = pem {
                    roots.send_if_modified(|roots| {
                        let new = **roots != *pem;
                        if new {
                            *roots = pem.into();
                        }
                        new
                    });
                }
            }
            Err(error) => tracing::warn!(%error, secret = SECRET.0, "the trust bundle cannot be read"),
        }
        let known = !roots.borrow().is_empty();
        sleep(if known { KNOWN } else { UNKNOWN }).await;
    }
}
