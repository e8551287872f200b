use proptest::prelude::*;

use super::*;

fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

fn spec(domains: &[&str]) -> MembershipSpec {
    MembershipSpec {
        trust_domain: "weft.local".parse().unwrap(),
        domains: domains.iter().map(|d| DomainPattern::parse(d, None).unwrap()).collect(),
        namespaces: None,
        exceptions: Vec::new(),
        cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        mode: MtlsMode::Strict,
        modes: Vec::new(),
        affinity: Vec::new(),
    }
}

const K8S: &[&str] =
    &["{service}.{namespace}.svc.cluster.local", "{pod}.{service}.{namespace}.svc.cluster.local"];

#[test]
fn a_name_gives_its_parts_and_the_rule_for_the_server() {
    let membership = Membership::new(spec(K8S));
    let orders = name("orders.shop.svc.cluster.local");
    let NameVerdict::Mesh { service, pod, namespace, mode, peer, .. } = membership.of_name(&orders) else {
        panic!("in the mesh")
    };
    assert_eq!((service, pod, namespace.as_str(), mode), ("orders", None, "shop", MtlsMode::Strict.into()));
    assert_eq!(peer.to_string(), "spiffe://weft.local/ns/shop/sa/*");

    let pod_name = name("redis-0.redis.data.svc.cluster.local");
    let NameVerdict::Mesh { service, pod, namespace, .. } = membership.of_name(&pod_name) else {
        panic!("in the mesh")
    };
    assert_eq!((service, pod, namespace.as_str()), ("redis", Some("redis-0"), "data"));
    for outside in ["orders.shop", "shop.svc.cluster.local", "a.b.c.d.svc.cluster.local", "example.com"] {
        assert_eq!(membership.of_name(&name(outside)), NameVerdict::Outside(Outside::NoDomain), "{outside}");
    }
}

#[test]
fn a_bound_pattern_gives_its_namespace_and_the_first_match_decides() {
    let mut spec = spec(&[]);
    spec.domains = vec![
        DomainPattern::parse("{service}.mesh", Some(ns("shop"))).unwrap(),
        DomainPattern::parse("{service}.{namespace}", None).unwrap(),
    ];
    let membership = Membership::new(spec);
    let namespace = |text: &str| match membership.of_name(&name(text)) {
        NameVerdict::Mesh { namespace, .. } => namespace.as_str().to_owned(),
        NameVerdict::Outside(_) => panic!("in the mesh"),
    };
    assert_eq!(namespace("orders.mesh"), "shop");
    assert_eq!(namespace("orders.other"), "other");
}

#[test]
fn namespaces_exceptions_and_modes() {
    let mut spec = spec(K8S);
    spec.namespaces = Some(vec![ns("shop"), ns("default")]);
    spec.exceptions = vec![
        "kubernetes.default.svc.cluster.local".parse().unwrap(),
        "*.db.shop.svc.cluster.local".parse().unwrap(),
    ];
    spec.modes = vec![
        ("legacy.shop.svc.cluster.local".parse().unwrap(), MtlsMode::Permissive.into()),
        ("*.default.svc.cluster.local".parse().unwrap(), MtlsMode::Disable.into()),
        ("*.svc.cluster.local".parse().unwrap(), MtlsMode::Permissive.into()),
        ("new.shop.svc.cluster.local".parse().unwrap(), MtlsMode::Strict.into()),
    ];
    let membership = Membership::new(spec);
    let outcome = |text: &str| match membership.of_name(&name(text)) {
        NameVerdict::Mesh { mode, .. } => Ok(mode.of_all()),
        NameVerdict::Outside(why) => Err(why),
    };
    assert_eq!(outcome("kubernetes.default.svc.cluster.local"), Err(Outside::Exception));
    assert_eq!(outcome("pg-0.db.shop.svc.cluster.local"), Err(Outside::Exception));
    assert_eq!(
        outcome("db.shop.svc.cluster.local"),
        Ok(MtlsMode::Permissive),
        "a suffix does not match itself"
    );
    assert_eq!(outcome("orders.other.svc.cluster.local"), Err(Outside::Namespace));
    assert_eq!(outcome("legacy.shop.svc.cluster.local"), Ok(MtlsMode::Permissive));
    assert_eq!(outcome("new.shop.svc.cluster.local"), Ok(MtlsMode::Strict), "the exact name wins");
    assert_eq!(outcome("web.default.svc.cluster.local"), Ok(MtlsMode::Disable), "the longest suffix wins");
}

#[test]
fn a_label_that_is_no_namespace_is_outside() {
    let membership = Membership::new(spec(K8S));
    let odd = name("a._tcp.svc.cluster.local");
    assert_eq!(membership.of_name(&odd), NameVerdict::Outside(Outside::Namespace));
}

#[test]
fn patterns_that_could_widen_the_mesh_are_refused() {
    let refused = |text: &str, bound: Option<&str>| DomainPattern::parse(text, bound.map(ns)).unwrap_err().0;
    assert!(refused("{service}.mesh", None).contains("any namespace"));
    assert!(refused("{service}.{namespace}.mesh", Some("shop")).contains("twice"));
    assert!(refused("{namespace}.mesh", None).contains("{service}"));
    assert!(refused("{service}.{service}.{namespace}", None).contains("twice"));
    assert!(refused("{service}.{team}.svc", None).contains("{team}"));
    assert!(refused("x-{service}.{namespace}.svc", None).contains("x-{service}"));
    assert!(refused("*.{namespace}.svc", None).contains("wildcard"));
    assert!(refused("{service}.{namespace}..svc", None).contains("label"));
    assert!(refused("", None).contains("label"));
}

#[test]
fn addresses() {
    let mut spec = spec(K8S);
    spec.cidrs = ["10.0.0.0/24", "10.0.0.128/25", "192.0.2.1/32", "fd00::/64", "0.0.0.0/0"][..4]
        .iter()
        .map(|net| (net.parse().unwrap(), MtlsMode::Strict))
        .collect();
    let membership = Membership::new(spec);
    for inside in ["10.0.0.0", "10.0.0.255", "192.0.2.1", "fd00::ffff", "::ffff:10.0.0.7"] {
        let AddrVerdict::Mesh { peer, .. } = membership.of_addr(inside.parse().unwrap()) else {
            panic!("{inside}")
        };
        assert_eq!(peer.namespace, None);
    }
    for outside in ["10.0.1.0", "9.255.255.255", "192.0.2.2", "fd00:0:0:1::", "::a00:0", "::"] {
        assert_eq!(membership.of_addr(outside.parse().unwrap()), AddrVerdict::Outside, "{outside}");
    }
}

#[test]
fn the_strictest_network_decides() {
    let mut spec = spec(K8S);
    let net = |text: &str, mode| (text.parse().unwrap(), mode);
    spec.cidrs = vec![
        net("10.0.0.0/8", MtlsMode::Disable),
        net("10.1.0.0/16", MtlsMode::Permissive),
        net("10.1.0.7/32", MtlsMode::Strict),
    ];
    let membership = Membership::new(spec);
    let mode = |ip: &str| match membership.of_addr(ip.parse().unwrap()) {
        AddrVerdict::Mesh { mode, .. } => Some(mode),
        AddrVerdict::Outside => None,
    };
    assert_eq!(mode("10.1.0.7"), Some(MtlsMode::Strict));
    assert_eq!(mode("10.1.0.8"), Some(MtlsMode::Permissive));
    assert_eq!(mode("10.2.0.8"), Some(MtlsMode::Disable));
    assert_eq!(mode("11.0.0.1"), None);
}

/// The naive model: a pattern against a name, as text.
fn naive(pattern: &str, name: &str) -> Option<String> {
    let (p, n): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), name.split('.').collect());
    if p.len() != n.len() || p.iter().zip(&n).any(|(p, n)| !p.starts_with('{') && p != n) {
        return None;
    }
    p.iter().zip(&n).find(|(p, _)| **p == "{namespace}").map(|(_, n)| (*n).to_owned())
}

fn labels() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]", 1..5).prop_map(|labels| labels.join("."))
}

fn patterns() -> impl Strategy<Value = String> {
    let label = || prop_oneof![Just("a".to_owned()), Just("b".to_owned())];
    (proptest::collection::vec(label(), 0..3), any::<prop::sample::Index>(), any::<prop::sample::Index>())
        .prop_map(|(mut labels, service, namespace)| {
            labels.insert(service.index(labels.len() + 1), "{service}".to_owned());
            labels.insert(namespace.index(labels.len() + 1), "{namespace}".to_owned());
            labels.join(".")
        })
}

proptest! {
    #[test]
    fn names_match_as_the_naive_model_says(
        patterns in proptest::collection::vec(patterns(), 0..4),
        namespaces in proptest::option::of(proptest::collection::vec("[ab]", 0..2)),
        exceptions in proptest::collection::vec((labels(), any::<bool>()), 0..3),
        modes in proptest::collection::vec((labels(), any::<bool>()), 0..3),
        dialed in labels(),
    ) {
        let texts: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let mut spec = spec(&texts);
        spec.namespaces = namespaces.as_ref().map(|list| list.iter().map(|n| ns(n)).collect());
        let written = |(n, below): &(String, bool)| if *below { format!("*.{n}") } else { n.clone() };
        let matches = |(n, below): &(String, bool)| if *below { dialed.ends_with(&format!(".{n}")) } else { dialed == *n };
        spec.exceptions = exceptions.iter().map(|e| written(e).parse().unwrap()).collect();
        spec.modes = modes.iter().map(|m| (written(m).parse().unwrap(), MtlsMode::Permissive.into())).collect();
        let membership = Membership::new(spec);

        let expected = match texts.iter().find_map(|p| naive(p, &dialed)) {
            None => Err(Outside::NoDomain),
            Some(_) if exceptions.iter().any(matches) => Err(Outside::Exception),
            Some(n) if namespaces.as_ref().is_some_and(|list| !list.contains(&n)) => Err(Outside::Namespace),
            Some(n) => Ok((n, if modes.iter().any(matches) { MtlsMode::Permissive } else { MtlsMode::Strict })),
        };
        let dialed = name(&dialed);
        let found = match membership.of_name(&dialed) {
            NameVerdict::Outside(why) => Err(why),
            NameVerdict::Mesh { namespace, mode, peer, .. } => {
                prop_assert_eq!(peer.namespace.as_ref(), Some(&namespace));
                Ok((namespace.as_str().to_owned(), mode.of_all()))
            }
        };
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn addresses_match_as_the_naive_model_says(
        nets in proptest::collection::vec((any::<u32>(), 0u8..=32, any::<u128>(), 0u8..=128, any::<bool>()), 0..6),
        near in any::<prop::sample::Index>(),
        delta in -1i64..=1,
        random in any::<u32>(),
        last in any::<bool>(),
    ) {
        let nets: Vec<IpNet> = nets
            .into_iter()
            .map(|(v4, p4, v6, p6, is4)| {
                let (ip, prefix): (IpAddr, u8) =
                    if is4 { (std::net::Ipv4Addr::from(v4).into(), p4) } else { (std::net::Ipv6Addr::from(v6).into(), p6) };
                IpNet::new(ip, prefix).unwrap().trunc()
            })
            .collect();
        // An address at the edge of one of the networks, where mistakes are, or else anywhere.
        let ip: IpAddr = if nets.is_empty() {
            std::net::Ipv4Addr::from(random).into()
        } else {
            let net = nets[near.index(nets.len())];
            match if last { net.broadcast() } else { net.network() } {
                IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip).wrapping_add(delta as u32)).into(),
                IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).wrapping_add(delta as u128)).into(),
            }
        };
        let mut spec = spec(K8S);
        spec.cidrs = nets.iter().map(|net| (*net, MtlsMode::Strict)).collect();
        let naive = nets.iter().any(|net| net.contains(&ip.to_canonical()));
        let found = Membership::new(spec).of_addr(ip) != AddrVerdict::Outside;
        prop_assert_eq!(found, naive, "{} in {:?}", ip, nets);
    }

    #[test]
    fn no_pattern_panics(text in any::<String>()) {
        let _ = DomainPattern::parse(&text, None);
        let _ = text.parse::<NamePattern>();
    }
}
