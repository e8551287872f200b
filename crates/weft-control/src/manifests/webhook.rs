//! The webhook that adds sidecars: which pods it is asked about, and what happens while it is away.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::meta::Install;
use crate::names::{ASKS, DECLINES, INJECT_LABEL as INJECT, INJECTOR};

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
        pods: Vec<LabelSelectorRequirement>,
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
            // What another webhook changes afterwards is looked at again: containers and probes that it adds, and our own.
            reinvocation_policy: Some("IfNeeded".to_owned()),
            side_effects: "None".to_owned(),
            timeout_seconds: Some(5),
            namespace_selector: expressions(vec![namespaces, self.not_system()]),
            object_selector: expressions(pods),
            match_conditions: None,
        }
    }

    pub(super) fn webhook(&self) -> MutatingWebhookConfiguration {
        // Pods of namespaces that take part, unless they opt out.
        let by_namespace = self.entry(
            "namespace.injector.weft.dev",
            expression(INJECT, "In", &ASKS),
            vec![expression(INJECT, "NotIn", &DECLINES)],
        );
        // Pods that opt in, where their namespace says nothing that is known. A value that is none is asked about as well:
        // the injector refuses the pod, and its author hears of the mistake.
        let by_pod = self.entry(
            "pod.injector.weft.dev",
            expression(INJECT, "NotIn", &[ASKS, DECLINES].concat()),
            vec![expression(INJECT, "Exists", &[]), expression(INJECT, "NotIn", &DECLINES)],
        );
        MutatingWebhookConfiguration {
            metadata: self.cluster_meta(INJECTOR),
            webhooks: Some(vec![by_namespace, by_pod]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Values;
    use super::*;

    /// As the API server matches a label (k8s.io/apimachinery, labels.Requirement.Matches).
    fn matches(selector: Option<&LabelSelector>, label: Option<&str>) -> bool {
        let expressions = selector.and_then(|selector| selector.match_expressions.as_ref());
        expressions.into_iter().flatten().filter(|expression| expression.key == INJECT).all(|expression| {
            let listed =
                || label.is_some_and(|label| expression.values.iter().flatten().any(|value| value == label));
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => label.is_some(),
                other => panic!("{other}"),
            }
        })
    }

    /// Which entries ask about a pod with this label, in a namespace with that one.
    fn asked(namespace: Option<&str>, pod: Option<&str>) -> usize {
        let values = Values::read(&[]).unwrap();
        let webhook = Install { values: &values, namespace: "weft-system" }.webhook();
        let entries = webhook.webhooks.unwrap();
        let asks = |entry: &&MutatingWebhook| {
            matches(entry.namespace_selector.as_ref(), namespace)
                && matches(entry.object_selector.as_ref(), pod)
        };
        entries.iter().filter(asks).count()
    }

    #[test]
    fn every_pod_that_asks_is_asked_about_once() {
        for namespace in [None, Some("yes"), Some("enabled"), Some("true"), Some("disabled"), Some("false")] {
            let takes_part = namespace.is_some_and(|label| ASKS.contains(&label));
            let never = namespace.is_some_and(|label| DECLINES.contains(&label));
            for pod in ["enabled", "true", "ture"] {
                assert_eq!(asked(namespace, Some(pod)), usize::from(!never), "{namespace:?} {pod}");
            }
            for pod in ["disabled", "false"] {
                assert_eq!(asked(namespace, Some(pod)), 0, "{namespace:?} {pod}");
            }
            assert_eq!(asked(namespace, None), usize::from(takes_part), "{namespace:?}");
        }
    }
}
