//! The injected pods: ready, with a certificate that has time left, of one version, and answered by DNS.

use std::collections::BTreeMap;

use kube::Client;
use weft_control::controller::facts::Key;

use super::report::{Finding, Vantage};
use crate::scrape::{self, ProxyMetrics};
use crate::view::{PodView, View};
use crate::words::{are, counted, have};

/// A certificate is renewed at half to two thirds of its life; less than this share left means that renewal fails.
const LEFT: f64 = 0.25;
/// Queries without an answer, as a share, from which it is told; and how many there must be to have a share.
const TIMEOUTS: f64 = 0.1;
const ENOUGH_QUERIES: f64 = 20.0;

/// The injected pods, each with what its proxy says or why it says nothing.
#[derive(Default)]
pub(super) struct Proxies {
    pods: BTreeMap<Key, (PodView, Result<ProxyMetrics, String>)>,
}

impl Proxies {
    /// Asks them all.
    pub(super) async fn of(client: &Client, view: &View, scope: Option<&str>) -> Self {
        let asked = view.injected(scope).filter(|(_, pod)| pod.proxy_runs).map(|(key, _)| key.clone());
        let asked: Vec<Key> = asked.collect();
        let mut pages = scrape::all(client, asked.into_iter()).await;
        let pods = view.injected(scope).map(|(key, pod)| {
            let metrics = match pages.remove(key) {
                Some(Ok(scrape)) => Ok(ProxyMetrics::from(&*scrape.page)),
                Some(Err(reason)) => Err(reason),
                None => Err("weft-proxy does not run".to_owned()),
            };
            (key.clone(), (pod.clone(), metrics))
        });
        Self { pods: pods.collect() }
    }

    pub(super) fn answering(&self) -> impl Iterator<Item = (&Key, &ProxyMetrics)> {
        self.pods.iter().filter_map(|(key, (_, metrics))| Some((key, metrics.as_ref().ok()?)))
    }
}

/// All there is to say of them.
pub(super) fn judge(proxies: &Proxies, now: f64, leaf_lifetime: f64, control: &[String]) -> Vec<Finding> {
    if proxies.pods.is_empty() {
        return vec![Finding::skipped("pods.ready", Vantage::Api, "no pod has a sidecar yet")];
    }
    vec![
        ready(proxies),
        scraped(proxies),
        certificates(proxies, now, leaf_lifetime),
        versions(proxies, control),
        reloads(proxies),
        dns(proxies),
    ]
}

fn ready(proxies: &Proxies) -> Finding {
    let id = "pods.ready";
    let all = proxies.pods.len();
    let told = |ours: bool| {
        let troubled = proxies.pods.iter().filter_map(move |(key, (pod, _))| {
            let trouble = pod.trouble.as_ref()?;
            let restarts = if pod.proxy_restarts > 0 {
                let times = usize::try_from(pod.proxy_restarts).unwrap_or(0);
                format!(" (weft-proxy restarted {})", counted(times, "time", "times"))
            } else {
                String::new()
            };
            (ours != pod.proxy_ready).then(|| format!("{key}: {trouble}{restarts}"))
        });
        troubled.collect::<Vec<String>>()
    };
    let (ours, others) = (told(true), told(false));
    if !ours.is_empty() {
        let cure = "the proxy's log tells what it waits for: kubectl logs POD -c weft-proxy (or weft-init). Certificates: see ca.answers";
        let (pods, are) = (counted(all, "pod", "pods"), are(ours.len()));
        let summary = format!("{} of {pods} {are} not ready, for want of a ready proxy", ours.len());
        return Finding::failed(id, Vantage::Api, summary, cure).details(ours.into_iter().chain(others));
    }
    if !others.is_empty() {
        let cure = "their proxies are ready; the applications are not: kubectl describe pod, kubectl logs";
        let (pods, are) = (counted(all, "pod", "pods"), are(others.len()));
        let summary = format!("{} of {pods} {are} not ready", others.len());
        return Finding::warning(id, Vantage::Api, summary, cure).details(others);
    }
    let rest = if all == 1 { "and it is ready" } else { "all ready" };
    Finding::ok(id, Vantage::Api, format!("{} with a sidecar, {rest}", counted(all, "pod", "pods")))
}

fn scraped(proxies: &Proxies) -> Finding {
    let id = "pods.metrics";
    let all = proxies.pods.len();
    let silent = proxies
        .pods
        .iter()
        .filter_map(|(key, (_, metrics))| Some(format!("{key}: {}", metrics.as_ref().err()?)));
    let silent: Vec<String> = silent.collect();
    if silent.is_empty() {
        let tell = if all == 1 { "tells its" } else { "tell their" };
        let proxies = counted(all, "proxy", "proxies");
        return Finding::ok(id, Vantage::Proxies, format!("{proxies} {tell} state"));
    }
    let cure = "this needs the right to get pods/proxy, and a way from the API server to the pods' port 15020 (a NetworkPolicy may be in between)";
    Finding::warning(
        id,
        Vantage::Proxies,
        format!(
            "{} of {} could not be asked: what follows is without them",
            silent.len(),
            counted(all, "proxy", "proxies")
        ),
        cure,
    )
    .details(silent)
}

fn certificates(proxies: &Proxies, now: f64, lifetime: f64) -> Finding {
    let id = "pods.certificates";
    let (mut bad, mut soon, mut all) = (Vec::new(), Vec::new(), 0);
    for (key, metrics) in proxies.answering() {
        all += 1;
        let failed = if metrics.renewals_failed > 0.0 {
            format!(", failed renewals: {}", metrics.renewals_failed)
        } else {
            String::new()
        };
        match &metrics.leaf {
            None => bad.push(format!("{key} has none{failed}")),
            Some(leaf) if leaf.expires <= now => {
                bad.push(format!("{key}: expired {} ago{failed}", span(now - leaf.expires)));
            }
            Some(leaf) if leaf.expires - now < lifetime * LEFT => {
                soon.push(format!("{key}: {} left{failed}", span(leaf.expires - now)));
            }
            Some(_) => {}
        }
    }
    let cure = "see ca.answers, and what the proxy says: kubectl logs POD -c weft-proxy";
    if !bad.is_empty() {
        let proxies = counted(all, "proxy", "proxies");
        let summary = format!("{} of {proxies} {} no valid certificate", bad.len(), have(bad.len()));
        return Finding::failed(id, Vantage::Proxies, summary, cure).details(bad.into_iter().chain(soon));
    }
    if !soon.is_empty() {
        return Finding::failed(
            id,
            Vantage::Proxies,
            format!(
                "{} of {} should have been renewed by now",
                soon.len(),
                counted(all, "certificate", "certificates")
            ),
            cure,
        )
        .details(soon);
    }
    let rest = if all == 1 { "not near its end" } else { "none near its end" };
    let certificates = counted(all, "certificate", "certificates");
    Finding::ok(id, Vantage::Proxies, format!("{certificates}, {rest}"))
}

/// Seconds as people say them.
pub fn span(seconds: f64) -> String {
    // Durations of certificates: never near the limits of u64.
    let whole = seconds.clamp(0.0, 1e15) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn versions(proxies: &Proxies, control: &[String]) -> Finding {
    let id = "pods.versions";
    let mut by_version: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, (pod, metrics)) in &proxies.pods {
        // What runs tells more than what was asked for.
        let version =
            metrics.as_ref().ok().and_then(|metrics| metrics.version.as_deref()).or(pod.version.as_deref());
        let Some(version) = version else { continue };
        by_version.entry(version).or_default().push(format!("{}/{}", key.namespace, pod.workload.name));
    }
    let current = match control {
        [one] => one.as_str(),
        [] => return Finding::skipped(id, Vantage::Proxies, "the version of weft-control is not known"),
        several => {
            let summary = format!("weft-control runs in several versions: {}", several.join(", "));
            return Finding::warning(id, Vantage::Proxies, summary, "wait for its rollout to end");
        }
    };
    let old = by_version.iter().filter(|(version, _)| **version != current).map(|(version, workloads)| {
        let mut workloads = workloads.clone();
        workloads.sort_unstable();
        workloads.dedup();
        format!("{version}: {}", workloads.join(", "))
    });
    let old: Vec<String> = old.collect();
    if old.is_empty() {
        return Finding::ok(
            id,
            Vantage::Proxies,
            format!("all proxies are of version {current}, as weft-control"),
        );
    }
    let cure = "restart these workloads: kubectl rollout restart. Versions work together; what is new comes with the restart";
    Finding::warning(
        id,
        Vantage::Proxies,
        format!("proxies are of other versions than weft-control ({current})"),
        cure,
    )
    .details(old)
}

fn reloads(proxies: &Proxies) -> Finding {
    let id = "pods.configuration";
    let refused = proxies.answering().filter(|(_, metrics)| metrics.reloads_invalid > 0.0);
    let refused: Vec<String> =
        refused.map(|(key, metrics)| format!("{key}: {}", metrics.reloads_invalid)).collect();
    if refused.is_empty() {
        return Finding::ok(id, Vantage::Proxies, "no proxy has refused a configuration");
    }
    let cure = "the log names file, line and field: kubectl logs POD -c weft-proxy. The last good configuration stays in use";
    Finding::warning(id, Vantage::Proxies, "proxies have refused configurations since they started", cure)
        .details(refused)
}

fn dns(proxies: &Proxies) -> Finding {
    let id = "dns.answers";
    let lame = proxies
        .answering()
        .filter(|(_, m)| m.dns_sent >= ENOUGH_QUERIES && m.dns_timeouts / m.dns_sent > TIMEOUTS);
    let lame: Vec<String> = lame
        .map(|(key, m)| format!("{key}: {} of {} queries without an answer", m.dns_timeouts, m.dns_sent))
        .collect();
    if !lame.is_empty() {
        let cure = "see that the cluster's DNS is well (kubectl -n kube-system get pods -l k8s-app=kube-dns) and that no NetworkPolicy keeps pods from it";
        return Finding::warning(id, Vantage::Proxies, "name servers do not answer proxies in time", cure)
            .details(lame);
    }
    let sent: f64 = proxies.answering().map(|(_, metrics)| metrics.dns_sent).sum();
    if sent == 0.0 {
        return Finding::skipped(id, Vantage::Proxies, "no proxy has asked a name server yet");
    }
    Finding::ok(id, Vantage::Proxies, format!("name servers have answered the proxies ({sent} queries)"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::report::State;
    use super::*;
    use crate::scrape::Leaf;
    use crate::view::tests::{pod, view};

    pub(in crate::check) fn proxies(pods: &[(&str, ProxyMetrics)]) -> Proxies {
        let seen = view(&[pod("shop", "web", "10.0.0.1", true)]);
        let like = seen.pods.values().next().unwrap();
        let entry = |(name, metrics): &(&str, ProxyMetrics)| {
            (Key::new("shop", *name), (like.clone(), Ok(metrics.clone())))
        };
        Proxies { pods: pods.iter().map(entry).collect() }
    }

    fn metrics(left: f64) -> ProxyMetrics {
        let leaf = Leaf { identity: "spiffe://a/ns/b/sa/c".into(), expires: 1000.0 + left };
        ProxyMetrics {
            leaf: Some(leaf),
            version: Some("0.1.0".into()),
            dns_sent: 100.0,
            ..ProxyMetrics::default()
        }
    }

    #[test]
    fn certificates_are_judged_by_their_share() {
        let judge = |left: f64| certificates(&proxies(&[("a", metrics(left))]), 1000.0, 100.0).state;
        assert_eq!((judge(50.0), judge(10.0), judge(-1.0)), (State::Ok, State::Failed, State::Failed));
        let found = certificates(
            &proxies(&[("a", ProxyMetrics { renewals_failed: 2.0, ..ProxyMetrics::default() })]),
            0.0,
            1.0,
        );
        assert_eq!(found.details, ["shop/a has none, failed renewals: 2"]);
        assert_eq!(
            (span(30.0), span(3_720.0), span(90_000.0)),
            ("30 s".into(), "1 h 2 min".into(), "1 d 1 h".into())
        );
    }

    #[test]
    fn versions_are_compared_with_controls() {
        let seen = proxies(&[
            ("a", metrics(50.0)),
            ("b", ProxyMetrics { version: Some("0.0.9".into()), ..metrics(50.0) }),
        ]);
        let found = versions(&seen, &["0.1.0".to_owned()]);
        assert_eq!(
            (found.state, found.details.as_slice()),
            (State::Warning, &["0.0.9: shop/web".to_owned()][..])
        );
        assert_eq!(versions(&seen, &[]).state, State::Skipped);
        assert_eq!(versions(&proxies(&[("a", metrics(1.0))]), &["0.1.0".to_owned()]).state, State::Ok);
    }

    #[test]
    fn a_pod_whose_application_fails_is_not_the_meshs_failure() {
        let mut seen = proxies(&[("a", metrics(50.0)), ("b", metrics(50.0))]);
        let set = |seen: &mut Proxies, name: &str, proxy_ready: bool| {
            let (pod, _) = seen.pods.get_mut(&Key::new("shop", name)).unwrap();
            pod.trouble = Some("app is not ready".into());
            pod.proxy_ready = proxy_ready;
        };
        assert_eq!(ready(&seen).state, State::Ok);
        set(&mut seen, "a", true);
        assert_eq!(ready(&seen).state, State::Warning);
        set(&mut seen, "b", false);
        assert_eq!((ready(&seen).state, ready(&seen).details.len()), (State::Failed, 2));
    }

    #[test]
    fn silence_and_refusals_are_told() {
        let mut seen = proxies(&[
            ("a", ProxyMetrics { reloads_invalid: 1.0, dns_timeouts: 50.0, ..metrics(50.0) }),
            ("b", metrics(50.0)),
        ]);
        assert_eq!(scraped(&seen).state, State::Ok);
        seen.pods.get_mut(&Key::new("shop", "b")).unwrap().1 = Err("no answer".into());
        assert_eq!(scraped(&seen).details, ["shop/b: no answer"]);
        assert_eq!(reloads(&seen).state, State::Warning);
        assert_eq!(dns(&seen).state, State::Warning);
        assert_eq!(judge(&Proxies::default(), 0.0, 1.0, &[]).len(), 1);
    }
}
