//! What cannot be injected: better refused at once, with the reason, than broken in a way that is found out later.

use super::Namespace;
use super::annotations::INJECT_LABEL;
use super::containers::VOLUMES;
use super::pod::{INIT, PROXY, Pod};
use super::probes::{self, Rewrite};
use super::problem::Problem;
use weft_intercept::{OWN_PORTS, PROXY_UID};

/// What the proxy is told of probes is one variable of its container. Linux takes 128 KiB for each (MAX_ARG_STRLEN), and a
/// container with a longer one does not start.
const MOST_OF_PROBES: usize = 100_000;
/// The cure for a port that is taken.
pub(crate) const OTHER_PORT: &str = "use another port";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Everything in `pod` that stands in the way.
pub(crate) fn conflicts(pod: &Pod, problems: &mut Vec<Problem>) {
    users(pod, problems);
    for container in pod.all().filter(|container| [INIT, PROXY].contains(&container.name.as_str())) {
        problems.push(not_ours(&container.name));
    }
    let volumes = pod.spec.volumes.iter().flatten();
    for volume in volumes.filter(|volume| VOLUMES.contains(&volume.name.as_str())) {
        problems.push(Problem::new(format!("volume {}", volume.name), "this name is Weft's", "rename it"));
    }
    for container in pod.all() {
        let ports = container.ports.iter().flatten();
        for port in ports.filter(|port| OWN_PORTS.contains(&port.container_port)) {
            let what = format!("container {}: port {}", container.name, port.container_port);
            problems.push(Problem::new(what, "Weft's proxy uses this port", OTHER_PORT));
        }
    }
}

/// A container that has a name of Weft's, and is something else.
pub(crate) fn not_ours(name: &str) -> Problem {
    Problem::new(
        format!("container {name}"),
        "this name is Weft's, and the container is not one that Weft injected",
        format!(
            "rename it, or take a half injected pod apart with weft uninject; to leave the pod out, label it {INJECT_LABEL}: disabled"
        ),
    )
}

/// Traffic of the proxy's user is not captured: an application that ran as it would go around the mesh.
fn users(pod: &Pod, problems: &mut Vec<Problem>) {
    let own = i64::from(PROXY_UID);
    let of_pod = pod.spec.security_context.as_ref().map(|context| ("the pod".to_owned(), context));
    let of_containers = pod.all().filter_map(|container| {
        Some((format!("container {}", container.name), container.security_context.as_ref()?))
    });
    for (who, _) in of_pod.into_iter().chain(of_containers).filter(|(_, c)| c.run_as_user == Some(own)) {
        problems.push(Problem::new(
            format!("{who}: securityContext.runAsUser {own}"),
            "this is the user of Weft's proxy, whose traffic is not captured",
            "run it as another user",
        ));
    }
}

/// Probes whose definitions are longer than the proxy could be told.
pub(crate) fn long_probes(rewrites: &[Rewrite], problems: &mut Vec<Problem>) {
    let octets = probes::text(&probes::entries(rewrites)).len();
    if octets > MOST_OF_PROBES {
        problems.push(Problem::new(
            "the probes of the pod",
            format!("what they ask for has {octets} octets, and the proxy can be told {MOST_OF_PROBES}"),
            "shorten their paths and headers",
        ));
    }
}

/// Pod Security admission would refuse the pod after it was injected, with a message about a container that its author
/// never wrote.
pub(crate) fn pod_security(namespace: &Namespace, problems: &mut Vec<Problem>) {
    let level = namespace.labels.as_ref().and_then(|labels| labels.get(ENFORCE));
    // A level that is not known is enforced as `restricted` by the API server.
    let Some(level) = level.filter(|level| *level != "privileged") else { return };
    let name = namespace.name.as_deref().unwrap_or("of this pod");
    problems.push(Problem::new(
        format!("namespace {name}: label {ENFORCE}: {level}"),
        format!("{INIT} needs the capabilities NET_ADMIN and NET_RAW to write the interception rules, which the level {level} does not allow"),
        format!(
            "label the namespace {ENFORCE}: privileged (with pod-security.kubernetes.io/warn: {level} it still tells of other pods), or leave this pod out with the label {INJECT_LABEL}: disabled"
        ),
    ));
}
