use proptest::prelude::*;

use super::*;
use crate::config::PortRange;

/// The whole of the default rules for IPv4: a change to any rule is a change to this text, on purpose.
const DEFAULT_V4: &str = include_str!("../tests/default-v4.rules");
const EVERYTHING_V6: &str = include_str!("../tests/everything-v6.rules");

fn everything() -> InterceptConfig {
    InterceptConfig {
        proxy_gid: Some(2102),
        exclude_uids: vec![101],
        exclude_inbound_ports: vec![9090.into()],
        include_inbound_ports: vec![80.into(), PortRange { first: 8000, last: 8100 }],
        exclude_outbound_ports: vec![25.into()],
        include_outbound_ports: vec![80.into()],
        include_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        exclude_outbound_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/16".parse().unwrap()],
        exclude_interfaces: vec!["eth1".to_owned()],
        ..InterceptConfig::default()
    }
}

#[test]
fn the_rules_are_these() {
    assert_eq!(InterceptConfig::default().render(Family::V4), DEFAULT_V4);
    assert_eq!(everything().render(Family::V6), EVERYTHING_V6);
}

/// What is exempt at the pod's addresses is where the proxy is: on any other port an application would be open around it.
#[test]
fn ports_that_the_proxy_has_on_loopback_alone_are_captured() {
    for family in [Family::V4, Family::V6] {
        let rules = InterceptConfig::default().rules(family, true);
        let exempt = |chain| -> Vec<String> {
            let returned =
                rules.iter().filter(|rule| rule.chain == chain && rule.text.ends_with("-j RETURN"));
            returned
                .filter_map(|r| r.text.split("--dport ").nth(1)?.split(' ').next().map(str::to_owned))
                .collect()
        };
        for chain in ["WEFT_INBOUND", "WEFT_OUTBOUND"] {
            assert_eq!(exempt(chain), ["15006", "15020", "15021"], "{family} {chain}");
        }
    }
    let moved = InterceptConfig { inbound_port: 7, open_ports: vec![9, 8], ..InterceptConfig::default() };
    assert_eq!(moved.never(), [7, 8, 9], "what is given takes the place of the defaults");
}

#[test]
fn a_family_without_an_included_destination_captures_nothing() {
    let config = InterceptConfig {
        include_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
        ..InterceptConfig::default()
    };
    let rules = config.rules(Family::V6, true);
    let capture: Vec<&str> =
        rules.iter().filter(|r| r.chain == "WEFT_CAPTURE").map(|r| r.text.as_str()).collect();
    assert_eq!(capture, ["-j RETURN"]);
}

#[test]
fn without_dns_nothing_of_it_is_left() {
    let config = InterceptConfig { dns_port: None, ..InterceptConfig::default() };
    let fresh = config.render(Family::V4);
    assert!(
        !fresh.contains("*raw") && !fresh.contains("--dport 53 ") && !fresh.contains("WEFT_DNS"),
        "{fresh}"
    );
    // Over rules that had it, what is no longer wanted goes.
    let saved = "*raw\n:WEFT_ZONE_IN - [0:0]\n-A PREROUTING -p udp -m comment --comment \"weft: interception\" -j WEFT_ZONE_IN\nCOMMIT\n";
    let over = config.render_over(Family::V4, true, &Present::read(saved));
    let raw = over.split("*nat").next().unwrap();
    assert_eq!(
        raw,
        "*raw\n:WEFT_ZONE_IN - [0:0]\n-D PREROUTING -p udp -m comment --comment \"weft: interception\" -j WEFT_ZONE_IN\n-X WEFT_ZONE_IN\nCOMMIT\n"
    );
}

#[test]
fn jumps_that_are_there_are_replaced_however_many() {
    let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n:WEFT_OUTBOUND - [0:0]\n\
                 -A OUTPUT -p tcp -m comment --comment \"weft: interception\" -j WEFT_OUTBOUND\n\
                 -A OUTPUT -p tcp -j OTHER\n\
                 -A OUTPUT -p tcp -m comment --comment \"weft: interception\" -j WEFT_OUTBOUND\nCOMMIT\n";
    let over = InterceptConfig::default().render_over(Family::V4, true, &Present::read(saved));
    let count = |what: &str| {
        over.lines().filter(|line| line.starts_with(what) && line.ends_with("-j WEFT_OUTBOUND")).count()
    };
    assert_eq!((count("-D OUTPUT"), count("-I OUTPUT")), (2, 1));
    assert!(!over.contains("OTHER"));
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (1u16..=u16::MAX, 0u16..100)
        .prop_map(|(first, more)| PortRange { first, last: first.saturating_add(more) });
    proptest::collection::vec(range, 0..4)
}

#[test]
fn what_goes_to_a_link_local_address_is_left_alone_before_anything_is_captured() {
    for (family, expected) in [(Family::V4, 0), (Family::V6, 2)] {
        let rules = InterceptConfig::default().rules(family, true);
        let returns: Vec<_> = rules.iter().filter(|rule| rule.text == "-d fe80::/10 -j RETURN").collect();
        assert_eq!(returns.len(), expected);
        for own in returns {
            let of_chain = || rules.iter().filter(|rule| rule.chain == own.chain);
            let at = of_chain().position(|rule| rule.text == own.text);
            let dns = of_chain().position(|rule| rule.text.contains("--dport 53"));
            assert!(at < dns, "{}", own.chain);
        }
    }
}

proptest! {
    /// Whatever the options: each chain that is jumped to is declared, each rule has a comment, and the proxy's own
    /// traffic returns before anything is captured (but for the self-call, which only loopback sources meet).
    #[test]
    fn every_rule_set_is_whole(
        include_in in ports(), exclude_in in ports(), include_out in ports(), exclude_out in ports(),
        dns in any::<bool>(), gid in proptest::option::of(1u32..9999), v4 in any::<bool>(), zones in any::<bool>(),
    ) {
        let config = InterceptConfig {
            include_inbound_ports: include_in,
            exclude_inbound_ports: exclude_in,
            include_outbound_ports: include_out,
            exclude_outbound_ports: exclude_out,
            dns_port: dns.then_some(15053),
            proxy_gid: gid,
            ..InterceptConfig::default()
        };
        let family = if v4 { Family::V4 } else { Family::V6 };
        let text = config.render_over(family, zones, &Present::default());
        for line in text.lines().filter(|line| line.starts_with("-A") || line.starts_with("-I")) {
            prop_assert!(line.contains("-m comment --comment \"weft: "), "{}", line);
            if let Some(chain) = line.split("-j WEFT_").nth(1) {
                let chain = chain.split(' ').next().unwrap_or("");
                let declared = format!(":WEFT_{chain} - [0:0]\n");
                prop_assert!(text.contains(&declared), "{}", line);
            }
        }
        let out: Vec<&str> = text.lines().filter(|line| line.starts_with("-A WEFT_OUTBOUND")).collect();
        prop_assert!(out[0].contains("-o lo -s ") && out[0].contains("--uid-owner 2102"));
        prop_assert!(out[1].contains("--uid-owner 2102 -j RETURN"));
        prop_assert_eq!(text.matches("*nat\n").count(), 1);
        prop_assert!(text.ends_with("COMMIT\n"));
    }
}
