//! The labels of namespaces, at hand when a pod comes.
//!
//! They are watched, so that no pod waits for a question to the API server. A watch is a moment behind: where what it
//! says would leave a pod out of the mesh, or it does not know the namespace, the API server is asked. Anybody who can
//! reach the webhook can bring that about, so it is asked only so often; an answer holds for a second, and where there
//! is none the pod is injected: the API server's selectors wanted it to be.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::pace::Left;

/// The API server waits five seconds for the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way at once.
const AT_ONCE: usize = 4;
/// Questions in a row, and how many more each second. A namespace is labelled once; these are for that moment.
const IN_A_ROW: f64 = 20.0;
const A_SECOND: f64 = 5.0;
/// How long an answer is good: a roll-out makes its pods within a moment.
const GOOD: Duration = Duration::from_secs(1);

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
    under_way: Semaphore,
    asked: Mutex<Asked>,
}

/// Fills it.
pub(crate) struct Follow {
    api: Api<Meta>,
    writer: Writer<Meta>,
}

/// What was asked of the API server: the last answers, and how many more questions there may be.
struct Asked {
    answers: HashMap<String, (Instant, BTreeMap<String, String>)>,
    left: Left,
}

impl Asked {
    fn known(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        self.answers.retain(|_, (at, _)| at.elapsed() < GOOD);
        self.answers.get(name).map(|(_, labels)| labels.clone())
    }

    fn may_ask(&mut self) -> bool {
        self.left.take(IN_A_ROW, A_SECOND)
    }
}

/// The namespaces of the cluster that `client` is of, and what keeps them up to date.
pub(crate) fn watched(client: Client) -> (Watched, Follow) {
    let api = Api::all(client);
    let writer = Writer::default();
    let asked = Asked { answers: HashMap::new(), left: Left::new(IN_A_ROW) };
    let watched = Watched {
        api: api.clone(),
        store: writer.as_reader(),
        under_way: Semaphore::new(AT_ONCE),
        asked: Mutex::new(asked),
    };
    (watched, Follow { api, writer })
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

impl Watched {
    /// Asks the API server, if there has not been too much of that.
    async fn ask(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let asked = || self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked().known(name) {
            return Some(known);
        }
        let Ok(_turn) = self.under_way.try_acquire() else {
            tracing::debug!(namespace = name, "labels not asked for: {AT_ONCE} questions are under way");
            return None;
        };
        if !asked().may_ask() {
            tracing::debug!(
                namespace = name,
                "labels not asked for: {A_SECOND} questions a second are enough"
            );
            return None;
        }
        match tokio::time::timeout(PATIENCE, self.api.get(name)).await {
            Ok(Ok(namespace)) => {
                let labels = namespace.labels().clone();
                asked().answers.insert(name.to_owned(), (Instant::now(), labels.clone()));
                Some(labels)
            }
            Ok(Err(error)) => {
                tracing::warn!(namespace = name, %error, "cannot read the namespace");
                None
            }
            Err(_) => {
                tracing::warn!(namespace = name, "cannot read the namespace: no answer within {PATIENCE:?}");
                None
            }
        }
    }
}

impl Namespaces for Watched {
    fn labels<'a>(&'a self, name: &'a str, fresh: bool) -> Labels<'a> {
        Box::pin(async move {
            // A name becomes part of a path, and may be anybody's words.
            if name.parse::<weft_core::Namespace>().is_err() {
                return None;
            }
            if !fresh && let Some(known) = self.store.get(&ObjectRef::new(name)) {
                return Some(known.labels().clone());
            }
            self.ask(name).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    /// An API server that knows every namespace, and counts what it is asked.
    fn counted() -> (Client, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let service = service_fn(move |request: Request<Body>| {
            counter.fetch_add(1, Ordering::Relaxed);
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let namespace = serde_json::json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": name, "labels": {"is": name}},
            });
            async move {
                tokio::task::yield_now().await;
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(
                    namespace.to_string().into_bytes(),
                )))
            }
        });
        (Client::new(service, "default"), count)
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_watch_has_costs_no_question() {
        let (client, count) = counted();
        let (watched, mut follow) = watched(client);
        let labels = [("is".to_owned(), "watched".to_owned())].into();
        let mut meta = PartialObjectMeta::<Namespace>::default();
        meta.metadata.name = Some("shop".to_owned());
        meta.metadata.labels = Some(labels);
        follow.writer.apply_watcher_event(&watcher::Event::Apply(meta));
        for _ in 0..1000 {
            assert_eq!(watched.labels("shop", false).await.unwrap()["is"], "watched");
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
        // Asked for once, and then known for a second.
        for _ in 0..1000 {
            assert_eq!(watched.labels("shop", true).await.unwrap()["is"], "shop");
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokio::time::advance(GOOD).await;
        assert!(watched.labels("shop", true).await.is_some());
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_much_asks_the_api_server_little() {
        let (client, count) = counted();
        let (watched, _follow) = watched(client);
        let names: Vec<String> = (0..2000).map(|i| format!("n{i}")).collect();
        let found = futures_util::future::join_all(names.iter().map(|name| watched.labels(name, true))).await;
        assert_eq!(found.iter().flatten().count(), AT_ONCE);
        for name in &names {
            watched.labels(name, true).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), IN_A_ROW as usize);
        tokio::time::advance(Duration::from_secs(1)).await;
        for name in &names {
            watched.labels(name, true).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), IN_A_ROW as usize + A_SECOND as usize);
    }

    #[tokio::test]
    async fn what_is_no_name_reaches_nobody() {
        let (client, count) = counted();
        let (watched, _follow) = watched(client);
        for name in ["", "a/../../secrets", "a?x", "A", "a.b", &"a".repeat(64)] {
            assert_eq!(watched.labels(name, true).await, None, "{name}");
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
