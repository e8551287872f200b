//! One round: from a look at the world to the writes that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_core::MtlsMode;

use super::MESH_CONFIG;
use super::budget::{Held, Looks};
use super::facts::{ConfigMapFacts, Key, digest};
use super::membership::{fill, frame, weft_yaml};
use super::metrics::Figures;
use super::modes::Modes;
use super::notices::{Notice, held_back, notices};
use super::settings::{self, Settings};
use super::slips::{Slips, slips};
use super::twins;
use super::world::World;
use crate::names::CONTROL_CONFIG;

/// A ConfigMap holds 1 MiB (etcd's limit of a request is a little more); names and labels need room too.
const MAX_MESH: usize = 1_000_000;

/// What is to be written, and told.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) meshes: Vec<MeshWrite>,
    /// `weft-mesh` to remove: namespace and uid.
    pub(crate) remove_meshes: Vec<(String, String)>,
    pub(crate) twins: twins::Plan,
    pub(crate) slips: Slips,
    pub(crate) notices: Vec<Notice>,
    pub(crate) figures: Figures,
    /// Namespaces of which something is held back.
    pub(crate) held: BTreeSet<String>,
    /// There is no membership that could be written; the trust bundle is.
    pub(crate) stuck: bool,
}

/// A `weft-mesh` to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MeshWrite {
    pub(crate) namespace: String,
    /// `None`: the trust bundle alone is written, and the membership stays as it is.
    pub(crate) yaml: Option<Arc<str>>,
    /// Keys that somebody else has added.
    pub(crate) extra: Vec<String>,
    /// What of the namespace is held back.
    pub(crate) held: Option<String>,
    /// It says that something is held back, and nothing is any more.
    pub(crate) unsay: bool,
    /// It is there.
    pub(crate) exists: bool,
    /// The uid of one that cannot be changed, and has to go first.
    pub(crate) replaces: Option<String>,
}

/// Decides. Without `modes`, what is remembered is not known: then no membership is written, because it could take strict
/// back, and nothing is removed; all else goes on. `held` is what is held back already.
pub(crate) fn work(
    world: &World,
    looks: &Looks<'_>,
    settings: &Settings,
    roots: &str,
    modes: Option<&Modes>,
    mut held: Held,
) -> Work {
    held.extend(looks.held.clone());
    let mut twins = twins::plan_of(world, looks);
    let mut told = notices(world, looks, modes, &twins);
    let slips = slips(world);
    let texts = match modes {
        Some(modes) => Texts::new(world, looks, settings, modes, roots, &mut held).map_err(Some),
        None => Err(None),
    };
    told.extend(held_back(&held));
    let mut work = Work { stuck: texts.is_err(), ..Work::default() };
    work.figures = figures(world, looks, modes, &twins, &slips);
    work.figures.held = held.counts();
    match &texts {
        Ok(texts) => compare(world, roots, Some(texts), &held, &mut work),
        Err(why) => {
            told.extend(why.clone());
            compare(world, roots, None, &held, &mut work);
        }
    }
    if modes.is_none() {
        // Who takes part is not known for certain.
        twins.remove.clear();
        work.remove_meshes.clear();
    }
    told.extend(
        work.meshes.iter().filter(|mesh| mesh.replaces.is_some()).map(|mesh| immutable(&mesh.namespace)),
    );
    let held = held.namespaces().cloned().collect();
    Work { twins, slips, notices: told, held, ..work }
}

fn immutable(namespace: &str) -> Notice {
    let note = "somebody has set immutable: true, which stops all changes of trust and membership; it is deleted and \
                made anew. Pods of nodes that saw it so read the old one until they are restarted"
        .to_owned();
    Notice::own(&Key::new(namespace, MESH_CONFIG), "ImmutableUndone", note)
}

fn figures(
    world: &World,
    looks: &Looks<'_>,
    modes: Option<&Modes>,
    twins: &twins::Plan,
    slips: &Slips,
) -> Figures {
    let mut services = BTreeMap::from([("strict", 0), ("permissive", 0), ("disable", 0)]);
    for (look, modes) in looks.mesh.iter().filter_map(|look| Some((look, modes?))) {
        let mode = match modes.towards(&look.seen, look.service.mode) {
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
        held: BTreeMap::new(),
        given_up: world.given_up.len() as u64,
    }
}

/// The texts of `weft.yaml`: they differ by nothing but the inbound mode.
struct Texts {
    permissive: (Arc<str>, u64),
    strict: (Arc<str>, u64),
}

impl Texts {
    /// A notice where no proxy could use them, or none could be stored; what is there stays then.
    fn new(
        world: &World,
        looks: &Looks<'_>,
        settings: &Settings,
        modes: &Modes,
        roots: &str,
        held: &mut Held,
    ) -> Result<Self, Notice> {
        let mut mesh = frame(world, settings);
        let frame = weft_yaml(settings, &mesh, MtlsMode::Permissive).len() + roots.len();
        let Some(room) = MAX_MESH.checked_sub(frame) else { return Err(too_large(world, frame)) };
        held.extend(fill(&mut mesh, (world, looks), &settings.cluster_domain, modes, room));
        let text = |mode| {
            let text = weft_yaml(settings, &mesh, mode);
            let digest = digest(text.as_bytes());
            (Arc::<str>::from(text), digest)
        };
        let texts = Self { permissive: text(MtlsMode::Permissive), strict: text(MtlsMode::Strict) };
        let size = texts.permissive.0.len() + roots.len();
        if size > MAX_MESH {
            return Err(too_large(world, size));
        }
        // The settings and names were checked; this is for what nobody thought of.
        settings::read(&texts.permissive.0).map_err(|reason| {
            tracing::error!(reason, "proxies would refuse the membership; it stays as it is");
            let note: String = reason.chars().take(500).collect();
            Notice::own(&Key::new(&world.own, CONTROL_CONFIG), "MembershipRefused", note)
        })?;
        Ok(texts)
    }

    fn of(&self, inbound: MtlsMode) -> &(Arc<str>, u64) {
        if inbound == MtlsMode::Strict { &self.strict } else { &self.permissive }
    }
}

fn too_large(world: &World, size: usize) -> Notice {
    tracing::error!(size, "membership is too large for a ConfigMap and stays as it is");
    let note = format!(
        "membership would have {size} octets without any Service, more than a ConfigMap holds, and stays as it is: \
         shorten the section proxy, or the list of networks, or take namespaces out of the mesh"
    );
    Notice::own(&Key::new(&world.own, CONTROL_CONFIG), "MembershipTooLarge", note)
}

/// What of `weft-mesh` is not as it should be. Without texts, only the trust bundle is looked at.
fn compare(world: &World, roots: &str, texts: Option<&Texts>, held: &Held, work: &mut Work) {
    // Pods that were injected read their file as long as they run, whatever has become of their namespace's label.
    let with_pods = world.injected.keys().filter(|namespace| **namespace != world.own);
    let targets: BTreeSet<&String> = world.members.iter().chain(with_pods).collect();
    let root_digest = digest(roots.as_bytes());
    for namespace in targets.iter().filter(|namespace| !roots.is_empty() && world.writable(namespace)) {
        let found = world.seen.meshes.get(&Key::new(namespace.as_str(), MESH_CONFIG)).map(|map| &**map);
        let write = match texts {
            Some(texts) => {
                whole(texts.of(world.inbound(namespace)), root_digest, held.told(namespace), found)
            }
            None => roots_alone(root_digest, found),
        };
        work.meshes.extend(write.map(|write| MeshWrite { namespace: (*namespace).clone(), ..write }));
    }
    let ours = |(_, map): &(&Key, &Arc<ConfigMapFacts>)| map.labelled;
    for (key, map) in world.seen.meshes.iter().filter(ours) {
        if !targets.contains(&key.namespace) {
            work.remove_meshes.push((key.namespace.clone(), map.uid.clone()));
        }
    }
}

fn whole(
    (yaml, yaml_digest): &(Arc<str>, u64),
    roots: u64,
    held: Option<String>,
    found: Option<&ConfigMapFacts>,
) -> Option<MeshWrite> {
    let wanted = BTreeMap::from([("weft.yaml".to_owned(), *yaml_digest), ("root.pem".to_owned(), roots)]);
    let good =
        |map: &ConfigMapFacts| map.labelled && map.data == wanted && !map.immutable && map.held == held;
    if found.is_some_and(good) {
        return None;
    }
    let keys = found.map(|map| map.data.keys()).into_iter().flatten();
    Some(MeshWrite {
        yaml: Some(Arc::clone(yaml)),
        extra: keys.filter(|key| !wanted.contains_key(*key)).cloned().collect(),
        unsay: held.is_none() && found.is_some_and(|map| map.held.is_some()),
        held,
        exists: found.is_some(),
        replaces: found.filter(|map| map.immutable).map(|map| map.uid.clone()),
        ..MeshWrite::default()
    })
}

fn roots_alone(roots: u64, found: Option<&ConfigMapFacts>) -> Option<MeshWrite> {
    let same = found.is_some_and(|map| map.data.get("root.pem") == Some(&roots));
    // Without a membership to put in, one that cannot be changed is better than none.
    let fixed = found.is_some_and(|map| map.immutable);
    (!same && !fixed).then(|| MeshWrite { exists: found.is_some(), ..MeshWrite::default() })
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
