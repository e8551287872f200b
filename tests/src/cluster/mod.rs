//! A real Kubernetes cluster for stories, by the same means that its users have: `kubectl` and `helm`.
//!
//! `cargo xtask cluster e2e` starts the cluster, makes the images and tells both by environment variables. A story
//! makes namespaces, applies objects that [`Workload`] describes, and asks the applications and the sidecars in them.
//!
//! ```no_run
//! use weft_testbed::cluster::{Workload, cluster_story};
//!
//! cluster_story("greeting", |cluster| {
//!     let shop = cluster.namespace("greeting", &[("weft.dev/inject", "enabled")])?;
//!     shop.apply(&Workload::deployment("orders").app("http", 8080).service(80, 8080))?;
//!     shop.apply(&Workload::deployment("web").client())?;
//!     shop.ready(&["orders", "web"])?;
//!     let answer = shop.http("deploy/web", "http://orders/hello")?;
//!     assert_eq!(answer.status, 200);
//!     Ok(())
//! });
//! ```

mod collector;
mod facts;
mod kubectl;
mod leaks;
mod load;
mod namespace;
mod node;
mod shop;
mod tokens;
mod weft;
mod workload;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

pub use collector::OtelCollector;
pub use facts::{Plaintext, identities};
pub use kubectl::{Forward, Kubectl};
pub use leaks::{Logs, Secrets};
pub use load::{ClusterLoad, ClusterLoadBuilder};
pub use namespace::{Answer, Namespace};
pub use node::NodeCapture;
pub use shop::Shop;
pub use weft::{CONTROL, WEFT_NAMESPACE};
pub use workload::{Workload, objects_of};

/// Where the cluster's directory is told (`cargo xtask cluster e2e` sets all of these).
const DIRECTORY: &str = "WEFT_CLUSTER";
/// `kubectl` and `helm` of the cluster's version.
const KUBECTL: &str = "WEFT_KUBECTL";
const HELM: &str = "WEFT_HELM";
/// The binary that runs `weft install` and its like: the same as in the images.
const WEFT: &str = "WEFT_BIN";
/// Two images of it under different names, for upgrades.
const IMAGE: &str = "WEFT_IMAGE";
const NEXT_IMAGE: &str = "WEFT_NEXT_IMAGE";
/// Set: what a story made stays, to look at.
const KEEP: &str = "WEFT_KEEP";

/// The image of the test applications, which `cargo xtask cluster e2e` makes.
pub const APP_IMAGE: &str = "docker.io/weft-test/testapp:1";
/// The image of the OpenTelemetry Collector.
pub const COLLECTOR_IMAGE: &str = "docker.io/weft-test/otelcol:1";

/// The cluster that the stories run on.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    kubectl: Kubectl,
    helm: PathBuf,
    weft: PathBuf,
    image: String,
    next_image: String,
    keep: bool,
    made: Mutex<Vec<String>>,
}

impl Cluster {
    /// The cluster that the environment tells of.
    ///
    /// # Errors
    /// A variable is not set: the stories were not started by `cargo xtask cluster e2e`.
    pub fn from_environment() -> Result<Self> {
        let get = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("{name} is not set: run this by `cargo xtask cluster e2e`"))
        };
        let dir = PathBuf::from(get(DIRECTORY)?);
        Ok(Self {
            kubectl: Kubectl::new(get(KUBECTL)?.into(), dir.join("kubeconfig")),
            helm: get(HELM)?.into(),
            weft: get(WEFT)?.into(),
            image: get(IMAGE)?,
            next_image: get(NEXT_IMAGE)?,
            keep: std::env::var_os(KEEP).is_some(),
            made: Mutex::default(),
            dir,
        })
    }

    /// `kubectl` as the cluster's administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The directory of the cluster's own files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image under test.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The same program under another version, to upgrade to.
    pub fn next_image(&self) -> &str {
        &self.next_image
    }

    /// Makes a namespace with labels. It is removed when the story ends.
    ///
    /// # Errors
    /// It exists, or the API server refuses it.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<Namespace<'_>> {
        let labels: serde_json::Map<String, serde_json::Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        });
        // Of an earlier run that was kept, or is still on its way out.
        self.kubectl.run(&["delete", "namespace", name, "--ignore-not-found", "--timeout=120s"])?;
        self.kubectl.create(&object)?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        // Pods are refused until the account that they run as is there.
        self.kubectl.wait_for(name, "serviceaccount", "default")?;
        Ok(Namespace::new(self, name))
    }

    /// A namespace that is there already.
    pub fn existing(&self, name: &str) -> Namespace<'_> {
        Namespace::new(self, name)
    }

    fn made(&self) -> Vec<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn clean(&self) {
        if self.keep {
            return;
        }
        for namespace in self.made() {
            // A story that failed has said what it has to say; the next does not wait for this.
            let _ =
                self.kubectl.run(&["delete", "namespace", &namespace, "--wait=false", "--ignore-not-found"]);
        }
    }
}

/// Runs a story on the cluster: on failure it prints what the namespaces of the story and Weft's own show, and removes
/// them.
///
/// # Panics
/// The story failed: that is how a test reports.
pub fn cluster_story(name: &str, tell: impl FnOnce(&Cluster) -> Result<()>) {
    let told = Cluster::from_environment().and_then(|cluster| {
        let told = tell(&cluster);
        if told.is_err() {
            cluster.report(&cluster.made());
        }
        cluster.clean();
        told
    });
    if let Err(error) = told {
        panic!("the story {name} failed: {error:#}");
    }
}

/// A line for whoever runs the stories and wants figures.
#[expect(clippy::print_stdout, reason = "figures are part of what a story gives")]
pub fn figure(what: &str, value: impl std::fmt::Display) {
    println!("FIGURE {what}: {value}");
}
