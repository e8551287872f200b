//! The Deployment and what belongs to it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
    SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::{CONTROL, Install, USER, selector, selector_labels, texts};
use super::network::PORTS;
use crate::KubeError;
use crate::names::{CONTROL_CONFIG, INJECT_LABEL};

/// The highest that a class of one's own may have: above every workload, below the cluster's own parts.
const PRIORITY: i32 = 1_000_000_000;
const SETTINGS: &str = "/etc/weft-control";

/// A probe of the health port: path, then seconds between, of one, and how many failures count.
fn probe(path: &str, period: i32, timeout: Option<i32>, failures: i32) -> Option<Probe> {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String("health".to_owned()),
        ..Default::default()
    };
    Some(Probe {
        http_get: Some(get),
        period_seconds: Some(period),
        timeout_seconds: timeout,
        failure_threshold: Some(failures),
        ..Default::default()
    })
}

fn from_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..Default::default() }),
        value: None,
    }
}

/// Nothing that the `restricted` Pod Security level forbids.
fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..Default::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..Default::default()
    }
}

/// Apart where that can be had; on a single node together.
fn spread() -> Vec<TopologySpreadConstraint> {
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .map(|key| TopologySpreadConstraint {
            topology_key: key.to_owned(),
            max_skew: 1,
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector()),
            ..Default::default()
        })
        .to_vec()
}

impl Install<'_> {
    fn container(&self) -> Container {
        let ports = PORTS.map(|(name, port)| ContainerPort {
            name: Some(name.to_owned()),
            container_port: port,
            protocol: Some("TCP".to_owned()),
            ..Default::default()
        });
        let log = EnvVar {
            name: "WEFT_LOG".to_owned(),
            value: Some(self.values.control.log.clone()),
            value_from: None,
        };
        Container {
            name: CONTROL.to_owned(),
            image: Some(self.image()),
            image_pull_policy: Some(self.values.image.pull_policy.clone()),
            args: Some(vec!["control".to_owned(), format!("--config={SETTINGS}/config.yaml")]),
            env: Some(vec![
                from_field("POD_NAME", "metadata.name"),
                from_field("POD_NAMESPACE", "metadata.namespace"),
                log,
            ]),
            ports: Some(ports.to_vec()),
            startup_probe: probe("/live", 1, None, 60),
            readiness_probe: probe("/ready", 5, Some(2), 2),
            liveness_probe: probe("/live", 10, Some(5), 6),
            resources: Some(self.values.control.resources.clone()),
            security_context: Some(container_security()),
            volume_mounts: Some(vec![VolumeMount {
                name: "config".to_owned(),
                mount_path: SETTINGS.to_owned(),
                read_only: Some(true),
                ..Default::default()
            }]),
            ..Default::default()
        }
    }

    fn pod(&self) -> PodSpec {
        let control = &self.values.control;
        let class =
            if control.priority_class_name.is_empty() { CONTROL } else { &control.priority_class_name };
        let affinity = &control.affinity;
        PodSpec {
            service_account_name: Some(CONTROL.to_owned()),
            priority_class_name: Some(class.to_owned()),
            // It goes on serving for drainSeconds, finishes what it has within five more, and has some to spare.
            termination_grace_period_seconds: Some(control.drain_seconds + 15),
            security_context: Some(pod_security()),
            node_selector: (!control.node_selector.is_empty()).then(|| control.node_selector.clone()),
            tolerations: (!control.tolerations.is_empty()).then(|| control.tolerations.clone()),
            affinity: (*affinity != Default::default()).then(|| affinity.clone()),
            topology_spread_constraints: Some(spread()),
            containers: vec![self.container()],
            volumes: Some(vec![Volume {
                name: "config".to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: CONTROL_CONFIG.to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }]),
            ..Default::default()
        }
    }

    pub(super) fn deployment(&self) -> Result<Deployment, KubeError> {
        let mut labels = selector_labels();
        // Its own injector leaves it alone, wherever it is installed.
        labels.extend(texts([(INJECT_LABEL, "disabled")]));
        let mut annotations: BTreeMap<String, String> = self.values.control.pod_annotations.clone();
        // A change of the configuration rolls the Deployment.
        let checksum = annotations.insert("weft.dev/config-checksum".to_owned(), self.settings_checksum());
        if checksum.is_some() {
            return Err(KubeError::Manifest {
                object: "control.podAnnotations".to_owned(),
                reason: "weft.dev/config-checksum is Weft's own; take it away".to_owned(),
            });
        }
        let rolling = RollingUpdateDeployment {
            // The injector never has fewer replicas than it should: pods are not created without it unnoticed.
            max_unavailable: Some(IntOrString::Int(0)),
            max_surge: Some(IntOrString::Int(1)),
        };
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(labels),
                annotations: Some(annotations),
                ..Default::default()
            }),
            spec: Some(self.pod()),
        };
        let spec = DeploymentSpec {
            replicas: Some(self.values.control.replicas),
            selector: selector(),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(rolling),
            }),
            // A replica counts as available when its address has reached the API server's node as well.
            min_ready_seconds: Some(5),
            template,
            ..Default::default()
        };
        Ok(Deployment { metadata: self.meta(CONTROL), spec: Some(spec), ..Default::default() })
    }

    pub(super) fn pod_disruption_budget(&self) -> PodDisruptionBudget {
        let spec = PodDisruptionBudgetSpec {
            // At most one away at a time; with minAvailable a single replica would block the drain of its node.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector()),
            ..Default::default()
        };
        PodDisruptionBudget { metadata: self.meta(CONTROL), spec: Some(spec), ..Default::default() }
    }

    pub(super) fn priority_class(&self) -> PriorityClass {
        let why = "Weft's CA, injector and controller. Without them no new pod of the mesh becomes ready.";
        PriorityClass {
            metadata: self.cluster_meta(CONTROL),
            value: PRIORITY,
            global_default: Some(false),
            preemption_policy: Some("PreemptLowerPriority".to_owned()),
            description: Some(why.to_owned()),
        }
    }
}
