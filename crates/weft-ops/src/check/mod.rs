//! `weft check`: is the cluster fit for Weft, is the installation whole, is the mesh well?
//!
//! Most of what goes wrong in a mesh shows elsewhere than where it is wrong: a stale root as a refused connection, a
//! NetworkPolicy as a pod without a sidecar. So everything that one thing needs of another is looked at, in that order, and each
//! failure comes with its cure. Nothing is changed: the only thing that is ever sent to be created is a dry run.
//!
//! What is fetched and what is made of it are apart: judges are pure functions over facts.
//!
//! | module | |
//! |---|---|
//! | `report` | how a finding looks |
//! | `server` | the API server and the nodes, their versions and clocks |
//! | `rights` | before an installation: permissions, and what is in the way |
//! | `installed` | the objects of an installation |
//! | `reach` | do CA and injector answer, from here and from the API server |
//! | `bundle` | the trust bundle, the same everywhere |
//! | `proxies` | the injected pods |
//! | `members` | the namespaces that take part |

mod bundle;
mod installed;
mod members;
mod proxies;
mod reach;
mod report;
mod rights;
mod server;

use std::collections::BTreeSet;
use std::time::SystemTime;

use kube::Client;
use weft_kube::client::describe;
use weft_kube::controller::facts::Key;

pub use report::{Finding, Report, State, Vantage};

pub use proxies::span;

use crate::scrape;
use crate::view::View;
use installed::Installed;
use proxies::Proxies;
use server::Greeting;

/// What to check.
#[derive(Debug, Clone)]
pub struct Check {
    /// Weft's own namespace.
    pub own: String,
    /// Only this namespace of the mesh; None for all.
    pub scope: Option<String>,
    /// Whether Weft could be installed, instead of whether it is well.
    pub pre: bool,
}

impl Check {
    /// Checks. What cannot be looked at is a finding, not an error.
    pub async fn run(&self, client: &Client) -> Report {
        let mut report = Report::default();
        let greeting = match server::greet(client).await {
            Ok(greeting) => greeting,
            Err(reason) => {
                let cure = "see that KUBECONFIG (or ~/.kube/config) and its current context are right: kubectl version";
                let finding = Finding::failed(
                    "api.reachable",
                    Vantage::Api,
                    format!("the API server does not answer: {reason}"),
                    cure,
                );
                report.findings.push(finding);
                return report;
            }
        };
        report.findings.push(server::version(&greeting));
        nodes(client, &greeting, &mut report.findings).await;
        if self.pre {
            report.findings.push(rights::may_install(client, &self.own).await);
            report.findings.extend(rights::in_the_way(client, &self.own).await);
        } else {
            Box::pin(self.installation(client, &mut report.findings)).await;
        }
        report
    }

    async fn installation(&self, client: &Client, findings: &mut Vec<Finding>) {
        let installed = match Installed::of(client, &self.own).await {
            Ok(installed) => installed,
            Err(reason) => return findings.push(unreadable("control.objects", &reason)),
        };
        findings.push(installed::deployment(&installed));
        if installed.deployment.is_none() && installed.webhook.is_none() {
            // Nothing of it is there: one finding says so.
            return;
        }
        findings.extend([
            installed::config(&installed),
            installed::services(&installed),
            installed::webhook(&installed),
        ]);
        let scope = self.scope.as_deref();
        let view = match View::of(client, &self.own, scope).await {
            Ok(view) => view,
            Err(error) => return findings.push(unreadable("namespaces.members", &error.to_string())),
        };
        let reference = bundle::reference(&installed, &view);
        findings.extend(installed::ca_bundle(&installed, reference.as_ref()));
        // Side by side: each waits for the network most of the time.
        let (injector, dry, ca, proxies, control) = futures_util::join!(
            reach::injector(client, &installed, reference.as_ref()),
            reach::dry_run(client, &view),
            reach::ca(client, &installed, reference.as_ref()),
            Proxies::of(client, &view, scope),
            versions(client, &installed),
        );
        findings.extend([
            injector,
            reach::answers(&dry.0, &dry.1, &self.own),
            ca,
            bundle::secret(&installed),
        ]);
        let now = SystemTime::now();
        findings.extend(reference.as_ref().map(|reference| bundle::expiry(reference, now)));
        findings.push(bundle::meshes(&view, scope, reference.as_ref()));
        findings.push(bundle::proxies(&proxies, reference.as_ref()));
        let leaf = installed.config.as_ref().map_or(86_400.0, |config| config.ca.leaf_lifetime.as_secs_f64());
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        findings.extend(proxies::judge(&proxies, now, leaf, &control));
        let strict = |key: &Key| installed.strict.contains(key);
        findings.extend(members::judge(&view, scope, &strict, &proxies));
    }
}

fn unreadable(id: &'static str, reason: &str) -> Finding {
    let cure = "checks need the right to read these objects: use a cluster administrator's configuration, or -n for one namespace";
    Finding::failed(id, Vantage::Api, format!("cannot {}", reason.trim_start_matches("cannot ")), cure)
}

async fn nodes(client: &Client, greeting: &Greeting, findings: &mut Vec<Finding>) {
    match server::nodes(client).await {
        Ok(nodes) => findings.extend([server::kubelets(greeting, &nodes), server::clocks(greeting, &nodes)]),
        Err(error) => findings.push(Finding::skipped(
            "api.nodes",
            Vantage::Api,
            format!("nodes cannot be listed: {}", describe(&error)),
        )),
    }
}

/// The versions that the pods of `weft control` say they are.
async fn versions(client: &Client, installed: &Installed) -> Vec<String> {
    let pages = scrape::all(client, installed.running()).await;
    let versions = pages.values().filter_map(|scraped| {
        let page = &scraped.as_ref().ok()?.page;
        scrape::ProxyMetrics::from(&**page).version
    });
    versions.collect::<BTreeSet<String>>().into_iter().collect()
}
