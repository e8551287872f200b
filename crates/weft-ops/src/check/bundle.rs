//! The trust bundle: one, the same everywhere, and not about to end.
//!
//! The Secret `weft-ca` is where it comes from. From there the controller brings it into the ConfigMap `weft-mesh` of each
//! participating namespace, and the kubelet brings that to the proxies, which takes up to 90 s. A proxy that is left
//! behind refuses those that are not.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ConfigMap;
use weft_identity::TrustBundle;

use super::installed::{Installed, Root};
use super::proxies::Proxies;
use super::report::{Finding, Vantage};
use crate::view::View;
use crate::words::{counted, have};

const DAY: u64 = 24 * 3600;
/// Left of a root when it is told: a rotation takes as long as the longest-lived leaf, and people take longer.
const SOON: u64 = 60 * DAY;
/// Left of a root when it fails: leaves of 24 h cannot outlive it.
const TOO_LATE: u64 = 3 * DAY;

/// What to compare with: the Secret, or, where that may not be read, what every `weft-mesh` says in one voice.
pub(super) fn reference(installed: &Installed, view: &View) -> Option<TrustBundle> {
    if let Some(known) = installed.root.known() {
        return Some(known.clone());
    }
    let mut found = view.meshes.values().filter_map(|mesh| of(mesh).ok());
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

fn of(mesh: &ConfigMap) -> Result<TrustBundle, String> {
    let pem = mesh.data.as_ref().and_then(|data| data.get("root.pem")).ok_or("it has no root.pem")?;
    TrustBundle::from_pem(pem.as_bytes()).map_err(|error| error.to_string())
}

/// Judges the Secret.
pub(super) fn secret(installed: &Installed) -> Finding {
    let id = "bundle.secret";
    match &installed.root {
        Root::Known(bundle) => Finding::ok(
            id,
            Vantage::Api,
            format!("the Secret weft-ca holds the bundle {}", short(bundle.hash())),
        ),
        Root::Hidden => Finding::skipped(
            id,
            Vantage::Api,
            "you may not read the Secret weft-ca; the ConfigMaps weft-mesh are compared with each other",
        ),
        Root::Missing(reason) => Finding::failed(
            id,
            Vantage::Api,
            reason.clone(),
            "weft-control makes the Secret when it first starts: see control.deployment. If it was lost, restore it from a backup: \
             a new root refuses every proxy that is running",
        ),
    }
}

/// Judges how long the roots have to live.
pub(super) fn expiry(bundle: &TrustBundle, now: SystemTime) -> Finding {
    let id = "bundle.expiry";
    let left = bundle
        .subjects()
        .map(|(name, end)| (name.to_owned(), end.duration_since(now).map_or(0, |left| left.as_secs())));
    let left: Vec<(String, u64)> = left.collect();
    let told = |(name, left): &(String, u64)| match left {
        0 => format!("{name} has expired"),
        left => format!("{name} expires in {}", days(*left)),
    };
    let first = left.iter().map(|(_, left)| *left).min().unwrap_or(0);
    let last = left.iter().map(|(_, left)| *left).max().unwrap_or(0);
    let details: Vec<String> = left.iter().map(told).collect();
    let cure = "replace the root, in three steps: docs/reference/control.md";
    if last < TOO_LATE {
        return Finding::failed(
            id,
            Vantage::Api,
            "the mesh's root ends within 3 days, and every certificate with it",
            cure,
        )
        .details(details);
    }
    if first < SOON {
        return Finding::warning(id, Vantage::Api, "a root ends within 60 days", cure).details(details);
    }
    let roots = counted(left.len(), "root", "roots");
    Finding::ok(id, Vantage::Api, format!("{roots}, {} left", days(first)))
}

fn days(seconds: u64) -> String {
    counted(usize::try_from(seconds / DAY).unwrap_or(usize::MAX), "day", "days")
}

/// Judges the ConfigMaps of participating namespaces.
pub(super) fn meshes(view: &View, scope: Option<&str>, reference: Option<&TrustBundle>) -> Finding {
    let id = "bundle.namespaces";
    let mut wrong = Vec::new();
    let mut all = 0;
    for namespace in view.members(scope) {
        all += 1;
        let told = match (view.meshes.get(namespace).map(of), reference) {
            (None, _) => "there is no ConfigMap weft-mesh: injected pods cannot start".to_owned(),
            (Some(Err(reason)), _) => format!("the ConfigMap weft-mesh: {reason}"),
            (Some(Ok(found)), Some(reference)) if found != *reference => {
                format!("has {} instead of {}", short(found.hash()), short(reference.hash()))
            }
            (Some(Ok(_)), _) => continue,
        };
        wrong.push(format!("{namespace}: {told}"));
    }
    if !wrong.is_empty() {
        let cure = "the controller writes them: see control.deployment, and which replica leads: kubectl -n weft-system get lease weft-controller";
        return Finding::failed(
            id,
            Vantage::Api,
            format!(
                "{} of {} without the trust bundle",
                wrong.len(),
                counted(all, "namespace", "namespaces")
            ),
            cure,
        )
        .details(wrong);
    }
    match (all, reference) {
        (0, _) => Finding::skipped(id, Vantage::Api, "no namespace takes part"),
        (_, None) => Finding::failed(
            id,
            Vantage::Api,
            "the namespaces have different trust bundles",
            "see bundle.secret",
        ),
        (_, Some(reference)) => Finding::ok(
            id,
            Vantage::Api,
            format!(
                "{} {} the bundle {}",
                counted(all, "namespace", "namespaces"),
                have(all),
                short(reference.hash())
            ),
        ),
    }
}

/// Judges the proxies.
pub(super) fn proxies(proxies: &Proxies, reference: Option<&TrustBundle>) -> Finding {
    let id = "bundle.proxies";
    let mut by_hash: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut none = Vec::new();
    for (key, metrics) in proxies.answering() {
        match &metrics.bundle {
            Some(hash) => by_hash.entry(hash).or_default().push(key.to_string()),
            None => none.push(format!("{key} has none")),
        }
    }
    let all: usize = by_hash.values().map(Vec::len).sum::<usize>() + none.len();
    if all == 0 {
        return Finding::skipped(id, Vantage::Proxies, "no proxy answers");
    }
    let common = by_hash.iter().max_by_key(|(_, pods)| pods.len()).map(|(hash, _)| *hash);
    let wanted = reference.map(TrustBundle::hash).or(common).unwrap_or_default();
    let stale = by_hash.iter().filter(|(hash, _)| **hash != wanted);
    let stale = stale.flat_map(|(hash, pods)| pods.iter().map(|pod| format!("{pod} has {}", short(hash))));
    let wrong: Vec<String> = stale.chain(none).collect();
    if wrong.is_empty() {
        let proxies = counted(all, "proxy", "proxies");
        let summary = format!("{proxies} {} the bundle {}", have(all), short(wanted));
        return Finding::ok(id, Vantage::Proxies, summary);
    }
    let cure = "the kubelet brings the ConfigMap within 90 s: run this again. If it stays so, the proxy's log tells why (kubectl logs POD -c weft-proxy), \
                and a restart of the workload brings the new one";
    Finding::failed(
        id,
        Vantage::Proxies,
        format!(
            "{} of {} without the bundle {}",
            wrong.len(),
            counted(all, "proxy", "proxies"),
            short(wanted)
        ),
        cure,
    )
    .details(wrong)
}

/// Enough of a hash to tell two apart.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::installed::tests::{bundle, installed};
    use super::super::proxies::tests::proxies as with;
    use super::super::report::State;
    use super::*;
    use crate::scrape::ProxyMetrics;
    use crate::view::tests::{namespace, view};

    fn mesh(namespace: &str, pem: &str) -> Value {
        json!({"kind": "ConfigMap", "metadata": {"name": "weft-mesh", "namespace": namespace}, "data": {"root.pem": pem}})
    }

    #[test]
    fn every_namespace_must_have_it() {
        let (ours, pem) = bundle();
        let (_, other) = bundle();
        let member = |name: &str| namespace(name, json!({"weft.dev/inject": "enabled"}));
        let seen = view(&[
            member("a"),
            member("b"),
            member("c"),
            member("d"),
            mesh("a", &pem),
            mesh("b", &other),
            mesh("c", "x"),
        ]);
        let found = meshes(&seen, None, Some(&ours));
        assert_eq!(found.state, State::Failed);
        assert_eq!(found.details.len(), 3);
        assert!(
            found.details[0].starts_with("b: has ") && found.details[2].contains("no ConfigMap"),
            "{found:?}"
        );
        assert_eq!(meshes(&seen, Some("a"), Some(&ours)).state, State::Ok);
        let good = Installed { root: Root::Known(ours.clone()), ..installed() };
        assert_eq!(reference(&good, &seen), Some(ours.clone()));
        assert_eq!(reference(&installed(), &seen), None, "they say different things");
        assert_eq!(reference(&installed(), &view(&[member("a"), mesh("a", &pem)])), Some(ours));
    }

    #[test]
    fn a_proxy_left_behind_is_named() {
        let (ours, _) = bundle();
        let metrics =
            |hash: Option<&str>| ProxyMetrics { bundle: hash.map(str::to_owned), ..ProxyMetrics::default() };
        let good = metrics(Some(ours.hash()));
        let found = proxies(
            &with(&[("a", good.clone()), ("b", metrics(Some("0123456789abcdef"))), ("c", metrics(None))]),
            Some(&ours),
        );
        assert_eq!(found.details, ["shop/b has 0123456789ab", "shop/c has none"]);
        assert_eq!(proxies(&with(&[("a", good)]), Some(&ours)).state, State::Ok);
        assert_eq!(proxies(&with(&[]), Some(&ours)).state, State::Skipped);
        assert_eq!(
            proxies(&with(&[("a", metrics(Some("x"))), ("b", metrics(Some("y")))]), None).state,
            State::Failed
        );
    }

    #[test]
    fn an_old_root_is_told_in_time() {
        let (ours, _) = bundle();
        let end = ours.subjects().next().unwrap().1;
        let judge = |days: u64| expiry(&ours, end - Duration::from_secs(days * DAY + 5)).state;
        assert_eq!((judge(400), judge(40), judge(2)), (State::Ok, State::Warning, State::Failed));
    }
}
