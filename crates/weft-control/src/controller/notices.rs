//! What people are told in Events: mistakes that nothing is refused for, and what the controller cannot do.

use std::collections::HashMap;

use weft_core::MtlsMode;

use super::MESH_CONFIG;
use super::budget::{Held, Looks};
use super::facts::{Key, Reported};
use super::modes::{Modes, Pods};
use super::twins::{Hindrance, Plan, name_of};
use super::world::World;

/// The kind of object that a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum About {
    Namespace,
    Service,
    Pod,
    ConfigMap,
}

impl About {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// Notices of one namespace: who makes a thousand mistakes is told of the first.
const OF_NAMESPACE: usize = 50;

/// One Event. It is told once for as long as its reason lasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Notice {
    pub(crate) about: About,
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) note: String,
}

impl Notice {
    fn warning(about: About, key: &Key, uid: &str, reason: &'static str, note: String) -> Self {
        Self { about, key: key.clone(), uid: uid.to_owned(), warning: true, reason, note }
    }

    /// Whose it is: the namespace that causes it.
    pub(crate) fn tenant(&self) -> &str {
        match self.about {
            About::Namespace => &self.key.name,
            About::Service | About::Pod | About::ConfigMap => &self.key.namespace,
        }
    }

    /// About one of Weft's own ConfigMaps.
    pub(crate) fn own(key: &Key, reason: &'static str, note: String) -> Self {
        Self::warning(About::ConfigMap, key, "", reason, note)
    }

    /// About a pod without a sidecar.
    pub(crate) fn slipped(key: &Key, uid: &str) -> Self {
        Self::warning(About::Pod, key, uid, Reported::Missing.reason(), SLIPPED.to_owned())
    }

    /// About a pod whose workload is given up.
    pub(crate) fn given_up(key: &Key, uid: &str) -> Self {
        Self::warning(About::Pod, key, uid, Reported::GivenUp.reason(), GIVEN_UP.to_owned())
    }

    /// About a pod that is evicted, for the `number`-th time of `most`.
    pub(crate) fn evicted(key: &Key, uid: &str, (number, most): (u32, u32)) -> Self {
        let note = format!(
            "evicted, so that its workload makes it anew, with a sidecar (try {number} of {most}; \
             controller.recreateSlipped)"
        );
        Self { warning: false, ..Self::warning(About::Pod, key, uid, "SidecarRecreate", note) }
    }

    /// About a pod that the API server does not let go now.
    pub(crate) fn eviction_waits(key: &Key, uid: &str, reason: &str) -> Self {
        let note = format!(
            "it has no sidecar and cannot be evicted now, which is tried again, ever more rarely: {reason}"
        );
        let note = note.chars().take(900).collect();
        Self::warning(About::Pod, key, uid, "SidecarRecreateWaits", note)
    }

    /// About a Service that clients will only reach by mutual TLS from now on.
    pub(crate) fn strict(key: &Key, uid: &str) -> Self {
        let note = "all pods have a sidecar: clients in the mesh use mutual TLS and nothing less from now on"
            .to_owned();
        Self { warning: false, ..Self::warning(About::Service, key, uid, "BecameStrict", note) }
    }
}

/// Why a pod has no sidecar, and the cure: the Event's and the condition's text.
pub(crate) const SLIPPED: &str = "the labels ask for a sidecar and the pod has none: it was made before its namespace \
                                  was labelled, or while weft-injector did not answer. Restart its workload.";

/// The same where pods that were made in its place have none either.
pub(crate) const GIVEN_UP: &str = "the labels ask for a sidecar and the pod has none, and neither have those that were \
                                   made in place of others of its workload: it is not evicted again. See weft check for \
                                   why pods are not injected, then restart its workload.";

/// Notices as they are found, so many of each namespace. What is beyond is not even written.
#[derive(Default)]
struct Told {
    all: Vec<Notice>,
    of_namespace: HashMap<String, usize>,
}

impl Told {
    fn add(&mut self, namespace: &str, notice: impl FnOnce() -> Notice) {
        let count = self.of_namespace.entry(namespace.to_owned()).or_default();
        if *count < OF_NAMESPACE {
            *count += 1;
            self.all.push(notice());
        }
    }
}

/// Everything that is to be told about what is seen now. Without `modes`, nothing is said that they decide.
pub(crate) fn notices(world: &World, looks: &Looks<'_>, modes: Option<&Modes>, twins: &Plan) -> Vec<Notice> {
    let mut told = Told::default();
    for (key, namespace) in &world.seen.namespaces {
        let tell = |reason, note| Notice::warning(About::Namespace, key, &namespace.uid, reason, note);
        for mistake in &namespace.mistakes {
            told.add(&key.name, || tell("NotUnderstood", mistake.clone()));
        }
        let left = !world.members.contains(&key.name) && world.injected.contains_key(&key.name);
        if left && world.inbound(&key.name) == MtlsMode::Strict {
            told.add(&key.name, || tell("StrictOutside", STRICT_OUTSIDE.to_owned()));
        }
    }
    for (key, service) in world.services() {
        for mistake in &service.mistakes {
            let notice =
                || Notice::warning(About::Service, key, &service.uid, "NotUnderstood", mistake.clone());
            told.add(&key.namespace, notice);
        }
    }
    if let Some(modes) = modes {
        too_early(looks, modes, &mut told);
    }
    for (key, hindrance) in &twins.hindered {
        let Some(service) = world.seen.services.get(key) else { continue };
        let notice =
            || Notice::warning(About::Service, key, &service.uid, "NoTwin", no_twin(&key.name, hindrance));
        told.add(&key.namespace, notice);
    }
    told.all
}

/// What is held back, told in the namespace that it is of.
pub(crate) fn held_back(held: &Held) -> impl Iterator<Item = Notice> {
    held.namespaces().filter_map(|namespace| {
        let note = held.told(namespace)?;
        Some(Notice::own(&Key::new(namespace, MESH_CONFIG), "HeldBack", note.chars().take(900).collect()))
    })
}

const STRICT_OUTSIDE: &str = "the namespace is not in the mesh (any more), so clients call it in plaintext, which its \
                              pods refuse: remove weft.dev/mode until they are restarted without a sidecar";

fn too_early(looks: &Looks<'_>, modes: &Modes, told: &mut Told) {
    for look in &looks.mesh {
        let seen = look.seen;
        if !seen.inbound_strict || modes.towards(&seen, look.service.mode) == MtlsMode::Strict {
            continue;
        }
        told.add(&look.key.namespace, || {
            let Pods { all: pods, meshed, .. } = seen.pods;
            let note = format!(
                "pods of this namespace refuse plaintext, while clients are not strict towards this Service ({meshed} of \
                 {pods} pods have a sidecar): calls to a new pod can fail for a minute. Inject all its pods, or \
                 remove weft.dev/mode from the namespace until then"
            );
            Notice::warning(About::Service, look.key, &look.service.uid, "StrictTooEarly", note)
        });
    }
}

fn no_twin(service: &str, hindrance: &Hindrance) -> String {
    let twin = name_of(service);
    match hindrance {
        Hindrance::Foreign => format!(
            "a Service {twin} is there that is not Weft's, and is left alone: clients reach this Service by its \
             virtual IP, without balancing of their own. Rename one of them"
        ),
        Hindrance::TooLong => format!(
            "the name {twin} would have more than 63 characters: clients reach this Service by its virtual IP, \
             without balancing of their own. Give it a name of 53 characters at the most"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::facts::{Inject, PortFacts, ServiceFacts};
    use super::super::twins;
    use super::super::world::tests::{Draft, no_change};
    use super::*;

    fn told(world: &World) -> Vec<(&'static str, String)> {
        let looks = super::super::budget::look(world);
        let notices = notices(world, &looks, Some(&Modes::default()), &twins::plan(world));
        for notice in &notices {
            // The API's limit of a note.
            assert!(notice.note.len() <= 1024);
        }
        notices.into_iter().map(|notice| (notice.reason, notice.key.to_string())).collect()
    }

    #[test]
    fn what_is_in_order_is_not_told() {
        let world = Draft::default()
            .namespace("shop", Inject::Enabled, None)
            .service("shop", "orders", no_change)
            .pod("shop", "orders", "10.0.0.1", false, no_change)
            .world();
        assert!(told(&world).is_empty());
    }

    #[test]
    fn who_makes_many_mistakes_is_told_of_some_and_others_of_theirs() {
        let mut draft = Draft::default()
            .namespace("greedy", Inject::Enabled, None)
            .namespace("shop", Inject::Enabled, None)
            .service("shop", "odd", |service| service.mistakes.push("odd".to_owned()));
        for number in 0..1_000 {
            let odd = |service: &mut ServiceFacts| service.mistakes.push("odd".to_owned());
            draft = draft.service("greedy", &format!("s{number}"), odd);
        }
        let all = told(&draft.world());
        assert_eq!(all.len(), OF_NAMESPACE + 1);
        assert!(all.contains(&("NotUnderstood", "shop/odd".to_owned())));
    }

    #[test]
    fn what_is_held_back_is_told_in_its_namespace() {
        let mut held = Held::default();
        for number in 0..5 {
            held.add(
                &Key::new("greedy", "s".repeat(60) + &number.to_string()),
                super::super::budget::Why::Octets,
            );
        }
        let notices: Vec<Notice> = held_back(&held).collect();
        assert_eq!(notices.len(), 1);
        assert_eq!((notices[0].tenant(), notices[0].about), ("greedy", About::ConfigMap));
        assert!(
            notices[0].note.len() <= 1024 && notices[0].note.contains("5 held back (sss"),
            "{}",
            notices[0].note
        );
    }

    #[test]
    fn mistakes_and_what_cannot_be_done_are_told() {
        let port = PortFacts {
            name: None,
            port: 80,
            target: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(80),
            protocol: "TCP".to_owned(),
            app_protocol: None,
        };
        let mut draft = Draft::default()
            .namespace("shop", Inject::Enabled, Some(MtlsMode::Strict))
            .namespace("left", Inject::Unsaid, Some(MtlsMode::Strict))
            .service("shop", "orders", |service| service.ports.push(port))
            .service("shop", "orders-endpoints", |service| service.selector.clear())
            .service("shop", "odd", |service| service.mistakes.push("odd".to_owned()))
            .service("elsewhere", "odd", |service| service.mistakes.push("not in the mesh".to_owned()))
            .pod("shop", "orders", "10.0.0.1", true, no_change)
            .pod("shop", "orders", "10.0.0.2", false, no_change)
            .pod("left", "x", "10.0.0.3", true, no_change);
        let shop = draft.0.namespaces.get_mut(&Key::new("", "shop")).unwrap();
        Arc::make_mut(shop).mistakes.push("odd".to_owned());
        let expected = [
            ("StrictOutside", "/left"),
            ("NotUnderstood", "/shop"),
            ("NotUnderstood", "shop/odd"),
            ("StrictTooEarly", "shop/orders"),
            ("NoTwin", "shop/orders"),
        ];
        assert_eq!(told(&draft.world()), expected.map(|(reason, key)| (reason, key.to_owned())));
    }
}
