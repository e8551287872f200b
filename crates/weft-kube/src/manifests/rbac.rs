//! What `weft control` may do, and why. The chart has the same rules with the same reasons.

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::meta::{CONTROL, Install};
use crate::credentials::KEYS_PATH;
use crate::names::{CA_SECRET, INJECTOR, LEASE, MESH_CONFIG, STATE_CONFIG};

const READ: [&str; 3] = ["get", "list", "watch"];
/// Without `delete`: only `weft uninstall` removes what must be remembered.
const KEEP: [&str; 5] = ["get", "list", "watch", "update", "patch"];

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
        let rules = vec![
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
            // Controller: which namespaces take part, which pods a service has and which of them have a sidecar, where
            // pods' addresses come from. Injector: the labels and annotations of the pod's namespace.
            rule(&[""], &["namespaces", "nodes", "pods"], &[], &READ),
            // Controller: the services, and their headless twins. Kubernetes cannot restrict this to the twins; the
            // controller touches only services that carry its own label weft.dev/twin-of.
            rule(&[""], &["services"], &[], &["get", "list", "watch", "create", "update", "patch", "delete"]),
            // Controller: the ConfigMap weft-mesh of each namespace that takes part, and no other ConfigMap...
            rule(
                &[""],
                &["configmaps"],
                &[MESH_CONFIG],
                &["get", "list", "watch", "update", "patch", "delete"],
            ),
            // ... except that a right to create cannot be restricted by name.
            rule(&[""], &["configmaps"], &[], &["create"]),
            // Controller: the condition weft.dev/SidecarInjected on pods that slipped by. Nothing of a pod but its status.
            rule(&[""], &["pods/status"], &[], &["patch"]),
            // Controller: tells mistakes in annotations, and pods without a sidecar.
            rule(&["", "events.k8s.io"], &["events"], &[], &["create", "patch"]),
        ];
        ClusterRole { metadata: self.cluster_meta(CONTROL), rules: Some(rules), ..Default::default() }
    }

    pub(super) fn role(&self) -> Role {
        let rules = vec![
            // CA: its own key, and no other Secret...
            rule(&[""], &["secrets"], &[CA_SECRET], &KEEP),
            // ... except that a right to create cannot be restricted by name.
            rule(&[""], &["secrets"], &[], &["create"]),
            // Controller: what it must remember.
            rule(&[""], &["configmaps"], &[STATE_CONFIG], &KEEP),
            // Controller: one replica leads.
            rule(&["coordination.k8s.io"], &["leases"], &[LEASE], &KEEP),
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
