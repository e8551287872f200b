//! The namespaces that take part: whole, allowed to, with twins, and how far from strict.

use std::collections::{BTreeMap, BTreeSet};

use weft_control::controller::facts::Key;
use weft_control::controller::twins::{self, Hindrance};
use weft_control::controller::{RecreateSettings, modes, recreate, slips};
use weft_control::names::HELD_BACK;
use weft_core::MtlsMode;

use super::proxies::Proxies;
use super::report::{Finding, Vantage};
use crate::view::View;
use crate::words::{counted, have};

/// Everything that is told of them.
pub(super) fn judge(
    view: &View,
    scope: Option<&str>,
    strict: &dyn Fn(&Key) -> bool,
    (proxies, settings): (&Proxies, Option<&RecreateSettings>),
) -> Vec<Finding> {
    if view.members(scope).next().is_none() {
        let summary = match scope {
            Some(namespace) => format!("the namespace {namespace} does not take part"),
            None => "no namespace takes part yet".to_owned(),
        };
        let summary = format!(
            "{summary}: kubectl label namespace NAME weft.dev/inject=enabled, then restart its workloads"
        );
        return vec![Finding::skipped("namespaces.members", Vantage::Api, summary)];
    }
    vec![
        pod_security(view, scope),
        slipped(view, scope, strict),
        recreated(view, scope, settings),
        mistakes(view, scope),
        held_back(view, scope),
        twins(view, scope),
        sources(view, scope, proxies),
        modes(view, scope, strict),
        plaintext(view, scope, proxies),
    ]
}

/// `weft-init` needs NET_ADMIN and NET_RAW, which the levels baseline and restricted do not allow.
fn pod_security(view: &View, scope: Option<&str>) -> Finding {
    let id = "namespaces.pod-security";
    let tight = view.members(scope).filter_map(|namespace| {
        let level = view.pod_security.get(namespace).filter(|level| *level != "privileged")?;
        Some(format!("{namespace}: pod-security.kubernetes.io/enforce={level}"))
    });
    let tight: Vec<String> = tight.collect();
    if tight.is_empty() {
        return Finding::ok(id, Vantage::Api, "Pod Security lets injected pods in everywhere");
    }
    let cure = "weft-init needs NET_ADMIN and NET_RAW: kubectl label namespace NAME pod-security.kubernetes.io/enforce=privileged --overwrite \
                (warn and audit may stay), or enforce the rest by another policy engine with an exception for weft-init";
    Finding::failed(
        id,
        Vantage::Api,
        "namespaces take part whose Pod Security level refuses injected pods",
        cure,
    )
    .details(tight)
}

/// Pods that should have a sidecar and have none, by workload.
fn slipped(view: &View, scope: Option<&str>, strict: &dyn Fn(&Key) -> bool) -> Finding {
    let id = "namespaces.whole";
    let world = &view.world;
    let mut by_workload: BTreeMap<(String, String), (usize, String)> = BTreeMap::new();
    let mut refused = Vec::new();
    let wanted = |key: &Key| scope.is_none_or(|namespace| namespace == key.namespace);
    for (key, facts) in
        world.seen.pods.iter().filter(|(key, facts)| wanted(key) && slips::slipped(world, key, facts))
    {
        let Some(pod) = view.pods.get(key) else { continue };
        let entry = by_workload.entry((key.namespace.clone(), pod.workload.in_namespace(&key.namespace)));
        entry.or_insert_with(|| (0, pod.workload.restart(&key.namespace))).0 += 1;
        let mut services = world.mesh_services().filter(|(service, facts_of)| {
            strict(service) && world.pods_of(service, facts_of).iter().any(|pod| pod.uid == facts.uid)
        });
        if let Some((service, _)) = services.next() {
            refused.push(format!("{key} has no sidecar, and {service} is strict: callers refuse it"));
        }
    }
    if by_workload.is_empty() {
        let members = view.members(scope).count();
        return Finding::ok(
            id,
            Vantage::Api,
            format!(
                "every pod that should have a sidecar has one, in {}",
                counted(members, "namespace", "namespaces")
            ),
        );
    }
    let count: usize = by_workload.values().map(|(pods, _)| pods).sum();
    let details = by_workload.iter().map(|((_, workload), (pods, _))| {
        format!("{workload}: {} without a sidecar", counted(*pods, "pod", "pods"))
    });
    let cures: Vec<&str> = by_workload.values().map(|(_, restart)| restart.as_str()).take(5).collect();
    let more = if by_workload.len() > cures.len() { ", ..." } else { "" };
    let cure =
        format!("restart them: {}{more}. If they come back without: see webhook.answers", cures.join("; "));
    let pods = counted(count, "pod", "pods");
    let summary = format!("{pods} {} no sidecar and should have one", have(count));
    if refused.is_empty() {
        return Finding::warning(id, Vantage::Api, summary, cure).details(details);
    }
    Finding::failed(id, Vantage::Api, summary, cure).details(details.chain(refused))
}

/// Whether they are made anew by themselves, which of them are not, and which in vain.
fn recreated(view: &View, scope: Option<&str>, settings: Option<&RecreateSettings>) -> Finding {
    let id = "namespaces.recreate";
    let Some(settings) = settings else {
        return Finding::skipped(id, Vantage::Api, "the settings cannot be read: see control.config");
    };
    if !settings.enabled {
        let off = "pods that slip by are left to you to restart: the value controller.recreateSlipped.enabled is off";
        return Finding::ok(id, Vantage::Api, off);
    }
    let world = &view.world;
    let wanted = |key: &Key| scope.is_none_or(|namespace| namespace == key.namespace);
    let pods = world.seen.pods.iter().filter(|(key, facts)| wanted(key) && slips::slipped(world, key, facts));
    let (mut left, mut given_up) = (BTreeMap::new(), BTreeMap::new());
    for (key, facts) in pods {
        let Some(pod) = view.pods.get(key) else { continue };
        let workload = pod.workload.in_namespace(&key.namespace);
        if let Some(kept) = recreate::kept(facts, settings) {
            *left.entry((workload, kept.told())).or_insert(0_usize) += 1;
        } else if recreate::is_given_up(facts) {
            given_up.insert(workload, pod.workload.restart(&key.namespace));
        }
    }
    let left = left.into_iter().map(|((workload, why), count)| {
        format!(
            "{workload}: {} stay{}, {why}",
            counted(count, "pod", "pods"),
            if count == 1 { "s" } else { "" }
        )
    });
    if given_up.is_empty() {
        let summary = format!("pods that slip by are evicted, {} a minute at the most", settings.per_minute);
        return Finding::ok(id, Vantage::Api, summary).details(left);
    }
    let cures: Vec<&str> = given_up.values().map(String::as_str).take(5).collect();
    let more = if given_up.len() > cures.len() { ", ..." } else { "" };
    let cure = format!(
        "see webhook.configuration and webhook.answers for why their new pods have no sidecar either; then restart them: {}{more}",
        cures.join("; ")
    );
    let summary = format!(
        "{} made anew in vain, and given up",
        counted(given_up.len(), "workload was", "workloads were")
    );
    let told = given_up.keys().map(|workload| format!("{workload}: given up"));
    Finding::warning(id, Vantage::Api, summary, cure).details(told.chain(left))
}

/// Labels and annotations that cannot be read.
fn mistakes(view: &View, scope: Option<&str>) -> Finding {
    let id = "namespaces.annotations";
    let seen = &view.world.seen;
    let wanted = |namespace: &str| scope.is_none_or(|scope| scope == namespace);
    let namespaces = seen.namespaces.iter().filter(|(key, _)| wanted(&key.name));
    let namespaces = namespaces.flat_map(|(key, facts)| {
        facts.mistakes.iter().map(move |mistake| format!("Namespace {}: {mistake}", key.name))
    });
    let services = seen.services.iter().filter(|(key, _)| wanted(&key.namespace));
    let services = services.flat_map(|(key, facts)| {
        facts.mistakes.iter().map(move |mistake| format!("Service {key}: {mistake}"))
    });
    let all: Vec<String> = namespaces.chain(services).collect();
    if all.is_empty() {
        return Finding::ok(id, Vantage::Api, "every weft.dev label and annotation can be read");
    }
    Finding::warning(
        id,
        Vantage::Api,
        "labels or annotations cannot be read and count as if they were not there",
        "correct them",
    )
    .details(all)
}

/// What one namespace brings that is too much for the mesh.
fn held_back(view: &View, scope: Option<&str>) -> Finding {
    let id = "namespaces.held-back";
    let told = view.members(scope).filter_map(|namespace| {
        let annotations = view.meshes.get(namespace)?.metadata.annotations.as_ref()?;
        Some(format!("{namespace}: {}", annotations.get(HELD_BACK)?))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        return Finding::ok(id, Vantage::Api, "the controller holds nothing back");
    }
    let cure = "the limits, and what to do: docs/reference/control.md. Clients use mutual TLS or nothing towards what is held back";
    Finding::warning(id, Vantage::Api, "namespaces bring more than there is room for", cure).details(told)
}

/// The controller's own plan: what it would still do is what is missing.
fn twins(view: &View, scope: Option<&str>) -> Finding {
    let id = "dns.twins";
    let wanted = |key: &Key| scope.is_none_or(|namespace| namespace == key.namespace);
    let plan = twins::plan(&view.world);
    let missing =
        plan.create.iter().filter(|twin| wanted(&twin.key)).map(|twin| format!("{} is missing", twin.key));
    let wrong = plan
        .update
        .iter()
        .filter(|twin| wanted(&twin.key))
        .map(|twin| format!("{} has other ports or another selector than its Service", twin.key));
    let undone: Vec<String> = missing.chain(wrong).collect();
    let hindered = plan.hindered.iter().filter(|(key, _)| wanted(key)).map(|(key, why)| match why {
        Hindrance::Foreign => {
            format!("{key}: a Service {} is there that is not Weft's", twins::name_of(&key.name))
        }
        Hindrance::TooLong => {
            format!("{key}: the name {} is longer than 63 characters", twins::name_of(&key.name))
        }
    });
    let hindered: Vec<String> = hindered.collect();
    if !undone.is_empty() {
        let cure = "the controller makes them within seconds: run this again. If it stays so: see control.deployment, and its log";
        return Finding::failed(
            id,
            Vantage::Api,
            "headless twins are not as they should be: clients balance over the virtual IP",
            cure,
        )
        .details(undone.into_iter().chain(hindered));
    }
    if !hindered.is_empty() {
        return Finding::warning(
            id,
            Vantage::Api,
            "Services have no twin: clients use their virtual IP",
            "rename the Service that is in the way, or the one that is too long",
        )
        .details(hindered);
    }
    let kept = usize::try_from(plan.kept).unwrap_or(usize::MAX);
    Finding::ok(id, Vantage::Api, format!("{}, as their Services", counted(kept, "twin", "twins")))
}

/// What proxies make of the twins: a Service that has one is found by SRV records.
fn sources(view: &View, scope: Option<&str>, proxies: &Proxies) -> Finding {
    let id = "dns.endpoints";
    let world = &view.world;
    let mut dialed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = 0_usize;
    for (key, metrics) in proxies.answering() {
        for (service, source, _) in &metrics.endpoints {
            let mut labels = service.split(['.', ':']);
            let (Some(name), Some(namespace)) = (labels.next(), labels.next()) else { continue };
            let of = Key::new(namespace, name);
            let meshed = world.mesh_services().any(|(key, _)| *key == of)
                && scope.is_none_or(|scope| scope == namespace);
            if !meshed || twins::existing(world, &of).is_none() {
                continue;
            }
            found += 1;
            if source == "dialed" {
                dialed.entry(of.to_string()).or_default().push(key.to_string());
            }
        }
    }
    if dialed.is_empty() {
        let summary = if found == 0 {
            "no proxy has looked up a Service with a twin yet".to_owned()
        } else {
            format!("proxies find the pods of Services by their twins ({found} looked up)")
        };
        return if found == 0 {
            Finding::skipped(id, Vantage::Proxies, summary)
        } else {
            Finding::ok(id, Vantage::Proxies, summary)
        };
    }
    let details = dialed.iter().map(|(service, pods)| format!("{service}: {}", pods.join(", ")));
    let cure = "see that the cluster's DNS answers SRV records of headless Services (_p80._tcp.SERVICE-endpoints.NAMESPACE.svc); a proxy that started before the twin asks again within a minute";
    Finding::warning(id, Vantage::Proxies, "proxies use the virtual IP of Services that have a twin", cure)
        .details(details)
}

/// Which Services are not strict (yet), and why.
fn modes(view: &View, scope: Option<&str>, strict: &dyn Fn(&Key) -> bool) -> Finding {
    let id = "modes.services";
    let world = &view.world;
    let wanted = |key: &Key| scope.is_none_or(|namespace| namespace == key.namespace);
    let mut all = 0_usize;
    let mut not = Vec::new();
    for (key, service) in world.mesh_services().filter(|(key, _)| wanted(key)) {
        all += 1;
        let pods = modes::observed(world, key, service).pods;
        let why = match service.mode {
            Some(MtlsMode::Strict) => continue,
            Some(mode) => format!("{mode}, by its annotation weft.dev/mode"),
            None if strict(key) => continue,
            None if pods.all == 0 => "permissive: it has no pods".to_owned(),
            None if pods.meshed < pods.all => {
                format!("permissive: {} of {} pods {} a sidecar", pods.meshed, pods.all, have(pods.meshed))
            }
            None if pods.ready == 0 => "permissive: none of its pods is ready".to_owned(),
            None => "permissive: it becomes strict once its pods have all had a sidecar for 30 s".to_owned(),
        };
        not.push(format!("{key}: {why}"));
    }
    // To move in is no failure; this says how far it is.
    let services = counted(all, "Service", "Services");
    Finding::ok(id, Vantage::Api, format!("clients are strict towards {} of {services}", all - not.len()))
        .details(not)
}

/// Who called in plaintext since the proxies started.
#[derive(Default)]
struct Callers {
    /// Served and refused connections, by callee and caller.
    counts: BTreeMap<(String, String), (f64, f64)>,
    /// Those that have a sidecar themselves.
    meshed: BTreeSet<String>,
    /// Some that have none were served.
    bare: bool,
}

impl Callers {
    fn of(view: &View, proxies: &Proxies) -> Self {
        let mut callers = Self::default();
        for (key, metrics) in proxies.answering() {
            let callee = view
                .pods
                .get(key)
                .map_or_else(|| key.to_string(), |pod| pod.workload.in_namespace(&key.namespace));
            for caller in &metrics.plaintext {
                let name = view.name_of(caller.source);
                if caller.source.is_some_and(|address| view.has_sidecar(address)) {
                    callers.meshed.insert(name.clone());
                } else {
                    callers.bare |= caller.served > 0.0;
                }
                let counts = callers.counts.entry((callee.clone(), name)).or_default();
                counts.0 += caller.served;
                counts.1 += caller.refused;
            }
        }
        callers
    }

    fn lines(&self) -> Vec<String> {
        let line = |((callee, caller), (served, refused)): (&(String, String), &(f64, f64))| {
            let refused = if *refused > 0.0 { format!(", {refused} refused") } else { String::new() };
            let connections = if *served == 1.0 { "connection" } else { "connections" };
            format!("{caller} -> {callee}: {served} {connections} served{refused}")
        };
        self.counts.iter().map(line).collect()
    }

    /// None where there is nothing to be done.
    fn cure(self) -> Option<String> {
        let mut cures = Vec::new();
        if self.bare {
            cures.push(
                "these calls would be refused under strict. Give the callers a sidecar; then restart the called workload (counts are since its proxies started) and look again"
                    .to_owned(),
            );
        }
        if !self.meshed.is_empty() {
            let meshed = Vec::from_iter(self.meshed).join(", ");
            cures.push(format!(
                "with a sidecar, and in plaintext all the same: {meshed}. They call an address that they did not ask DNS for (the variable of a Service, an address in a \
                 configuration): use the Service's name; or the call is left out of the mesh on purpose (weft.dev/skip-outbound-ports, -cidrs, mode disable)"
            ));
        }
        (!cures.is_empty()).then(|| cures.join("; "))
    }
}

/// Who still calls in plaintext, and which namespaces nobody calls so.
fn plaintext(view: &View, scope: Option<&str>, proxies: &Proxies) -> Finding {
    let id = "modes.plaintext";
    let callers = Callers::of(view, proxies);
    let details = callers.lines();
    if let Some(cure) = callers.cure() {
        return Finding::warning(id, Vantage::Proxies, "there are callers in plaintext", cure)
            .details(details);
    }
    let told: BTreeSet<&str> = proxies.answering().map(|(key, _)| key.namespace.as_str()).collect();
    if told.is_empty() {
        return Finding::skipped(id, Vantage::Proxies, "no proxy answers");
    }
    let loose = view.members(scope).filter(|namespace| {
        view.world.inbound(namespace) == MtlsMode::Permissive && told.contains(namespace)
    });
    let loose: Vec<&str> = loose.collect();
    let hint = match loose.as_slice() {
        [] => String::new(),
        names => format!(
            "; these may be made strict (kubectl annotate namespace NAME weft.dev/mode=strict): {}",
            names.join(", ")
        ),
    };
    Finding::ok(id, Vantage::Proxies, format!("no plaintext has been served since the proxies started{hint}"))
        .details(details)
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
