//! What `weft control` may do, and why. The chart has the same rules with the same reasons.

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::meta::{CONTROL, Install};
use crate::credentials::KEYS_PATH;
use crate::names::{CA_SECRET, INJECTOR, LEASE, MESH_CONFIG, STATE_CONFIG};

/// What a watch asks for.
const FOLLOW: [&str; 2] = ["list", "watch"];

fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(owned(groups)),
        resources: Some(owned(resources)),
        resource_names: (!names.is_empty()).then(|| owned(names)),
        verbs: owned(verbs),
        non_resource_urls: None,
    }
}

fn role_ref(kind: &str) -> RoleRef {
    RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: CONTROL.to_owned(),
    }
}

impl Install<'_> {
    pub(super) fn service_account(&self) -> ServiceAccount {
        let secrets = &self.values.image.pull_secrets;
        let references = secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
        ServiceAccount {
            metadata: self.meta(CONTROL),
            image_pull_secrets: (!secrets.is_empty()).then_some(references),
            ..Default::default()
        }
    }

    pub(super) fn cluster_role(&self) -> ClusterRole {
        let mut rules = vec![
            // CA: asks whose token it was shown.
            rule(&["authentication.k8s.io"], &["tokenreviews"], &[], &["create"]),
            // CA: the public keys that tokens are signed with, so that forged ones cost the API server nothing. Kubernetes
            // gives this to every service account unless somebody took it away.
            PolicyRule {
                non_resource_urls: Some(vec![KEYS_PATH.to_owned()]),
                verbs: vec!["get".to_owned()],
                ..PolicyRule::default()
            },
            // Injector: keeps the caBundle of Weft's own webhook, and of no other. list and watch are asked with the
            // field selector metadata.name=weft-injector, else the name here refuses them.
            rule(
                &["admissionregistration.k8s.io"],
                &["mutatingwebhookconfigurations"],
                &[INJECTOR],
                &["get", "list", "watch", "patch"],
            ),
            // Controller: which namespaces take part. Injector: their labels and annotations.
            rule(&[""], &["namespaces"], &[], &["get", "list", "watch"]),
            // Injector: the bounds of a namespace's containers, so that what it adds keeps within them.
            rule(&[""], &["limitranges"], &[], &FOLLOW),
            // Controller: which pods a service has and which of them have a sidecar, where pods' addresses come from...
            rule(&[""], &["nodes", "pods"], &[], &FOLLOW),
            // ... and those of services.
            rule(&["networking.k8s.io"], &["servicecidrs"], &[], &FOLLOW),
            // Controller: the services, and their headless twins. Kubernetes cannot restrict this to the twins; the
            // controller writes only services that carry its own label weft.dev/twin-of.
            rule(&[""], &["services"], &[], &["get", "list", "watch", "create", "update", "delete"]),
            // Controller: the ConfigMap weft-mesh of each namespace that takes part, and no other ConfigMap. It is made by
            // an apply, which names its object, so that create can be restricted by name too.
            rule(&[""], &["configmaps"], &[MESH_CONFIG], &["list", "watch", "create", "patch", "delete"]),
            // Controller: the condition weft.dev/SidecarInjected on pods that slipped by. Nothing of a pod but its status.
            rule(&[""], &["pods/status"], &[], &["patch"]),
            // Controller: tells mistakes in annotations, what is held back, and pods without a sidecar.
            rule(&["events.k8s.io"], &["events"], &[], &["create", "patch"]),
        ];
        if self.values.controller.recreate_slipped.enabled {
            // Controller: has pods that slipped by made anew. An eviction, not a deletion: PodDisruptionBudgets are kept.
            rules.push(rule(&[""], &["pods/eviction"], &[], &["create"]));
        }
        ClusterRole { metadata: self.cluster_meta(CONTROL), rules: Some(rules), ..Default::default() }
    }

    pub(super) fn role(&self) -> Role {
        let rules = vec![
            // CA: its own key, and no other Secret...
            rule(&[""], &["secrets"], &[CA_SECRET], &["get", "list", "watch"]),
            // ... except that a right to create cannot be restricted by name.
            rule(&[""], &["secrets"], &[], &["create"]),
            // Controller: what it must remember. Without delete: only `weft uninstall` removes it.
            rule(&[""], &["configmaps"], &[STATE_CONFIG], &["get", "list", "watch", "create", "patch"]),
            // Controller: one replica leads.
            rule(&["coordination.k8s.io"], &["leases"], &[LEASE], &["get", "update"]),
            rule(&["coordination.k8s.io"], &["leases"], &[], &["create"]),
        ];
        Role { metadata: self.meta(CONTROL), rules: Some(rules) }
    }

    fn subjects(&self) -> Vec<Subject> {
        vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: CONTROL.to_owned(),
            namespace: Some(self.namespace.to_owned()),
            api_group: None,
        }]
    }

    pub(super) fn cluster_role_binding(&self) -> ClusterRoleBinding {
        ClusterRoleBinding {
            metadata: self.cluster_meta(CONTROL),
            role_ref: role_ref("ClusterRole"),
            subjects: Some(self.subjects()),
        }
    }

    pub(super) fn role_binding(&self) -> RoleBinding {
        RoleBinding {
            metadata: self.meta(CONTROL),
            role_ref: role_ref("Role"),
            subjects: Some(self.subjects()),
        }
    }
}
