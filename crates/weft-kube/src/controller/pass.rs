//! One round: from a look at the world to the writes that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use weft_core::MtlsMode;

use super::facts::{ConfigMapFacts, Key, digest};
use super::membership::{mesh, weft_yaml};
use super::metrics::Figures;
use super::modes::{self, Modes, observed};
use super::notices::{Notice, notices};
use super::settings::{self, Settings};
use super::slips::{Slips, slips};
use super::twins;
use super::world::World;
use super::{MESH_CONFIG, STATE_CONFIG, STATE_KEY};
use crate::names::CONTROL_CONFIG;

/// A ConfigMap holds 1 MiB (etcd's limit of a request is a little more); names and labels need room too.
const MAX_MESH: usize = 1_000_000;

/// What is to be written, and told.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// The text of `weft-state`, where it is to be written. It comes before everything else: what proxies are told to be
    /// strict must be remembered.
    pub(crate) state: Option<String>,
    pub(crate) meshes: Vec<MeshWrite>,
    /// `weft-mesh` to remove: namespace and uid.
    pub(crate) remove_meshes: Vec<(String, String)>,
    pub(crate) twins: twins::Plan,
    pub(crate) slips: Slips,
    pub(crate) notices: Vec<Notice>,
    pub(crate) figures: Figures,
    /// When there may be something to do although nothing changes.
    pub(crate) next: Option<Instant>,
}

/// A `weft-mesh` to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshWrite {
    pub(crate) namespace: String,
    pub(crate) yaml: Arc<str>,
    pub(crate) extra: Vec<String>,
}

/// Decides. `modes` takes in what is seen.
pub(crate) fn work(world: &World, settings: &Settings, roots: &str, modes: &mut Modes, now: Instant) -> Work {
    let services: Vec<_> = world.mesh_services().collect();
    let looks = services.iter().map(|(key, service)| observed(world, key, service));
    let (became, next) = modes.observe(now, looks);
    let twins = twins::plan(world);
    let mut told = notices(world, modes, &twins);
    for key in &became {
        tracing::info!(service = %key, "clients are strict from now on");
        let uid = world.seen.services.get(key).map(|service| service.uid.as_str());
        told.extend(uid.map(|uid| Notice::strict(key, uid)));
    }
    let slips = slips(world);
    let mut work = Work { state: state(world, modes), next, ..Work::default() };
    work.figures = figures(world, modes, &twins, &slips);
    match Texts::new(world, settings, modes, roots) {
        Ok(texts) => texts.compare(world, roots, &mut work),
        Err(notice) => told.push(notice),
    }
    Work { twins, slips, notices: told, ..work }
}

fn state(world: &World, modes: &Modes) -> Option<String> {
    let text = modes::write(modes.strict());
    let found = world.seen.state.get(&Key::new(&world.own, STATE_CONFIG));
    let same = found.and_then(|map| map.data.get(STATE_KEY)) == Some(&digest(text.as_bytes()));
    (!same).then_some(text)
}

fn figures(world: &World, modes: &Modes, twins: &twins::Plan, slips: &Slips) -> Figures {
    let mut services = BTreeMap::from([("strict", 0), ("permissive", 0), ("disable", 0)]);
    for (key, service) in world.mesh_services() {
        let mode = match modes.towards(&observed(world, key, service), service.mode) {
            MtlsMode::Strict => "strict",
            MtlsMode::Permissive => "permissive",
            MtlsMode::Disable => "disable",
        };
        *services.entry(mode).or_default() += 1;
    }
    // A namespace without any is told too: an alert that is over must see the zero.
    let mut uninjected: BTreeMap<String, u64> = world.members.iter().map(|ns| (ns.clone(), 0)).collect();
    uninjected.extend(slips.count.clone());
    Figures {
        services,
        uninjected,
        injected: world.injected.clone(),
        twin_conflicts: twins.hindered.len() as u64,
        twins: twins.kept,
    }
}

/// The texts of `weft.yaml`: they differ by nothing but the inbound mode.
struct Texts {
    permissive: (Arc<str>, u64),
    strict: (Arc<str>, u64),
}

impl Texts {
    /// A notice where no proxy could use them, or none could be stored; what is there stays then.
    fn new(world: &World, settings: &Settings, modes: &Modes, roots: &str) -> Result<Self, Notice> {
        let mesh = mesh(world, settings, modes);
        let text = |mode| {
            let text = weft_yaml(settings, &mesh, mode);
            let digest = digest(text.as_bytes());
            (Arc::<str>::from(text), digest)
        };
        let texts = Self { permissive: text(MtlsMode::Permissive), strict: text(MtlsMode::Strict) };
        let own = |name: &str| Key::new(&world.own, name);
        let size = texts.permissive.0.len() + roots.len();
        if size > MAX_MESH {
            let note = format!(
                "membership would have {size} octets, more than a ConfigMap holds, and stays as it is: too many pods \
                 are moving in at once. Restart the workloads of what is labelled before labelling more"
            );
            tracing::error!(size, "membership is too large for a ConfigMap and stays as it is");
            return Err(Notice::own(&own(CONTROL_CONFIG), "MembershipTooLarge", note));
        }
        // The settings were checked; this is for names and addresses that nobody thought of.
        settings::read(&texts.permissive.0).map_err(|reason| {
            tracing::error!(reason, "proxies would refuse the membership; it stays as it is");
            let note: String = reason.chars().take(500).collect();
            Notice::own(&own(CONTROL_CONFIG), "MembershipRefused", note)
        })?;
        Ok(texts)
    }

    fn of(&self, inbound: MtlsMode) -> &(Arc<str>, u64) {
        if inbound == MtlsMode::Strict { &self.strict } else { &self.permissive }
    }

    fn compare(&self, world: &World, roots: &str, work: &mut Work) {
        // Pods that were injected read their file as long as they run, whatever has become of their namespace's label.
        let with_pods = world.injected.keys().filter(|namespace| **namespace != world.own);
        let targets: BTreeSet<&String> = world.members.iter().chain(with_pods).collect();
        let root_digest = digest(roots.as_bytes());
        for namespace in targets.iter().filter(|namespace| world.writable(namespace)) {
            let (yaml, yaml_digest) = self.of(world.inbound(namespace));
            let wanted = BTreeMap::from([
                ("weft.yaml".to_owned(), *yaml_digest),
                ("root.pem".to_owned(), root_digest),
            ]);
            let found = world.seen.meshes.get(&Key::new(namespace.as_str(), MESH_CONFIG));
            if roots.is_empty() || found.is_some_and(|map| map.labelled && map.data == wanted) {
                continue;
            }
            let keys = found.map(|map| map.data.keys()).into_iter().flatten();
            let extra = keys.filter(|key| !wanted.contains_key(*key)).cloned().collect();
            work.meshes.push(MeshWrite { namespace: (*namespace).clone(), yaml: Arc::clone(yaml), extra });
        }
        let ours = |(_, map): &(&Key, &Arc<ConfigMapFacts>)| map.labelled;
        for (key, map) in world.seen.meshes.iter().filter(ours) {
            if !targets.contains(&key.namespace) {
                work.remove_meshes.push((key.namespace.clone(), map.uid.clone()));
            }
        }
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
