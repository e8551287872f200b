//! The labels of namespaces, at hand when a pod comes.
//!
//! They are watched, so that no pod waits for a question to the API server. A watch is a moment behind: where what it
//! says would leave a pod out of the mesh, or it does not know the namespace, the API server is asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};

/// The API server waits five seconds for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer to come: the labels, or `None` where they cannot be had.
pub type Labels<'a> = Pin<Box<dyn Future<Output = Option<BTreeMap<String, String>>> + Send + 'a>>;

/// A source of namespaces' labels.
pub trait Namespaces: Send + Sync {
    /// The labels of namespace `name`; with `fresh` not from memory.
    fn labels<'a>(&'a self, name: &'a str, fresh: bool) -> Labels<'a>;
}

/// Without `spec` and `status`: the API server does not even send them.
type Meta = PartialObjectMeta<Namespace>;

/// The cluster's namespaces.
pub(crate) struct Watched {
    api: Api<Meta>,
    store: Store<Meta>,
}

/// Fills it.
pub(crate) struct Follow {
    api: Api<Meta>,
    writer: Writer<Meta>,
}

/// The namespaces of the cluster that `client` is of, and what keeps them up to date.
pub(crate) fn watched(client: Client) -> (Watched, Follow) {
    let api = Api::all(client);
    let writer = Writer::default();
    (Watched { api: api.clone(), store: writer.as_reader() }, Follow { api, writer })
}

impl Follow {
    /// Follows the cluster, for ever.
    pub(crate) async fn run(self) {
        let events = watcher(self.api, watcher::Config::default()).default_backoff();
        // Annotations and managed fields are most of a namespace's size, and not asked for.
        let events = events.modify(|namespace| {
            namespace.metadata.annotations = None;
            namespace.metadata.managed_fields = None;
        });
        let mut events = std::pin::pin!(reflector::reflector(self.writer, events));
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(%error, "cannot watch namespaces; they are asked for one by one");
            }
        }
    }
}

impl Namespaces for Watched {
    fn labels<'a>(&'a self, name: &'a str, fresh: bool) -> Labels<'a> {
        Box::pin(async move {
            if !fresh && let Some(known) = self.store.get(&ObjectRef::new(name)) {
                return Some(known.labels().clone());
            }
            match tokio::time::timeout(PATIENCE, self.api.get(name)).await {
                Ok(Ok(namespace)) => Some(namespace.labels().clone()),
                Ok(Err(error)) => {
                    tracing::warn!(namespace = name, %error, "cannot read the namespace");
                    None
                }
                Err(_) => {
                    tracing::warn!(
                        namespace = name,
                        "cannot read the namespace: no answer within {PATIENCE:?}"
                    );
                    None
                }
            }
        })
    }
}
