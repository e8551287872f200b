//! The webhook that adds sidecars: which pods it is asked about, and what happens while it is away.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::meta::Install;
use crate::names::{INJECT_LABEL as INJECT, INJECTOR};

/// Namespaces that never take part.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

fn expressions(expressions: Vec<LabelSelectorRequirement>) -> Option<LabelSelector> {
    Some(LabelSelector { match_expressions: Some(expressions), match_labels: None })
}

impl Install<'_> {
    fn not_system(&self) -> LabelSelectorRequirement {
        let mut names = SYSTEM.to_vec();
        if !names.contains(&self.namespace) {
            names.push(self.namespace);
        }
        expression("kubernetes.io/metadata.name", "NotIn", &names)
    }

    fn entry(
        &self,
        name: &str,
        namespaces: LabelSelectorRequirement,
        pods: LabelSelectorRequirement,
    ) -> MutatingWebhook {
        let texts = |text: &str| vec![text.to_owned()];
        MutatingWebhook {
            name: name.to_owned(),
            admission_review_versions: texts("v1"),
            client_config: WebhookClientConfig {
                // The injector writes it, and keeps it when the root changes.
                ca_bundle: None,
                service: Some(ServiceReference {
                    name: INJECTOR.to_owned(),
                    namespace: self.namespace.to_owned(),
                    path: Some("/inject".to_owned()),
                    port: Some(443),
                }),
                url: None,
            },
            rules: Some(vec![RuleWithOperations {
                operations: Some(texts("CREATE")),
                api_groups: Some(texts("")),
                api_versions: Some(texts("v1")),
                resources: Some(texts("pods")),
                scope: Some("Namespaced".to_owned()),
            }]),
            failure_policy: Some(self.values.injector.failure_policy.clone()),
            match_policy: Some("Equivalent".to_owned()),
            // Containers that another webhook adds afterwards need their probes rewritten too.
            reinvocation_policy: Some("IfNeeded".to_owned()),
            side_effects: "None".to_owned(),
            timeout_seconds: Some(5),
            namespace_selector: expressions(vec![namespaces, self.not_system()]),
            object_selector: expressions(vec![pods]),
            match_conditions: None,
        }
    }

    pub(super) fn webhook(&self) -> MutatingWebhookConfiguration {
        // Pods of namespaces that take part, unless they opt out.
        let by_namespace = self.entry(
            "namespace.injector.weft.dev",
            expression(INJECT, "In", &["enabled"]),
            expression(INJECT, "NotIn", &["disabled"]),
        );
        // Pods that opt in, where their namespace says nothing.
        let by_pod = self.entry(
            "pod.injector.weft.dev",
            expression(INJECT, "DoesNotExist", &[]),
            expression(INJECT, "In", &["enabled"]),
        );
        MutatingWebhookConfiguration {
            metadata: self.cluster_meta(INJECTOR),
            webhooks: Some(vec![by_namespace, by_pod]),
        }
    }
}
