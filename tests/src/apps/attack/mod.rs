//! A pod that does its worst: `weft-testapp attack --seconds N --ca HOST:PORT ...`, for a story about who is hurt by it.
//!
//! It does everything at once that a pod without any special right can: floods, silence, halves of things, large and deep
//! and many. What each means came to is counted, and printed as JSON at the end, so that a story can say that it was
//! attacked. It ends by itself.
//!
//! | option | attacked |
//! |---|---|
//! | `--ca HOST:PORT`, `--token FILE` | the CA; with a genuine token of the pod's own, too |
//! | `--injector HOST:PORT` | the injector |
//! | `--api HOST:PORT`, `--api-token FILE`, `--namespace NAME`, `--services N` | the controller, by Services in the own namespace |
//! | `--pods NAME` | what is at the addresses of this name: other pods, their proxies first of all |

mod ca;
mod injector;
mod proxies;
mod services;
mod tls;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// After something that failed, so that a closed door does not make a busy loop of the attacker's own.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks for the pods that there are.
const LOOK: Duration = Duration::from_secs(3);
/// For a connection or an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What it was told.
struct Orders {
    /// When tokens begin to be made up: then the CA hears nothing of this address any more, nor by other means.
    forge_from: Instant,
    until: Instant,
    ca: SocketAddr,
    token: PathBuf,
    injector: SocketAddr,
    api: SocketAddr,
    api_token: PathBuf,
    namespace: String,
    services: usize,
    /// The other pods as of now.
    pods: RefCell<Vec<IpAddr>>,
    counts: Counts,
}

/// How often each means came to something.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    fn add(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }
}

/// Attacks for as long as it was told, and says what came of it.
#[expect(clippy::print_stdout, reason = "the counts are what it was called for")]
pub(super) async fn attack(words: impl Iterator<Item = String>) -> Result<()> {
    let (orders, pods) = orders(words).await?;
    let orders = Rc::new(orders);
    // Each silent connection is a descriptor here as well.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).context("descriptors")?;
    let all = LocalSet::new();
    all.run_until(async {
        tokio::task::spawn_local(follow(Rc::clone(&orders), pods));
        ca::begin(&orders);
        injector::begin(&orders);
        services::begin(&orders);
        proxies::begin(&orders);
        sleep_until(orders.until).await;
    })
    .await;
    // What is under way ends with it.
    drop(all);
    let counts = orders.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{}", serde_json::to_string(&*counts).context("the counts as JSON")?);
    Ok(())
}

/// Names are looked up here and once: it is not the cluster's DNS that is attacked.
async fn orders(mut words: impl Iterator<Item = String>) -> Result<(Orders, String)> {
    let mut given = BTreeMap::new();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        given.insert(word, value);
    }
    let mut take = |name: &str| given.remove(name).with_context(|| format!("no {name}"));
    let time = Duration::from_secs(take("--seconds")?.parse().context("--seconds")?);
    let began = Instant::now();
    let orders = Orders {
        forge_from: began + time / 3,
        until: began + time,
        ca: address(&take("--ca")?).await?,
        token: take("--token")?.into(),
        injector: address(&take("--injector")?).await?,
        api: address(&take("--api")?).await?,
        api_token: take("--api-token")?.into(),
        namespace: take("--namespace")?,
        services: take("--services")?.parse().context("--services")?,
        pods: RefCell::default(),
        counts: Counts::default(),
    };
    let pods = take("--pods")?;
    match given.into_keys().next() {
        Some(word) => bail!("{word} is not an option"),
        None => Ok((orders, pods)),
    }
}

/// Does `once` over and over on `hands` tasks; `what` counts how often it came to its end.
fn over_and_over<F>(
    orders: &Rc<Orders>,
    what: &'static str,
    hands: usize,
    once: impl AsyncFn(&Orders, usize) -> Result<F> + Clone + 'static,
) {
    for hand in 0..hands {
        let (orders, once) = (Rc::clone(orders), once.clone());
        tokio::task::spawn_local(async move {
            loop {
                match timeout_at(orders.until, once(&orders, hand)).await {
                    Ok(Ok(_)) => orders.counts.add(what),
                    Ok(Err(_)) => sleep(PAUSE).await,
                    Err(_) => return,
                }
            }
        });
    }
}

async fn address(host: &str) -> Result<SocketAddr> {
    let mut found = lookup_host(host).await.with_context(|| format!("looking up {host}"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

/// Keeps up with the pods, which come and go.
async fn follow(orders: Rc<Orders>, name: String) {
    loop {
        if let Ok(found) = lookup_host((name.as_str(), 0)).await {
            *orders.pods.borrow_mut() = found.map(|found| found.ip()).collect();
        }
        sleep(LOOK).await;
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream> {
    Ok(timeout(PATIENCE, TcpStream::connect(address)).await??)
}
