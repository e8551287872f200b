//! The metrics of a proxy, fetched through the API server.
//!
//! A proxy's own numbers are the only witness of what it holds: which bundle, which certificate, whom it served. There may
//! be no Prometheus, and the person who asks may have no way to a pod but the API server. So the page is fetched through
//! the API server's pod proxy (`GET .../pods/<pod>:15020/proxy/metrics`, which needs the right to `get` `pods/proxy`)
//! and read here.
//!
//! | module | |
//! |---|---|
//! | `text` | the Prometheus text format |
//! | `histogram` | buckets, their difference, quantiles |
//! | `proxy` | what the checks want to know, taken from a page |

mod histogram;
mod proxy;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncReadExt as _, StreamExt as _};
use kube::Client;
use tokio::time::{Instant, timeout};
use weft_control::client::describe;
use weft_control::controller::facts::Key;

pub use histogram::Histogram;
pub use proxy::{ControlMetrics, Leaf, PlaintextCaller, ProxyMetrics};
pub use text::{Page, PageError, Sample};

/// Where every Weft process serves its metrics.
const PORT: u16 = 15020;
/// A page. The API server gives up on a pod that is not there after some 30 s; people wait less.
const ANSWER: Duration = Duration::from_secs(10);
/// Families have at most 2,000 series; a histogram's series has some 20 lines of 300 bytes.
const LONGEST: u64 = 64 * 1024 * 1024;
/// Pages that are fetched at once: enough to hide the delay of each, few enough for an API server that is busy.
pub(crate) const AT_ONCE: usize = 16;

/// A page, and when it had arrived.
#[derive(Debug, Clone)]
pub(crate) struct Scrape {
    pub(crate) page: Arc<Page>,
    pub(crate) at: Instant,
}

/// What came of fetching a page: it, or why not.
pub(crate) type Scraped = Result<Scrape, String>;

/// Fetches the pages of many pods, a bounded number at once. One that cannot be had has its reason in its place.
pub(crate) async fn all(client: &Client, pods: impl Iterator<Item = Key>) -> BTreeMap<Key, Scraped> {
    futures_util::stream::iter(pods)
        .map(|key| async move {
            let scraped = one(client, &key).await;
            (key, scraped)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// Fetches the page of one pod.
pub(crate) async fn one(client: &Client, pod: &Key) -> Scraped {
    let text = match timeout(ANSWER, fetch(client, pod)).await {
        Ok(text) => text?,
        Err(_) => return Err(format!("no answer within {} s", ANSWER.as_secs())),
    };
    let page = Page::parse(&text).map_err(|error| format!("its metrics cannot be read: {error}"))?;
    Ok(Scrape { page: Arc::new(page), at: Instant::now() })
}

async fn fetch(client: &Client, pod: &Key) -> Result<String, String> {
    // Names of the API are safe in a path; they came from the API server.
    let path = format!("/api/v1/namespaces/{}/pods/{}:{PORT}/proxy/metrics", pod.namespace, pod.name);
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    let stream = client.request_stream(request).await.map_err(|error| describe(&error))?;
    let mut text = String::new();
    let read = std::pin::pin!(stream).take(LONGEST).read_to_string(&mut text).await;
    read.map_err(|error| format!("the answer broke off: {error}"))?;
    Ok(text)
}
