//! What people are told in Events: mistakes that nothing is refused for, and what the controller cannot do.

use weft_core::MtlsMode;

use super::facts::Key;
use super::modes::{Modes, Pods, observed};
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

    /// About one of Weft's own ConfigMaps.
    pub(crate) fn own(key: &Key, reason: &'static str, note: String) -> Self {
        Self::warning(About::ConfigMap, key, "", reason, note)
    }

    /// About a pod without a sidecar.
    pub(crate) fn slipped(key: &Key, uid: &str) -> Self {
        Self::warning(About::Pod, key, uid, "SidecarMissing", SLIPPED.to_owned())
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

/// Everything that is to be told about what is seen now.
pub(crate) fn notices(world: &World, modes: &Modes, twins: &Plan) -> Vec<Notice> {
    let mut all = Vec::new();
    for (key, namespace) in &world.seen.namespaces {
        let tell = |reason, note| Notice::warning(About::Namespace, key, &namespace.uid, reason, note);
        all.extend(namespace.mistakes.iter().map(|mistake| tell("NotUnderstood", mistake.clone())));
        let left = !world.members.contains(&key.name) && world.injected.contains_key(&key.name);
        if left && world.inbound(&key.name) == MtlsMode::Strict {
            all.push(tell(
                "StrictOutside",
                "the namespace is not in the mesh (any more), so clients call it in plaintext, which its pods refuse: \
                 remove weft.dev/mode until they are restarted without a sidecar"
                    .to_owned(),
            ));
        }
    }
    for (key, service) in world.services() {
        let tell = |reason, note| Notice::warning(About::Service, key, &service.uid, reason, note);
        all.extend(service.mistakes.iter().map(|mistake| tell("NotUnderstood", mistake.clone())));
    }
    for (key, service) in world.mesh_services() {
        let seen = observed(world, key, service);
        if seen.inbound_strict && modes.towards(&seen, service.mode) != MtlsMode::Strict {
            let Pods { all: pods, meshed, .. } = seen.pods;
            let note = format!(
                "pods of this namespace refuse plaintext, while clients are not strict towards this Service ({meshed} of \
                 {pods} pods have a sidecar): calls to a new pod can fail for a minute. Inject all its pods, or \
                 remove weft.dev/mode from the namespace until then"
            );
            all.push(Notice::warning(About::Service, key, &service.uid, "StrictTooEarly", note));
        }
    }
    for (key, hindrance) in &twins.hindered {
        let Some(service) = world.seen.services.get(key) else { continue };
        let twin = name_of(&key.name);
        let note = match hindrance {
            Hindrance::Foreign => format!(
                "a Service {twin} is there that is not Weft's, and is left alone: clients reach this Service by its \
                 virtual IP, without balancing of their own. Rename one of them"
            ),
            Hindrance::TooLong => format!(
                "the name {twin} would have more than 63 characters: clients reach this Service by its virtual IP, \
                 without balancing of their own. Give it a name of 53 characters at the most"
            ),
        };
        all.push(Notice::warning(About::Service, key, &service.uid, "NoTwin", note));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::facts::{Inject, PortFacts};
    use super::super::twins;
    use super::super::world::tests::{Draft, no_change};
    use super::*;

    fn told(world: &World) -> Vec<(&'static str, String)> {
        let notices = notices(world, &Modes::default(), &twins::plan(world));
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
