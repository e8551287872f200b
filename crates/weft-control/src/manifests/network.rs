//! Services and the NetworkPolicy.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::{CONTROL, Install, selector, selector_labels};
use crate::names::{CA_SERVICE, INJECTOR};

/// What each port is for: name of the container port, number.
pub(super) const PORTS: [(&str, i32); 4] =
    [("ca", 15012), ("injector", 15443), ("metrics", 15020), ("health", 15021)];

fn policy_port(port: i32, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    }
}

impl Install<'_> {
    fn service(&self, name: &str, port: (&str, i32), target: &str) -> Service {
        let port = ServicePort {
            name: Some(port.0.to_owned()),
            port: port.1,
            target_port: Some(IntOrString::String(target.to_owned())),
            protocol: Some("TCP".to_owned()),
            ..Default::default()
        };
        let spec = ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(selector_labels()),
            ports: Some(vec![port]),
            ..Default::default()
        };
        Service { metadata: self.meta(name), spec: Some(spec), ..Default::default() }
    }

    pub(super) fn services(&self) -> [Service; 3] {
        let mut metrics = self.service("weft-control-metrics", ("http-metrics", 15020), "metrics");
        if let Some(spec) = &mut metrics.spec {
            // Headless, so that a scraper finds each replica, also one that is not ready.
            spec.cluster_ip = Some("None".to_owned());
            spec.publish_not_ready_addresses = Some(true);
        }
        [
            self.service(CA_SERVICE, ("grpc-ca", 15012), "ca"),
            self.service(INJECTOR, ("https", 443), "injector"),
            metrics,
        ]
    }

    pub(super) fn network_policy(&self) -> NetworkPolicy {
        let cidrs = &self.values.network_policy.api_server_cidrs;
        // No `from`: the CA's callers are every injected pod and may arrive with a node's address, the injector's caller
        // is the API server, which is no pod, and the kubelet's probes come from the node.
        let ingress = NetworkPolicyIngressRule {
            ports: Some(PORTS.iter().map(|(_, port)| policy_port(*port, "TCP")).collect()),
            from: None,
        };
        let block = |cidr: &String| NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr: cidr.clone(), except: None }),
            ..Default::default()
        };
        let dns = NetworkPolicyEgressRule {
            ports: Some(vec![policy_port(53, "UDP"), policy_port(53, "TCP")]),
            to: None,
        };
        let server = NetworkPolicyEgressRule { ports: None, to: Some(cidrs.iter().map(block).collect()) };
        let limited = !cidrs.is_empty();
        let mut policy_types = vec!["Ingress".to_owned()];
        if limited {
            policy_types.push("Egress".to_owned());
        }
        let spec = NetworkPolicySpec {
            pod_selector: Some(selector()),
            policy_types: Some(policy_types),
            ingress: Some(vec![ingress]),
            egress: limited.then(|| vec![dns, server]),
        };
        NetworkPolicy { metadata: self.meta(CONTROL), spec: Some(spec) }
    }
}
