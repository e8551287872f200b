//! The API server and the nodes: there, new enough, and agreeing on the time.
//!
//! Clocks matter because certificates do: a leaf is valid from five minutes before it was signed, so a node that is further
//! behind refuses what it gets. The API server's clock is read from the `Date` of its answers. A node's clock is compared
//! with it by the node's Lease: the kubelet writes `renewTime` by its own clock, and the API server notes by its own when
//! the Lease was written (`managedFields[].time`). The difference of the two is the skew, however long ago that was.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use weft_control::client::describe;

use super::report::{Finding, Vantage};
use crate::view::list;
use crate::words::{are, counted};

/// The first version whose webhooks, tokens and lists are as Weft needs them.
const OLDEST: u32 = 25;
/// The first version with native sidecars switched on.
const NATIVE: u32 = 29;
/// Seconds that a clock may be off before it is told: times are stamped in whole seconds, and a write takes its time.
const NOTICED: i64 = 5;
/// Seconds that break things: certificates are valid from five minutes before they were signed.
const BREAKS: i64 = 240;

/// What the API server answered when first asked.
pub(super) struct Greeting {
    /// `v1.36.0`.
    pub(super) version: String,
    pub(super) minor: Option<u32>,
    /// Its clock, and ours when it answered. Whole seconds.
    pub(super) clocks: Option<(i64, i64)>,
}

/// Asks for the version.
pub(super) async fn greet(client: &Client) -> Result<Greeting, String> {
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.map_err(|error| error.to_string())?;
    let response = client.send(request).await.map_err(|error| describe(&error))?;
    let date =
        response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).and_then(http_date);
    let clocks = date.map(|date| (date, Timestamp::now().as_second()));
    let info = client.apiserver_version().await.map_err(|error| describe(&error))?;
    // Some providers write 29+.
    let digits: String = info.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor = if info.major == "1" { digits.parse().ok() } else { None };
    Ok(Greeting { version: info.git_version, minor, clocks })
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7) in Unix time.
fn http_date(text: &str) -> Option<i64> {
    let date = k8s_openapi::jiff::fmt::rfc2822::parse(&text.replace("GMT", "+0000")).ok()?;
    Some(date.timestamp().as_second())
}

/// Judges the version.
pub(super) fn version(greeting: &Greeting) -> Finding {
    let id = "api.version";
    let Greeting { version, minor, .. } = greeting;
    match minor {
        Some(minor) if *minor < OLDEST => Finding::failed(
            id,
            Vantage::Api,
            format!("the API server is {version}"),
            format!("Weft needs Kubernetes 1.{OLDEST} or later: upgrade the cluster"),
        ),
        Some(minor) if *minor < NATIVE => Finding::warning(
            id,
            Vantage::Api,
            format!(
                "the API server is {version}, without native sidecars: weft-proxy is an ordinary container, and Jobs must end it"
            ),
            format!("Kubernetes 1.{NATIVE} or later has native sidecars"),
        ),
        Some(_) => Finding::ok(id, Vantage::Api, format!("the API server is {version}")),
        None => Finding::warning(
            id,
            Vantage::Api,
            format!("the API server calls its version {version:?}, which cannot be compared"),
            format!("see that it has what Kubernetes 1.{NATIVE} has"),
        ),
    }
}

/// A node, and the difference of its clock to the API server's, in seconds; positive where it is ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeSeen {
    pub(super) name: String,
    pub(super) kubelet: String,
    pub(super) ready: bool,
    pub(super) skew: Option<i64>,
}

/// Looks at the nodes and their Leases.
pub(super) async fn nodes(client: &Client) -> Result<Vec<NodeSeen>, kube::Error> {
    let nodes: Vec<Node> = list(Api::all(client.clone()), "").await?;
    // Without the right to read them, skew is unknown; that is told.
    let leases: Vec<Lease> =
        list(Api::namespaced(client.clone(), "kube-node-lease"), "").await.unwrap_or_default();
    let seen = nodes.into_iter().map(|node| {
        let name = node.metadata.name.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let lease = leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(&name));
        NodeSeen {
            skew: lease.and_then(skew),
            kubelet: status.node_info.map(|info| info.kubelet_version).unwrap_or_default(),
            ready,
            name,
        }
    });
    Ok(seen.collect())
}

fn skew(lease: &Lease) -> Option<i64> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let fields = lease.metadata.managed_fields.as_ref()?;
    let written = fields.iter().filter_map(|field| field.time.as_ref()).map(|time| time.0).max()?;
    Some(renewed.as_second() - written.as_second())
}

/// Judges the kubelets' versions.
pub(super) fn kubelets(greeting: &Greeting, nodes: &[NodeSeen]) -> Finding {
    let id = "api.nodes";
    let minor =
        |version: &str| version.trim_start_matches('v').split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
    let native = greeting.minor.is_some_and(|minor| minor >= NATIVE);
    let old = |node: &&NodeSeen| native && minor(&node.kubelet).is_some_and(|minor| minor < NATIVE);
    let old: Vec<String> =
        nodes.iter().filter(old).map(|node| format!("{}: kubelet {}", node.name, node.kubelet)).collect();
    if !old.is_empty() {
        return Finding::failed(
            id,
            Vantage::Api,
            format!(
                "{} of {} without native sidecars, which the API server offers",
                old.len(),
                counted(nodes.len(), "node", "nodes")
            ),
            "upgrade their kubelets, or install with injector.nativeSidecar=never",
        )
        .details(old);
    }
    let away: Vec<String> =
        nodes.iter().filter(|node| !node.ready).map(|node| format!("{} is not ready", node.name)).collect();
    if !away.is_empty() {
        let cure = "kubectl describe node tells why; what is said below of its pods may be old";
        return Finding::warning(
            id,
            Vantage::Api,
            format!(
                "{} of {} {} not ready",
                away.len(),
                counted(nodes.len(), "node", "nodes"),
                are(away.len())
            ),
            cure,
        )
        .details(away);
    }
    Finding::ok(id, Vantage::Api, ready(nodes.len()))
}

fn ready(nodes: usize) -> String {
    match nodes {
        1 => "1 node, and it is ready".to_owned(),
        nodes => format!("{nodes} nodes, all ready"),
    }
}

/// Judges the clocks.
pub(super) fn clocks(greeting: &Greeting, nodes: &[NodeSeen]) -> Finding {
    let id = "api.clocks";
    let mut seen: Vec<(String, i64)> = Vec::new();
    if let Some((server, own)) = greeting.clocks {
        seen.push(("this machine".to_owned(), own - server));
    }
    seen.extend(nodes.iter().filter_map(|node| Some((format!("node {}", node.name), node.skew?))));
    let off: Vec<&(String, i64)> = seen.iter().filter(|(_, skew)| skew.abs() > NOTICED).collect();
    let told = off.iter().map(|(who, skew)| {
        let way = if *skew > 0 { "ahead of" } else { "behind" };
        format!("{who} is {} s {way} the API server", skew.abs())
    });
    let told: Vec<String> = told.collect();
    let unknown = nodes.iter().filter(|node| node.skew.is_none()).count();
    let cure = "keep time by NTP (chrony, systemd-timesyncd) on these machines: certificates are valid from 5 minutes before they are signed";
    if off.iter().any(|(who, skew)| skew.abs() > BREAKS && who != "this machine") {
        return Finding::failed(
            id,
            Vantage::Api,
            "clocks differ so much that certificates are refused",
            cure,
        )
        .details(told);
    }
    if !told.is_empty() {
        return Finding::warning(id, Vantage::Api, "clocks differ", cure).details(told);
    }
    if seen.is_empty() {
        return Finding::skipped(id, Vantage::Api, "no clock could be read");
    }
    let rest = if unknown > 0 {
        format!("; {} without a Lease that can be read", counted(unknown, "node", "nodes"))
    } else {
        String::new()
    };
    let agree = if seen.len() == 1 { "agrees" } else { "agree" };
    let clocks = counted(seen.len(), "clock", "clocks");
    let summary = format!("{clocks} {agree} with the API server's within {NOTICED} s{rest}");
    Finding::ok(id, Vantage::Api, summary)
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;

    fn greeting(minor: u32, clocks: Option<(i64, i64)>) -> Greeting {
        Greeting { version: format!("v1.{minor}.0"), minor: Some(minor), clocks }
    }

    fn node(name: &str, kubelet: &str, skew: Option<i64>) -> NodeSeen {
        NodeSeen { name: name.into(), kubelet: kubelet.into(), ready: true, skew }
    }

    #[test]
    fn versions_are_judged() {
        assert_eq!(version(&greeting(24, None)).state, State::Failed);
        assert_eq!(version(&greeting(28, None)).state, State::Warning);
        assert_eq!(version(&greeting(29, None)).state, State::Ok);
        assert_eq!(
            version(&Greeting { version: "x".into(), minor: None, clocks: None }).state,
            State::Warning
        );
        let nodes = [node("a", "v1.29.1", None), node("b", "v1.28.9+k3s1", None)];
        let found = kubelets(&greeting(30, None), &nodes);
        assert_eq!(
            (found.state, found.details.as_slice()),
            (State::Failed, &["b: kubelet v1.28.9+k3s1".to_owned()][..])
        );
        assert_eq!(kubelets(&greeting(28, None), &nodes).state, State::Ok, "classic sidecars on all");
        let away = kubelets(&greeting(30, None), &[NodeSeen { ready: false, ..node("c", "v1.30.0", None) }]);
        assert_eq!((away.state, away.summary.as_str()), (State::Warning, "1 of 1 node is not ready"));
        let one = kubelets(&greeting(30, None), &[node("d", "v1.30.0", None)]);
        assert_eq!(one.summary, "1 node, and it is ready");
    }

    #[test]
    fn clocks_are_judged() {
        assert_eq!(clocks(&greeting(30, Some((100, 103))), &[node("a", "", Some(-4))]).state, State::Ok);
        let found =
            clocks(&greeting(30, Some((100, 110))), &[node("a", "", Some(-20)), node("b", "", Some(0))]);
        assert_eq!(found.state, State::Warning);
        assert_eq!(
            found.details,
            ["this machine is 10 s ahead of the API server", "node a is 20 s behind the API server"]
        );
        assert_eq!(clocks(&greeting(30, None), &[node("a", "", Some(600))]).state, State::Failed);
        assert_eq!(
            clocks(&greeting(30, Some((0, 9000))), &[]).state,
            State::Warning,
            "this machine breaks nothing"
        );
        assert_eq!(clocks(&greeting(30, None), &[node("a", "", None)]).state, State::Skipped);
    }

    #[test]
    fn a_lease_tells_both_clocks() {
        let lease = |renewed: &str| -> Lease {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "n", "managedFields": [{"manager": "kubelet", "operation": "Update", "time": "2026-01-01T00:00:10Z"}]},
                "spec": {"renewTime": renewed},
            }))
            .unwrap()
        };
        assert_eq!(skew(&lease("2026-01-01T00:00:10.900000Z")), Some(0));
        assert_eq!(skew(&lease("2026-01-01T00:05:10.000000Z")), Some(300));
        assert_eq!(skew(&lease("2025-12-31T23:59:50.000000Z")), Some(-20));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("soon"), None);
    }
}
