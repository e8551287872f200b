//! How long it takes to have a pod admitted.
//!
//! Two measures. The API server's own histogram says how long it waited for the webhook, network and TLS included, but has
//! coarse buckets. So the whole creation of a pod is timed as well, over one kept connection, as a dry run: admission runs
//! as ever, nothing is stored. Pods that opt out are not sent to the webhook: the difference is its price.

use anyhow::{Context, Result, ensure};

use super::kube::{self, Kube};
use super::{NAMESPACE, percentile};
use crate::process;

/// What the first few pay for, connections and caches, does not count.
const WARM_UP: u32 = 50;
/// The API server's own measure of one webhook.
const METRIC: &str = "apiserver_admission_webhook_admission_duration_seconds";
const WEBHOOK: &str = "name=\"namespace.injector.weft.dev\"";

/// Milliseconds of dry-run creations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub(super) count: u32,
    /// p50 and p99 of pods that are injected.
    pub(super) injected: [f64; 2],
    /// The same of pods that opt out.
    pub(super) without: [f64; 2],
    /// The API server's view of the webhook.
    pub(super) webhook: Webhook,
}

/// The API server's histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Webhook {
    pub(super) count: f64,
    /// The mean, in milliseconds.
    pub(super) mean: f64,
    /// The share of calls that took at most 5 and 25 ms, which are bounds of its buckets.
    pub(super) within: [f64; 2],
}

pub(super) fn measure(kube: &Kube<'_>, count: u32) -> Result<Admission> {
    series(kube, true, WARM_UP)?;
    let before = kube.run(&["get", "--raw", "/metrics"])?;
    let injected = series(kube, true, count)?;
    let after = kube.run(&["get", "--raw", "/metrics"])?;
    let without = series(kube, false, count)?;
    let both = |times: &[f64]| [percentile(times, 0.5), percentile(times, 0.99)];
    let webhook = Webhook::between(&before, &after);
    ensure!(webhook.count >= f64::from(count), "the webhook was called {} times", webhook.count);
    Ok(Admission { count, injected: both(&injected), without: both(&without), webhook })
}

/// Creates the same pod again and again, as a dry run: milliseconds of each.
fn series(kube: &Kube<'_>, sidecar: bool, count: u32) -> Result<Vec<f64>> {
    let file = kube.file("tried.json", &kube::pod("tried", sidecar).to_string())?;
    // One more than is counted: the first one makes the connection.
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldManager=[0-{count}]");
    let words = ["--data-binary", &format!("@{file}"), "-w", "%{http_code} %{time_total}\\n"];
    let said = process::text(&mut kube.curl(&words, &path)?)?;
    let mut times = Vec::new();
    for line in said.lines() {
        let (status, time) = line.split_once(' ').context("curl's line")?;
        ensure!(status == "201", "a pod was answered by {status}");
        times.push(time.trim().parse::<f64>().context("curl's time")? * 1e3);
    }
    ensure!(times.len() == count as usize + 1, "{} of {count} pods were tried", times.len());
    times.remove(0);
    Ok(times)
}

impl Webhook {
    /// What was added to the histogram between two readings of `/metrics`.
    fn between(before: &str, after: &str) -> Self {
        let added = |name: &str, label: &str| sum(after, name, label) - sum(before, name, label);
        let count = added("_count", "");
        let of = |value: f64| if count > 0.0 { value / count } else { 0.0 };
        let within = ["le=\"0.005\"", "le=\"0.025\""].map(|bound| of(added("_bucket", bound)));
        Self { count, mean: of(added("_sum", "")) * 1e3, within }
    }
}

fn sum(metrics: &str, part: &str, label: &str) -> f64 {
    let start = format!("{METRIC}{part}{{");
    let mine = metrics.lines().filter(|line| {
        line.starts_with(&start)
            && line.contains(WEBHOOK)
            && line.contains("type=\"admit\"")
            && line.contains(label)
    });
    mine.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(count: u32, fast: u32) -> String {
        let line = |part: &str, more: &str, value: f64| {
            let labels = format!("{WEBHOOK},operation=\"CREATE\",rejected=\"false\",type=\"admit\"{more}");
            format!("{METRIC}{part}{{{labels}}} {value}\n")
        };
        let other = line("_count", "", 1e6).replace("namespace.injector", "pod.injector");
        other
            + &line("_bucket", ",le=\"0.005\"", f64::from(fast))
            + &line("_bucket", ",le=\"0.025\"", f64::from(count))
            + &line("_bucket", ",le=\"+Inf\"", f64::from(count))
            + &line("_sum", "", f64::from(count) * 0.004)
            + &line("_count", "", f64::from(count))
    }

    #[test]
    fn only_what_was_added_counts_and_only_this_webhook() {
        let webhook = Webhook::between(&metrics(100, 50), &metrics(300, 240));
        assert!((webhook.count - 200.0).abs() < 1e-9 && (webhook.mean - 4.0).abs() < 1e-9, "{webhook:?}");
        assert!((webhook.within[0] - 0.95).abs() < 1e-9 && (webhook.within[1] - 1.0).abs() < 1e-9);
        assert_eq!(Webhook::between("", ""), Webhook::default());
    }
}
