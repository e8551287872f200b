//! Pods whose resolver does not know the cluster's names, the CA's among them.
//!
//! The proxy finds the CA by the name of its Service, through the servers in the pod's `resolv.conf`. With
//! `dnsPolicy: Default` those are the node's, with `None` whatever the pod says; where they do not know the cluster, the proxy
//! gets no certificate, and the pod waits in `Init` for ever. So it is given the Service's address instead: the CA is known by
//! its SPIFFE id, not by a name, so that who answers there is checked as before.

use std::net::SocketAddr;

use super::annotations::{Asked, CONFIG};
use super::pod::Pod;
use super::problem::Problem;

/// The proxy's field for it.
const FIELD: &str = "identity.ca.address";

/// What is done about the CA's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ca {
    /// Its name can be resolved, or the pod says itself where it is.
    ByName,
    /// It is given by address.
    At(SocketAddr),
    /// Nobody here knows whether the pod's own servers know the name.
    Unknown,
}

/// Where the proxy of `pod` finds the CA; `known` is the address of its Service, where that is known.
pub(crate) fn ca(pod: &Pod, known: Option<SocketAddr>, asked: &Asked, problems: &mut Vec<Problem>) -> Ca {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or_default();
    if !["Default", "None"].contains(&policy) || asked.config.iter().any(|(field, _)| field == FIELD) {
        return Ca::ByName;
    }
    match known {
        Some(address) => Ca::At(address),
        None if policy == "None" => Ca::Unknown,
        None => {
            problems.push(Problem::new(
                "dnsPolicy: Default",
                "the node's name servers do not know the cluster's names, so its proxy would not find the CA, nor the pod any service",
                format!("{}, or leave dnsPolicy out", cure()),
            ));
            Ca::Unknown
        }
    }
}

/// What helps where the address is not known here.
pub(crate) fn cure() -> String {
    format!("write the ClusterIP of the Service weft-ca in the annotation {CONFIG}: {FIELD}=ADDRESS:15012")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_address_stands_in_where_names_do_not_work() {
        let known: SocketAddr = "10.96.0.7:15012".parse().unwrap();
        for (policy, at, expected, refused) in [
            (None, Some(known), Ca::ByName, false),
            (Some("ClusterFirst"), Some(known), Ca::ByName, false),
            (Some("Default"), Some(known), Ca::At(known), false),
            (Some("None"), Some(known), Ca::At(known), false),
            (Some("None"), None, Ca::Unknown, false),
            (Some("Default"), None, Ca::Unknown, true),
        ] {
            let pod = Pod::read(&json!({"spec": {"dnsPolicy": policy}})).unwrap();
            let mut problems = Vec::new();
            assert_eq!(ca(&pod, at, &Asked::default(), &mut problems), expected, "{policy:?}");
            assert_eq!(problems.len(), usize::from(refused), "{policy:?}");
            let told = problems.iter().map(Problem::to_string).collect::<String>();
            assert!(!refused || told.contains("weft.dev/config: identity.ca.address="), "{told}");
            let set =
                Asked { config: vec![(FIELD.to_owned(), "10.96.0.8:15012".to_owned())], ..Asked::default() };
            assert_eq!(ca(&pod, at, &set, &mut Vec::new()), Ca::ByName, "the author knows better");
        }
    }
}
