//! The rules, as input for `iptables-restore --noflush`.
//!
//! All rules live in chains of our own, which the input declares; under `--noflush` a declared chain is emptied and
//! filled in the same transaction, and nothing else is touched. Only the jumps stand in chains that others use too, so
//! they are the one thing that could double: the input deletes the ones that are there before it inserts one.
//!
//! ```text
//! nat PREROUTING ──tcp──► WEFT_INBOUND   own ports, excluded → RETURN;        rest → 15006
//! nat OUTPUT ─────tcp──► WEFT_OUTBOUND   self-call → 15006; proxy → RETURN;
//!                                        DNS → 15053; loopback, excluded → RETURN; rest → WEFT_CAPTURE → 15001
//!            ─────udp──► WEFT_DNS        proxy → RETURN;                       port 53 → 15053
//! raw PREROUTING, OUTPUT ─udp──► WEFT_ZONE_IN, WEFT_ZONE_OUT                   conntrack zones
//! ```
//!
//! **Self-calls.** When the endpoint that the outbound proxy picked is its own pod, it connects from 127.0.0.1 (or ::1).
//! Only then does a connection of the proxy itself go to its inbound side, so that a pod that calls its own service is
//! served like any other caller. The inbound side's connection to the application has an ordinary source and returns.
//!
//! **Zones.** A UDP query of the application, captured, leaves a conntrack entry for (pod, port X, server, 53) that
//! rewrites to 15053 and outlives the socket by 30 s and more. When the kernel later gives port X to the proxy for a
//! query of its own to the same server, that packet would match the entry and come back to the proxy instead of leaving.
//! So the proxy's queries are tracked in zone 1 and the application's in zone 2, where equal tuples do not meet. The
//! proxy's queries to a server on loopback stay in no zone: the answer of a local server that is itself behind NAT could
//! not be matched. TCP needs none of this: a SYN that meets a closed entry replaces it.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::config::{Family, InterceptConfig};

/// A jump from a built-in chain into one of ours.
pub(crate) struct Jump {
    pub(crate) table: &'static str,
    pub(crate) from: &'static str,
    pub(crate) matches: &'static str,
    pub(crate) to: &'static str,
}

/// Every jump there may be.
pub(crate) const JUMPS: [Jump; 5] = [
    Jump { table: "raw", from: "PREROUTING", matches: "-p udp", to: "WEFT_ZONE_IN" },
    Jump { table: "raw", from: "OUTPUT", matches: "-p udp", to: "WEFT_ZONE_OUT" },
    Jump { table: "nat", from: "PREROUTING", matches: "-p tcp", to: "WEFT_INBOUND" },
    Jump { table: "nat", from: "OUTPUT", matches: "-p tcp", to: "WEFT_OUTBOUND" },
    Jump { table: "nat", from: "OUTPUT", matches: "-p udp", to: "WEFT_DNS" },
];

/// Every chain there may be, by table.
pub(crate) const CHAINS: [(&str, &str); 6] = [
    ("raw", "WEFT_ZONE_IN"),
    ("raw", "WEFT_ZONE_OUT"),
    ("nat", "WEFT_INBOUND"),
    ("nat", "WEFT_OUTBOUND"),
    ("nat", "WEFT_DNS"),
    ("nat", "WEFT_CAPTURE"),
];

/// Tables in the order in which they are committed: what fails for want of a kernel feature fails before nat is touched.
const TABLES: [&str; 2] = ["raw", "nat"];

/// One rule of ours. A comment has no quotes, which iptables would print escaped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: &'static str,
    pub(crate) text: String,
    pub(crate) comment: &'static str,
}

impl InterceptConfig {
    /// The input for `iptables-restore --noflush` (or `ip6tables-restore`) on a namespace without rules of ours.
    pub fn render(&self, family: Family) -> String {
        self.render_over(family, true, &Present::default())
    }

    /// The input that brings a namespace that has `present` to these rules. Without `zones`, table raw is left out.
    pub(crate) fn render_over(&self, family: Family, zones: bool, present: &Present) -> String {
        let rules = self.rules(family, zones);
        let mut input = String::new();
        for table in TABLES {
            let wanted: Vec<&str> =
                chains(table).filter(|chain| rules.iter().any(|r| r.chain == *chain)).collect();
            let gone: Vec<&str> =
                chains(table).filter(|chain| !wanted.contains(chain) && present.has_chain(chain)).collect();
            if wanted.is_empty() && gone.is_empty() {
                continue;
            }
            let _ = writeln!(input, "*{table}");
            for chain in wanted.iter().chain(&gone) {
                // Declares it, and empties it where it exists.
                let _ = writeln!(input, ":{chain} - [0:0]");
            }
            for jump in JUMPS.iter().filter(|jump| jump.table == table) {
                for _ in 0..present.jumps(jump) {
                    let _ = writeln!(input, "-D {}", jump.text());
                }
                if wanted.contains(&jump.to) {
                    let _ = writeln!(input, "-I {}", jump.text());
                }
            }
            for rule in rules.iter().filter(|rule| wanted.contains(&rule.chain)) {
                let Rule { chain, text, comment } = rule;
                let _ = writeln!(input, "-A {chain} {text} -m comment --comment \"weft: {comment}\"");
            }
            for chain in gone {
                let _ = writeln!(input, "-X {chain}");
            }
            input.push_str("COMMIT\n");
        }
        input
    }

    /// The rules of one family, in order.
    pub(crate) fn rules(&self, family: Family, zones: bool) -> Vec<Rule> {
        let mut rules = Rules { family, list: Vec::new() };
        if zones && self.dns_port.is_some() {
            self.zones(&mut rules);
        }
        self.inbound(&mut rules);
        self.outbound(&mut rules);
        self.capture(&mut rules);
        self.dns(&mut rules);
        rules.list
    }

    fn zones(&self, rules: &mut Rules) {
        let Some(dns) = self.dns_port else { return };
        let loopback = rules.loopback();
        rules.add("WEFT_ZONE_IN", "-p udp --sport 53 -j CT --zone 1", "answers to queries of the proxy");
        for owner in self.owners() {
            let out = |text: String| format!("-p udp {text} {owner}");
            rules.add(
                "WEFT_ZONE_OUT",
                out(format!("--sport {dns}")) + " -j CT --zone 2",
                "answers of the proxy to the application",
            );
            rules.add(
                "WEFT_ZONE_OUT",
                out(format!("--dport 53 -d {loopback}")) + " -j RETURN",
                "queries to a server on loopback",
            );
            rules.add(
                "WEFT_ZONE_OUT",
                out("--dport 53".to_owned()) + " -j CT --zone 1",
                "queries of the proxy",
            );
            rules.add("WEFT_ZONE_OUT", format!("-p udp {owner} -j RETURN"), "other traffic of the proxy");
        }
        rules.add("WEFT_ZONE_OUT", "-p udp --dport 53 -j CT --zone 2", "queries of the application");
    }

    fn inbound(&self, rules: &mut Rules) {
        for name in &self.exclude_interfaces {
            rules.add("WEFT_INBOUND", format!("-i {name} -j RETURN"), "excluded interface");
        }
        for port in self.never() {
            rules.add("WEFT_INBOUND", format!("-p tcp --dport {port} -j RETURN"), "port of the proxy itself");
        }
        for range in &self.exclude_inbound_ports {
            rules.add("WEFT_INBOUND", format!("-p tcp --dport {range} -j RETURN"), "excluded inbound port");
        }
        let to = format!("-j REDIRECT --to-ports {}", self.inbound_port);
        for range in &self.include_inbound_ports {
            rules.add(
                "WEFT_INBOUND",
                format!("-p tcp --dport {range} {to}"),
                "included inbound port, to the inbound proxy",
            );
        }
        if self.include_inbound_ports.is_empty() {
            rules.add("WEFT_INBOUND", format!("-p tcp {to}"), "to the inbound proxy");
        }
    }

    fn outbound(&self, rules: &mut Rules) {
        const CHAIN: &str = "WEFT_OUTBOUND";
        let (loopback, from) = (rules.loopback(), rules.loopback_address());
        rules.add(
            CHAIN,
            format!(
                "-o lo -s {from} ! -d {loopback} -p tcp -m owner --uid-owner {} -j REDIRECT --to-ports {}",
                self.proxy_uid, self.inbound_port
            ),
            "call of the pod to itself, to the inbound proxy",
        );
        for owner in self.owners() {
            rules.add(CHAIN, format!("{owner} -j RETURN"), "traffic of the proxy");
        }
        for name in &self.exclude_interfaces {
            rules.add(CHAIN, format!("-o {name} -j RETURN"), "excluded interface");
        }
        rules.leave_link_local(CHAIN);
        if self.dns_port.is_some() {
            rules.add(CHAIN, "-p tcp --dport 53 -j WEFT_DNS", "DNS over TCP");
        }
        rules.add(CHAIN, format!("-d {loopback} -j RETURN"), "loopback");
        for port in self.never() {
            rules.add(CHAIN, format!("-o lo -p tcp --dport {port} -j RETURN"), "port of the proxy itself");
        }
        for range in &self.exclude_outbound_ports {
            rules.add(CHAIN, format!("-p tcp --dport {range} -j RETURN"), "excluded outbound port");
        }
        for net in of_family(&self.exclude_outbound_cidrs, rules.family) {
            rules.add(CHAIN, format!("-d {net} -j RETURN"), "excluded destination");
        }
        for range in &self.include_outbound_ports {
            rules.add(CHAIN, format!("-p tcp --dport {range} -j WEFT_CAPTURE"), "included outbound port");
        }
        if self.include_outbound_ports.is_empty() {
            rules.add(CHAIN, "-j WEFT_CAPTURE", "every other port");
        }
    }

    fn capture(&self, rules: &mut Rules) {
        let to = format!("-p tcp -j REDIRECT --to-ports {}", self.outbound_port);
        for net in of_family(&self.include_outbound_cidrs, rules.family) {
            rules.add(
                "WEFT_CAPTURE",
                format!("-d {net} {to}"),
                "included destination, to the outbound proxy",
            );
        }
        if self.include_outbound_cidrs.is_empty() {
            rules.add("WEFT_CAPTURE", to, "to the outbound proxy");
        } else {
            // Also keeps the chain, which is jumped to, when no included destination is of this family.
            rules.add("WEFT_CAPTURE", "-j RETURN", "any other destination");
        }
    }

    fn dns(&self, rules: &mut Rules) {
        let Some(port) = self.dns_port else { return };
        for owner in self.owners() {
            rules.add("WEFT_DNS", format!("{owner} -j RETURN"), "queries of the proxy");
        }
        for name in &self.exclude_interfaces {
            rules.add("WEFT_DNS", format!("-o {name} -j RETURN"), "excluded interface");
        }
        rules.leave_link_local("WEFT_DNS");
        for protocol in ["udp", "tcp"] {
            let text = format!("-p {protocol} --dport 53 -j REDIRECT --to-ports {port}");
            rules.add("WEFT_DNS", text, "query, to the DNS proxy");
        }
    }

    /// The matches for processes whose traffic is left alone.
    fn owners(&self) -> Vec<String> {
        let uids = std::iter::once(&self.proxy_uid).chain(&self.exclude_uids);
        let mut owners: Vec<String> = uids.map(|uid| format!("-m owner --uid-owner {uid}")).collect();
        owners.extend(self.proxy_gid.map(|gid| format!("-m owner --gid-owner {gid}")));
        owners
    }
}

fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = &IpNet> {
    nets.iter().filter(move |net| family.has(net.addr()))
}

struct Rules {
    family: Family,
    list: Vec<Rule>,
}

impl Rules {
    fn add(&mut self, chain: &'static str, text: impl Into<String>, comment: &'static str) {
        self.list.push(Rule { chain, text: text.into(), comment });
    }

    /// What goes to an address that is good on one link is not captured. Its socket is bound to the device of that link, and
    /// takes no packet from a listener on loopback: the kernel drops the connection that a rule has redirected.
    fn leave_link_local(&mut self, chain: &'static str) {
        if self.family == Family::V6 {
            self.add(chain, "-d fe80::/10 -j RETURN", "link-local destination");
        }
    }

    fn loopback(&self) -> &'static str {
        if self.family == Family::V4 { "127.0.0.0/8" } else { "::1/128" }
    }

    fn loopback_address(&self) -> &'static str {
        if self.family == Family::V4 { "127.0.0.1/32" } else { "::1/128" }
    }
}

impl Jump {
    fn text(&self) -> String {
        let Self { from, matches, to, .. } = self;
        format!("{from} {matches} -m comment --comment \"weft: interception\" -j {to}")
    }
}

fn chains(table: &str) -> impl Iterator<Item = &'static str> {
    CHAINS.into_iter().filter(move |(of, _)| *of == table).map(|(_, chain)| chain)
}

/// What a namespace has of ours, read from the output of `iptables-save`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// Table, then the line.
    lines: Vec<(String, String)>,
}

impl Present {
    pub(crate) fn read(saved: &str) -> Self {
        let mut table = "";
        let mut lines = Vec::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim();
            } else if line.contains("WEFT_") {
                lines.push((table.to_owned(), line.to_owned()));
            }
        }
        Self { lines }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn has_chain(&self, chain: &str) -> bool {
        self.lines
            .iter()
            .any(|(_, line)| line.strip_prefix(':').is_some_and(|l| l.split(' ').next() == Some(chain)))
    }

    /// How often `jump` is there.
    pub(crate) fn jumps(&self, jump: &Jump) -> usize {
        let (from, to) = (format!("-A {} ", jump.from), format!("-j {}", jump.to));
        let is = |line: &str| line.starts_with(&from) && line.ends_with(&to);
        self.lines.iter().filter(|(table, line)| table == jump.table && is(line)).count()
    }

    /// The comments of the rules of `chain`, in order.
    pub(crate) fn comments(&self, chain: &str) -> Vec<&str> {
        let own = format!("-A {chain} ");
        let rules = self.lines.iter().filter(|(_, line)| line.starts_with(&own));
        rules
            .map(|(_, line)| line.split("\"weft: ").nth(1).and_then(|c| c.split('"').next()).unwrap_or(""))
            .collect()
    }

    /// The input that removes all of it.
    pub(crate) fn removal(&self) -> String {
        let mut input = String::new();
        for table in TABLES {
            let chains: Vec<&str> = chains(table).filter(|chain| self.has_chain(chain)).collect();
            if chains.is_empty() {
                continue;
            }
            let _ = writeln!(input, "*{table}");
            for jump in JUMPS.iter().filter(|jump| jump.table == table) {
                for _ in 0..self.jumps(jump) {
                    let _ = writeln!(input, "-D {}", jump.text());
                }
            }
            for chain in &chains {
                let _ = writeln!(input, "-F {chain}");
            }
            for chain in &chains {
                let _ = writeln!(input, "-X {chain}");
            }
            input.push_str("COMMIT\n");
        }
        input
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
