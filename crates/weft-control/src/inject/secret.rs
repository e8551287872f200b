//! What makes the paths of a pod's checks impossible to guess.
//!
//! The proxy's health port is open to everybody who can reach the pod, and a check makes its application work: a `preStop`
//! may even tell it to end. So each pod has a secret of its own, which stands in the paths that its spec gives to the kubelet
//! (`/probe/<secret>/<container>/<kind>`), and in what the proxy is told. Who may read the pod may know it.

use std::fmt;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use serde_json::Value;

use super::pod::{PROXY, name_of};
use super::probes::VARIABLE;

/// 128 bits: nobody finds one by trying.
const OCTETS: usize = 16;
/// In hexadecimal.
const DIGITS: usize = 2 * OCTETS;
const PREFIX: &str = "/probe/";

/// The secret of one pod, or of the pods of one template.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeSecret(String);

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers; see that /dev/urandom can be read")]
pub struct NoRandomNumbers;

impl ProbeSecret {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system gives none.
    pub fn draw() -> Result<Self, NoRandomNumbers> {
        let mut octets = [0; OCTETS];
        aws_lc_rs::rand::fill(&mut octets).map_err(|_| NoRandomNumbers)?;
        Ok(Self::of_octets(&octets))
    }

    /// The one that `key` has for `workload`: always the same, so that manifests which are injected once more come out as
    /// before, and of no use to who knows the secret of another workload. HMAC with SHA-256 (RFC 2104), its first half.
    pub fn derived(key: &[u8], workload: &str) -> Self {
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, key), workload.as_bytes());
        Self::of_octets(tag.as_ref())
    }

    /// The one that `pod` was injected with, which a second pass must keep: the kubelet and the proxy would otherwise be told
    /// of two. `None` where it has no check with one.
    pub(crate) fn of(pod: &Value) -> Option<Self> {
        let lists =
            ["initContainers", "containers"].iter().filter_map(|list| pod.get("spec")?.get(list)?.as_array());
        let proxy = lists.flatten().find(|container| name_of(container) == Some(PROXY))?;
        let variables = proxy.get("env")?.as_array()?;
        let told = variables.iter().find(|variable| name_of(variable) == Some(VARIABLE))?;
        // Variables are written with `$$` for `$`, which is none of JSON's signs.
        let checks: Vec<Value> = serde_json::from_str(told.get("value")?.as_str()?).ok()?;
        checks
            .iter()
            .find_map(|check| split(check.get("path")?.as_str()?))
            .map(|(secret, _)| Self(secret.to_owned()))
    }

    fn of_octets(octets: &[u8]) -> Self {
        Self(octets.iter().take(OCTETS).map(|octet| format!("{octet:02x}")).collect())
    }

    /// Where the check of `kind` of `container` is offered.
    pub(crate) fn path(&self, container: &str, kind: &str) -> String {
        format!("{PREFIX}{}/{container}/{kind}", self.0)
    }
}

impl fmt::Debug for ProbeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeSecret(***)")
    }
}

/// The name of a check: its path without the secret, and what older injectors wrote for the path.
pub(crate) fn name(container: &str, kind: &str) -> String {
    format!("{PREFIX}{container}/{kind}")
}

/// Whether `path` is where the check called `name` is offered, by this injector or an older one.
pub(crate) fn is_at(path: &str, name: &str) -> bool {
    path == name || split(path).is_some_and(|(_, rest)| name.strip_prefix(PREFIX) == Some(rest))
}

/// The secret of a path, and what follows it.
fn split(path: &str) -> Option<(&str, &str)> {
    let (secret, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (secret.len() == DIGITS && secret.bytes().all(hexadecimal) && rest.contains('/'))
        .then_some((secret, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_drawn_anew_and_never_shown() {
        let (a, b) = (ProbeSecret::draw().unwrap(), ProbeSecret::draw().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.0.len(), 32, "128 bits");
        assert!(!format!("{a:?}").contains(&a.0));
    }

    #[test]
    fn a_key_gives_each_workload_its_own() {
        let of = |key: &[u8], workload| ProbeSecret::derived(key, workload);
        assert_eq!(of(b"key", "Deployment shop/orders"), of(b"key", "Deployment shop/orders"));
        assert_ne!(of(b"key", "Deployment shop/orders"), of(b"key", "Deployment shop/web"));
        assert_ne!(of(b"key", "Deployment shop/orders"), of(b"yek", "Deployment shop/orders"));
        // The case of RFC 4231 section 4.3.
        assert_eq!(of(b"Jefe", "what do ya want for nothing?").0, "5bdcc146bf60754e6a042426089575c7");
    }

    #[test]
    fn a_path_is_known_with_a_secret_and_without() {
        let secret = ProbeSecret::derived(b"key", "");
        let name = name("app", "liveness");
        assert!(is_at(&secret.path("app", "liveness"), &name) && is_at("/probe/app/liveness", &name));
        for other in [secret.path("b", "liveness"), "/probe/x/app/liveness".to_owned(), "/probe/".to_owned()]
        {
            assert!(!is_at(&other, &name), "{other}");
        }
    }
}
