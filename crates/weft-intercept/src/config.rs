//! What is to be captured.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::InterceptError;

/// The user id that the proxy runs as: its own traffic is told from the application's by this.
pub const PROXY_UID: u32 = 2102;

/// Every port that the proxy binds by default: admin, outbound, inbound, metrics, health, DNS. An application on one of
/// them would be in its way.
pub const OWN_PORTS: [u16; 6] = [15000, 15001, 15006, 15020, 15021, 15053];

/// Those of them that others reach directly: metrics and health. With the port of captured inbound connections they are all
/// that the proxy binds on other addresses than loopback, and so all that is exempt from capture: on an exempt port where
/// the proxy does not listen, an application would be open around its sidecar.
pub const OPEN_PORTS: [u16; 2] = [15020, 15021];

/// IPv4 or IPv6. Each has its own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether `ip` is of this family.
    pub fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// A port, or a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` is in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl std::str::FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "write a port from 1 to 65535, or a range such as 6000-6100";
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0).ok_or(WRONG);
        let (first, last) = match text.split_once(['-', ':']) {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first <= last { Ok(Self { first, last }) } else { Err("the range ends before it begins") }
    }
}

/// In iptables' notation.
impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// Which traffic is captured, and where it goes.
///
/// What is included is all where the list is empty; what is excluded is always out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptConfig {
    /// The user id of the proxy.
    pub proxy_uid: u32,
    /// The group id of the proxy, when that is to be returned as well.
    pub proxy_gid: Option<u32>,
    /// Further user ids whose traffic is left alone, such as that of a resolver inside the pod.
    pub exclude_uids: Vec<u32>,
    /// Where captured inbound connections go.
    pub inbound_port: u16,
    /// Where captured outbound connections go.
    pub outbound_port: u16,
    /// Where captured DNS goes; `None`: DNS is not captured.
    pub dns_port: Option<u16>,
    /// Ports on which the proxy itself is reached at the pod's addresses, besides `inbound_port`: never captured.
    pub open_ports: Vec<u16>,
    /// Inbound ports that are captured.
    pub include_inbound_ports: Vec<PortRange>,
    /// Inbound ports that are not.
    pub exclude_inbound_ports: Vec<PortRange>,
    /// Outbound ports that are captured.
    pub include_outbound_ports: Vec<PortRange>,
    /// Outbound ports that are not.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Outbound destinations that are captured.
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Outbound destinations that are not.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Interfaces whose traffic is not captured in either direction.
    pub exclude_interfaces: Vec<String>,
}

impl Default for InterceptConfig {
    fn default() -> Self {
        Self {
            proxy_uid: PROXY_UID,
            proxy_gid: None,
            exclude_uids: Vec::new(),
            inbound_port: 15006,
            outbound_port: 15001,
            dns_port: Some(15053),
            open_ports: OPEN_PORTS.to_vec(),
            include_inbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            exclude_interfaces: Vec::new(),
        }
    }
}

impl InterceptConfig {
    /// Checks what could not be written into a rule, or would make a rule set that captures the proxy itself.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn validate(&self) -> Result<(), InterceptError> {
        let wrong = |option, value: String, reason: &str| {
            Err(InterceptError::Option { option, value, reason: reason.to_owned() })
        };
        if self.proxy_uid == 0 {
            return wrong(
                "--proxy-uid",
                "0".to_owned(),
                "root's traffic would bypass the proxy; give the proxy its own user",
            );
        }
        for name in &self.exclude_interfaces {
            // The kernel's limit is IFNAMSIZ, 16 with the final zero. A '+' at the end is iptables' wildcard.
            let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'+');
            if name.is_empty() || name.len() > 15 || name.starts_with('-') || !name.bytes().all(known) {
                return wrong("--exclude-interface", name.clone(), "this is not the name of an interface");
            }
            if name == "lo" {
                return wrong(
                    "--exclude-interface",
                    name.clone(),
                    "calls of the pod to itself go over lo and must be seen",
                );
            }
        }
        let ports = [Some(self.inbound_port), Some(self.outbound_port), self.dns_port];
        for (i, port) in ports.iter().enumerate() {
            let Some(port) = port else { continue };
            if *port == 0 || ports.iter().take(i).any(|earlier| *earlier == Some(*port)) {
                return wrong(
                    "port",
                    port.to_string(),
                    "inbound, outbound and DNS each need a port of their own, not 0",
                );
            }
        }
        Ok(())
    }

    /// The ports at the pod's addresses that are never captured, because the proxy is there. Where captured calls and queries
    /// of the application go is not among them: those listeners are on loopback, which is never captured anyway.
    pub(crate) fn never(&self) -> Vec<u16> {
        let mut ports = self.open_ports.clone();
        ports.push(self.inbound_port);
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        let shown = |text: &str| text.parse::<PortRange>().map(|r| r.to_string());
        assert_eq!(shown("80"), Ok("80".to_owned()));
        assert_eq!(shown("6000-6100"), Ok("6000:6100".to_owned()));
        for text in ["", "0", "65536", "9-8", "a", "1-", "-1"] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_rule_is_refused() {
        let ok = InterceptConfig::default();
        ok.validate().unwrap();
        let wrong = [
            InterceptConfig { proxy_uid: 0, ..ok.clone() },
            InterceptConfig { exclude_interfaces: vec!["lo".into()], ..ok.clone() },
            InterceptConfig { exclude_interfaces: vec!["eth0 -j ACCEPT".into()], ..ok.clone() },
            InterceptConfig { exclude_interfaces: vec!["-j".into()], ..ok.clone() },
            InterceptConfig { outbound_port: 15006, ..ok.clone() },
            InterceptConfig { dns_port: Some(0), ..ok },
        ];
        for config in wrong {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }
}
