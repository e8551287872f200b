//! How much mutual TLS towards a destination, endpoint by endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use weft_core::MtlsMode;

/// The mode of a destination. While a service moves into the mesh its endpoints differ: some have a sidecar, some do not
/// yet. Who knows which is which may say so, and then nothing is tried out and nothing is concluded from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationMode {
    mode: MtlsMode,
    /// The endpoints with a sidecar, sorted; only beside [`MtlsMode::Permissive`].
    sidecars: Option<Arc<[IpAddr]>>,
}

impl DestinationMode {
    /// Permissive, with mutual TLS and nothing less towards `sidecars`, and plaintext towards all others.
    pub fn known(sidecars: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut sidecars: Vec<IpAddr> = sidecars.into_iter().map(|ip| ip.to_canonical()).collect();
        sidecars.sort_unstable();
        sidecars.dedup();
        Self { mode: MtlsMode::Permissive, sidecars: Some(sidecars.into()) }
    }

    /// The mode of the destination as a whole.
    pub fn of_all(&self) -> MtlsMode {
        self.mode
    }

    /// The mode towards the endpoint at `ip`.
    pub fn towards(&self, ip: IpAddr) -> MtlsMode {
        match &self.sidecars {
            None => self.mode,
            Some(known) if known.binary_search(&ip.to_canonical()).is_ok() => MtlsMode::Strict,
            Some(_) => MtlsMode::Disable,
        }
    }
}

impl From<MtlsMode> for DestinationMode {
    fn from(mode: MtlsMode) -> Self {
        Self { mode, sidecars: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_endpoints_get_mutual_tls_and_others_plaintext() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mode = DestinationMode::known([ip("10.0.0.2"), ip("::ffff:10.0.0.1"), ip("fd00::1")]);
        assert_eq!(mode.of_all(), MtlsMode::Permissive);
        for sidecar in ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.2", "fd00::1"] {
            assert_eq!(mode.towards(ip(sidecar)), MtlsMode::Strict, "{sidecar}");
        }
        assert_eq!(mode.towards(ip("10.0.0.3")), MtlsMode::Disable);
        assert_eq!(DestinationMode::known([]).towards(ip("10.0.0.1")), MtlsMode::Disable);
    }

    #[test]
    fn without_knowledge_all_endpoints_are_alike() {
        for mode in [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable] {
            assert_eq!(DestinationMode::from(mode).towards([10, 0, 0, 1].into()), mode);
        }
    }
}
