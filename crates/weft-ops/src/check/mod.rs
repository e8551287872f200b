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
//! | `leftovers` | before an installation: what an earlier one has left |
//! | `installed` | the objects of an installation |
//! | `reach` | do CA and injector answer, from here |
//! | `dry_run` | does the API server have a pod injected |
//! | `root` | what mints certificates: made anew, or near its end |
//! | `bundle` | the trust bundle, the same everywhere |
//! | `proxies` | the injected pods |
//! | `members` | the namespaces that take part |
//! | `refusals` | workloads whose pods are refused when they are made |

mod bundle;
mod dry_run;
mod installed;
mod leftovers;
mod members;
mod proxies;
mod reach;
mod refusals;
mod report;
mod rights;
mod root;
mod server;

use std::collections::BTreeSet;
use std::time::SystemTime;

use kube::Client;
use weft_control::client::describe;
use weft_control::controller::facts::Key;

pub use report::{Finding, Report, State, Vantage};

pub use proxies::span;

use crate::scrape::{self, ControlMetrics};
use crate::view::View;
use installed::Installed;
use proxies::Proxies;
use refusals::Refusals;
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
            let in_the_way = rights::in_the_way(client, &self.own).await;
            // Of an installation that stands everything is there.
            let stands = in_the_way.iter().any(|found| found.id == rights::CLEAR && found.state != State::Ok);
            report.findings.extend(in_the_way);
            if !stands {
                report.findings.push(leftovers::look(client, &self.own).await);
            }
            report.findings.push(leftovers::not_yet_known());
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
        let clock = SystemTime::now();
        let now = clock.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        let (injector, tried, ca, proxies, control, refusals) = futures_util::join!(
            reach::injector(client, &installed, reference.as_ref()),
            dry_run::dry_run(client, &view, scope),
            reach::ca(client, &installed, reference.as_ref()),
            Proxies::of(client, &view, scope),
            control(client, &installed),
            // Whole seconds are what Events have.
            Refusals::of(client, scope, now as i64),
        );
        findings.extend([injector, dry_run::answers(&tried, &self.own), ca]);
        let leaf = installed.config.as_ref().map_or(86_400.0, |config| config.ca.leaf_lifetime.as_secs_f64());
        findings.extend(root::issuer(&control, now, leaf));
        findings.push(bundle::secret(&installed));
        findings.extend(root::renewed(&installed, &view, &control));
        findings.extend(reference.as_ref().map(|reference| bundle::expiry(reference, clock)));
        findings.push(bundle::meshes(&view, scope, reference.as_ref()));
        findings.push(bundle::proxies(&proxies, reference.as_ref()));
        let versions: BTreeSet<String> = control.into_iter().filter_map(|metrics| metrics.version).collect();
        findings.extend(proxies::judge(&proxies, now, leaf, &versions.into_iter().collect::<Vec<_>>()));
        let strict = |key: &Key| installed.strict.contains(key);
        let recreate = installed.config.as_ref().ok().map(|config| &config.controller.recreate_slipped);
        findings.extend(members::judge(&view, scope, &strict, (&proxies, recreate)));
        if view.members(scope).next().is_some() {
            findings.push(refusals::judge(&view, scope, &refusals, &tried));
        }
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

/// What the pods of `weft control` say of themselves, those that answer.
async fn control(client: &Client, installed: &Installed) -> Vec<ControlMetrics> {
    let pages = scrape::all(client, installed.running()).await;
    let answers = pages.into_values().filter_map(Result::ok);
    answers.map(|scraped| ControlMetrics::from(&*scraped.page)).collect()
}
