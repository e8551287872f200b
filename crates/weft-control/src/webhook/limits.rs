//! The LimitRanges of the cluster, at hand when a pod comes.
//!
//! They are watched, and nobody waits for them: until the first list is there, and where the watch is not allowed, pods
//! are injected as if there were none. Whoever may make LimitRanges decides how many there are and how large, so of each
//! only what bounds a container or a pod is kept, and only so many of a namespace and of all.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::LimitRange as Object;
use kube::runtime::watcher::{Error, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use crate::inject::{LimitRange, Limits};

/// Objects of one page of a list: one may have 1.5 MiB.
const PAGE: u32 = 50;
/// LimitRanges that are kept of one namespace, the first by name; the injector looks at as many.
const OF_NAMESPACE: usize = 16;
/// Those of all: ten of each namespace of a large cluster, some megabytes.
const OF_ALL: usize = 20_000;

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitRanges(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By namespace and name.
    ranges: HashMap<String, BTreeMap<String, LimitRange>>,
    count: usize,
}

/// Fills it.
pub(crate) struct Follow {
    api: Api<Object>,
    ranges: LimitRanges,
}

/// The LimitRanges of the cluster that `client` is of, and what keeps them up to date.
pub(crate) fn watched(client: Client) -> (LimitRanges, Follow) {
    let ranges = LimitRanges::default();
    (ranges.clone(), Follow { api: Api::all(client), ranges })
}

impl LimitRanges {
    /// Those of a namespace; none where they are not known.
    pub(crate) fn of(&self, namespace: Option<&str>) -> Limits {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of = namespace.and_then(|namespace| known.ranges.get(namespace));
        of.into_iter().flat_map(BTreeMap::values).cloned().collect()
    }
}

impl Follow {
    /// Follows the cluster, for ever.
    pub(crate) async fn run(self) {
        let config = watcher::Config::default().page_size(PAGE);
        take(watcher(self.api, config).default_backoff(), &self.ranges).await;
    }
}

async fn take(events: impl Stream<Item = Result<Event<Object>, Error>>, ranges: &LimitRanges) {
    let mut events = std::pin::pin!(events);
    // The list that is being read: what is known stays until it is complete.
    let mut next = Known::default();
    let mut failed = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(%error, "cannot watch LimitRanges; sidecars are not fitted to what is not known of them");
                }
                continue;
            }
        };
        failed = false;
        let known = || ranges.0.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => next = Known::default(),
            Event::InitApply(object) => next.keep(&object),
            Event::InitDone => *known() = std::mem::take(&mut next),
            Event::Apply(object) => known().keep(&object),
            Event::Delete(object) => known().forget(&object),
        }
    }
}

impl Known {
    fn keep(&mut self, object: &Object) {
        self.forget(object);
        let read = LimitRange::of(object);
        if read.is_empty() || self.count >= OF_ALL {
            return;
        }
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
            return;
        };
        let of = self.ranges.entry(namespace.clone()).or_default();
        of.insert(name.clone(), read);
        if of.len() > OF_NAMESPACE {
            of.pop_last();
        } else {
            self.count += 1;
        }
    }

    fn forget(&mut self, object: &Object) {
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
            return;
        };
        let Some(of) = self.ranges.get_mut(namespace) else { return };
        self.count -= usize::from(of.remove(name).is_some());
        if of.is_empty() {
            self.ranges.remove(namespace);
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
