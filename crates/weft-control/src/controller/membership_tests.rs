use std::path::Path;

use proptest::prelude::*;
use weft_config::{AddrVerdict, Env, NameVerdict, Outside, ProxyConfig};
use weft_core::DnsName;

use super::super::budget::look;
use super::super::facts::{ConfigMapFacts, Inject, PodFacts, ServiceFacts};
use super::super::settings::{ControllerSettings, MeshSettings, PodCidrMode};
use super::super::world::tests::{Draft, no_change};
use super::*;

pub(crate) fn settings() -> Settings {
    Settings {
        trust_domain: "weft.local".parse().unwrap(),
        cluster_domain: "cluster.local".parse().unwrap(),
        namespace: "weft-system".parse().unwrap(),
        mesh: MeshSettings::default(),
        proxy: ProxySection::default(),
        controller: ControllerSettings::default(),
        injector: None,
    }
}

/// What proxies are told, with all the room that is asked for.
fn mesh(world: &World, settings: &Settings, modes: &Modes) -> Mesh {
    let mut mesh = frame(world, settings);
    fill(&mut mesh, (world, &look(world)), &settings.cluster_domain, modes, usize::MAX);
    mesh
}

fn read(text: &str) -> ProxyConfig {
    ProxyConfig::from_text(Path::new("weft.yaml"), text, &Env::empty())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// How a proxy with this text sees a name: its mode towards two addresses, or that it is outside.
fn towards(config: &ProxyConfig, name: &str, ips: [&str; 2]) -> Result<[MtlsMode; 2], Outside> {
    let name: DnsName = name.parse().unwrap();
    match config.snapshot.membership.of_name(&name) {
        NameVerdict::Mesh { mode, .. } => Ok(ips.map(|ip| mode.towards(ip.parse().unwrap()))),
        NameVerdict::Outside(why) => Err(why),
    }
}

fn half_moved() -> Draft {
    let disabled = |service: &mut ServiceFacts| service.mesh_disabled = true;
    Draft::default()
        .namespace("shop", Inject::Enabled, None)
        .namespace("data", Inject::Unsaid, Some(MtlsMode::Strict))
        .service("shop", "orders", no_change)
        .service("shop", "legacy", disabled)
        .service("shop", "partner", |service| service.kind = ServiceKind::External)
        .service("shop", "by-hand", |service| service.selector.clear())
        .service("shop", "plain", |service| service.mode = Some(MtlsMode::Disable))
        .service("shop", "peers", |service| {
            service.kind = ServiceKind::Headless;
            service.mesh_disabled = true;
        })
        .service("data", "db", no_change)
        .service("other", "web", no_change)
        .pod("shop", "orders", "10.244.0.7", true, |pod| pod.ips.push("fd00::7".parse().unwrap()))
        .pod("shop", "orders", "10.244.0.8", false, no_change)
        .pod("shop", "orders", "10.244.0.9", true, |pod| pod.ending = true)
        .pod("shop", "orders", "10.244.0.10", true, |pod| pod.mode = Some(MtlsMode::Disable))
        .pod("data", "db", "10.244.1.1", true, |pod: &mut PodFacts| pod.inject = Inject::Enabled)
        .node("n1", "10.244.0.0/24")
        .node("n2", "10.244.1.0/24")
}

#[test]
fn the_text_is_this_one() {
    let mesh = mesh(&half_moved().world(), &settings(), &Modes::default());
    let text = weft_yaml(&settings(), &mesh, MtlsMode::Permissive);
    let expected = r#"identity:
  trustDomain: weft.local
  ca: {address: "weft-ca.weft-system.svc.cluster.local:15012", serverId: "spiffe://weft.local/ns/weft-system/sa/weft-ca"}
mesh:
  domains: ["{service}.{namespace}.svc.cluster.local", "{pod}.{service}.{namespace}.svc.cluster.local"]
  namespaces: [data, shop]
  exceptions: ["*.peers.shop.svc.cluster.local", by-hand.shop.svc.cluster.local, kubernetes.default.svc.cluster.local, legacy.shop.svc.cluster.local, partner.shop.svc.cluster.local, peers.shop.svc.cluster.local]
  cidrs:
    - {cidr: 10.244.0.0/23, mode: permissive}
  modes:
    - {name: orders.shop.svc.cluster.local, mode: permissive, endpoints: &e0 [10.244.0.7, 10.244.0.9, "fd00::7"]}
    - {name: "*.orders.shop.svc.cluster.local", mode: permissive, endpoints: *e0 }
    - {name: plain.shop.svc.cluster.local, mode: disable}
    - {name: "*.plain.shop.svc.cluster.local", mode: disable}
inbound:
  mode: permissive
"#;
    let (comment, rest) = text.split_at(text.find("identity:").unwrap());
    assert!(comment.lines().all(|line| line.starts_with("# ")), "{comment}");
    assert_eq!(rest, expected);
}

#[test]
fn proxies_read_it_as_it_is_meant() {
    let mesh = mesh(&half_moved().world(), &settings(), &Modes::default());
    let config = read(&weft_yaml(&settings(), &mesh, MtlsMode::Permissive));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let (with, without) = ("10.244.0.7", "10.244.0.8");
    let mixed = Ok([MtlsMode::Strict, MtlsMode::Disable]);
    let domain = "svc.cluster.local";
    for name in ["orders.shop", "10-244-0-7.orders.shop"] {
        assert_eq!(towards(&config, &format!("{name}.{domain}"), [with, without]), mixed, "{name}");
        // One that is ending, and one whose sidecar passes mutual TLS on.
        let others = ["10.244.0.9", "10.244.0.10"];
        assert_eq!(towards(&config, &format!("{name}.{domain}"), others), mixed, "{name}");
        assert_eq!(towards(&config, &format!("{name}.{domain}"), ["fd00::7", without]), mixed, "{name}");
    }
    let of = |name: &str| towards(&config, &format!("{name}.{domain}"), [with, without]);
    // Its namespace refuses plaintext, and none of its pods is bare.
    assert_eq!(of("db.data"), Ok([MtlsMode::Strict; 2]));
    assert_eq!(of("plain.shop"), Ok([MtlsMode::Disable; 2]));
    for name in ["legacy.shop", "partner.shop", "by-hand.shop", "a.peers.shop", "kubernetes.default"] {
        assert_eq!(of(name), Err(Outside::Exception), "{name}");
    }
    assert_eq!(of("web.other"), Err(Outside::Namespace));
    assert_eq!(config.snapshot.inbound.mode, MtlsMode::Permissive);
    let AddrVerdict::Mesh { mode, .. } = config.snapshot.membership.of_addr("10.244.1.9".parse().unwrap())
    else {
        panic!("pods are in the mesh by address too");
    };
    assert_eq!(mode, MtlsMode::Permissive);
}

#[test]
fn a_mesh_that_has_moved_in_lists_nothing() {
    let all: BTreeSet<Key> = [Key::new("shop", "orders"), Key::new("data", "db")].into();
    let mut world = half_moved();
    world.0.services.remove(&Key::new("shop", "plain"));
    let mesh = mesh(&world.world(), &settings(), &Modes::remembering(all, BTreeSet::new()));
    assert!(mesh.modes.is_empty());
    let text = weft_yaml(&settings(), &mesh, MtlsMode::Strict);
    assert!(text.contains("  modes: []\n"), "{text}");
    assert_eq!(read(&text).snapshot.inbound.mode, MtlsMode::Strict);
}

#[test]
fn the_names_of_a_twin_have_the_mode_of_its_service() {
    let twin = |service: &mut ServiceFacts| {
        service.kind = ServiceKind::Headless;
        service.twin_of = Some("orders".to_owned());
        let owner = super::super::facts::Owner {
            kind: "Service".to_owned(),
            name: "orders".to_owned(),
            uid: "shop-orders".to_owned(),
        };
        service.owner = Some(owner);
    };
    let world = half_moved().service("shop", "orders-endpoints", twin).world();
    let mesh = mesh(&world, &settings(), &Modes::default());
    let config = read(&weft_yaml(&settings(), &mesh, MtlsMode::Permissive));
    for name in ["orders-endpoints.shop", "10-244-0-7.orders-endpoints.shop"] {
        let found = towards(&config, &format!("{name}.svc.cluster.local"), ["10.244.0.7", "10.244.0.8"]);
        assert_eq!(found, Ok([MtlsMode::Strict, MtlsMode::Disable]), "{name}");
    }
}

#[test]
fn settings_are_laid_over() {
    let text = "{inbound: {opaquePorts: [3306]}, timeouts: {connect: 2s}, log: 'info,weft=debug',
                 dns: {servers: ['10.0.0.10']}}";
    let mut settings = Settings { proxy: serde_saphyr::from_str(text).unwrap(), ..settings() };
    settings.mesh.pod_cidrs = vec!["fd00::/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    settings.mesh.pod_cidr_mode = PodCidrMode::Strict;
    let mesh = mesh(&half_moved().world(), &settings, &Modes::default());
    let text = weft_yaml(&settings, &mesh, MtlsMode::Permissive);
    assert!(
        text.contains("    - {cidr: 10.0.0.0/8, mode: strict}\n    - {cidr: \"fd00::/8\", mode: strict}\n"),
        "{text}"
    );
    let config = read(&text);
    assert_eq!(config.timeouts.connect, std::time::Duration::from_secs(2));
    assert!(config.snapshot.inbound.opaque_ports.contains(3306));
    assert_eq!(&*config.snapshot.log, "info,weft=debug");
}

#[test]
fn services_whose_clients_keep_their_endpoint_are_named() {
    let draft = half_moved().service("shop", "carts", |service| service.keeps_clients = true);
    let text =
        weft_yaml(&settings(), &mesh(&draft.world(), &settings(), &Modes::default()), MtlsMode::Strict);
    let config = read(&text);
    for (name, keeps) in [("carts.shop", true), ("orders.shop", false)] {
        let name: DnsName = format!("{name}.svc.cluster.local").parse().unwrap();
        let verdict = config.snapshot.membership.of_name(&name);
        assert!(matches!(verdict, NameVerdict::Mesh { affinity, .. } if affinity == keeps), "{text}");
    }
}

#[test]
fn the_networks_of_services_come_from_the_cluster_or_by_hand() {
    let world =
        half_moved().service_cidr("kubernetes", "10.96.0.0/16").service_cidr("more", "fd00:10::/108").world();
    let text = weft_yaml(&settings(), &mesh(&world, &settings(), &Modes::default()), MtlsMode::Strict);
    assert!(text.contains("  serviceCidrs: [10.96.0.0/16, \"fd00:10::/108\"]\n"), "{text}");
    let has = |text: &str, ip: &str| read(text).snapshot.membership.is_service_range(ip.parse().unwrap());
    assert!(has(&text, "10.96.0.9") && has(&text, "fd00:10::9") && !has(&text, "10.0.0.9"), "{text}");
    let mut by_hand = settings();
    by_hand.mesh.service_cidrs = vec!["10.0.0.0/24".parse().unwrap()];
    let text = weft_yaml(&by_hand, &mesh(&world, &by_hand, &Modes::default()), MtlsMode::Strict);
    assert!(has(&text, "10.0.0.9") && !has(&text, "10.96.0.9"), "{text}");
    // A cluster that does not tell: proxies of an older version can read the text.
    let text = weft_yaml(
        &settings(),
        &mesh(&half_moved().world(), &settings(), &Modes::default()),
        MtlsMode::Strict,
    );
    assert!(!text.contains("serviceCidrs"), "{text}");
}

/// 2,600 annotated Services of one namespace stopped the membership of the whole cluster.
#[test]
fn a_namespace_has_its_share_of_the_text_and_clients_are_strict_towards_the_rest() {
    let mut draft = half_moved().namespace("greedy", Inject::Enabled, None);
    for number in 0..1_900 {
        draft = draft.service("greedy", &format!("a-service-with-number-{number:04}"), |service| {
            service.mode = Some(MtlsMode::Disable);
            service.created = number;
        });
    }
    let in_already = ConfigMapFacts { labelled: true, ..ConfigMapFacts::default() };
    draft.0.meshes.insert(Key::new("greedy", MESH_CONFIG), in_already.into());
    let world = draft.world();
    let fill_in = |room| {
        let mut mesh = frame(&world, &settings());
        let held =
            fill(&mut mesh, (&world, &look(&world)), &settings().cluster_domain, &Modes::default(), room);
        let text = weft_yaml(&settings(), &mesh, MtlsMode::Permissive);
        (text, held)
    };
    let (text, held) = fill_in(900_000);
    assert!(text.len() < OCTETS + 10_000, "{}", text.len());
    assert_eq!(held.namespaces().collect::<Vec<_>>(), ["greedy"]);
    let config = read(&text);
    let of = |name: &str| towards(&config, &format!("{name}.svc.cluster.local"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(of("a-service-with-number-0000.greedy"), Ok([MtlsMode::Disable; 2]));
    assert_eq!(of("a-service-with-number-1899.greedy"), Ok([MtlsMode::Strict; 2]));
    assert_eq!(of("plain.shop"), Ok([MtlsMode::Disable; 2]));
    assert_eq!(of("partner.shop"), Err(Outside::Exception));
}

/// Who labels a large cluster at once makes nothing unreachable: what does not fit is called as before.
#[test]
fn a_namespace_joins_when_all_of_it_fits_and_does_not_go_out_again() {
    let draft = || {
        let mut draft = Draft::default();
        for (namespace, services) in [("a", 40), ("b", 80), ("c", 20)] {
            draft = draft.namespace(namespace, Inject::Enabled, None);
            for number in 0..services {
                draft = draft.service(namespace, &format!("s{number}"), no_change);
            }
        }
        draft
    };
    let fill_in = |draft: Draft, modes: &Modes| {
        let world = draft.world();
        let mut mesh = frame(&world, &settings());
        let held = fill(&mut mesh, (&world, &look(&world)), &settings().cluster_domain, modes, 20_000);
        read(&weft_yaml(&settings(), &mesh, MtlsMode::Permissive));
        (mesh.namespaces.into_iter().collect::<Vec<_>>(), held)
    };
    let (members, held) = fill_in(draft(), &Modes::default());
    assert_eq!(members, ["a", "c"]);
    assert_eq!((held.counts()["waits"], held.counts()["octets"]), (80, 0));
    // The annotation says so, and by it the next pass knows that it is not in.
    let mut waiting = draft();
    let held = held.told("b");
    let map = ConfigMapFacts { labelled: true, held, ..ConfigMapFacts::default() };
    waiting.0.meshes.insert(Key::new("b", MESH_CONFIG), map.into());
    assert_eq!(fill_in(waiting, &Modes::default()).0, ["a", "c"]);
    // One that is in stays in, and the others wait for it.
    let mut inside = draft();
    let map = ConfigMapFacts { labelled: true, ..ConfigMapFacts::default() };
    inside.0.meshes.insert(Key::new("b", MESH_CONFIG), map.into());
    let (members, held) = fill_in(inside, &Modes::default());
    assert_eq!(members, ["b", "c"]);
    assert_eq!(held.counts()["octets"], 0);
    // What is strict is never called in plaintext for want of room.
    let modes = Modes::remembering([Key::new("b", "s1")].into(), BTreeSet::new());
    assert!(fill_in(draft(), &modes).0.contains(&"b".to_owned()));
}

#[test]
fn a_name_that_no_proxy_could_read_is_held_back_alone() {
    let long = "x".repeat(64);
    let world = half_moved().service("shop", &long, |service| service.mode = Some(MtlsMode::Disable)).world();
    let mut mesh = frame(&world, &settings());
    let held =
        fill(&mut mesh, (&world, &look(&world)), &settings().cluster_domain, &Modes::default(), usize::MAX);
    assert_eq!(held.counts()["name"], 1);
    read(&weft_yaml(&settings(), &mesh, MtlsMode::Permissive));
    assert!(mesh.modes.contains_key("plain.shop"));
}

#[test]
fn names_that_yaml_would_take_for_something_else_are_quoted() {
    for name in ["null", "true", "1e3", "123", "0x1f", "no", "y"] {
        let world = Draft::default()
            .namespace(name, Inject::Enabled, None)
            .service(name, "off", no_change)
            .pod(name, "off", "10.0.0.1", false, no_change)
            .world();
        let mesh = mesh(&world, &settings(), &Modes::default());
        let config = read(&weft_yaml(&settings(), &mesh, MtlsMode::Permissive));
        let found = towards(&config, &format!("off.{name}.svc.cluster.local"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(found, Ok([MtlsMode::Disable; 2]), "{name}");
    }
}

/// A cluster in the middle of moving in: 1,000 Services with 5,000 pods.
#[test]
fn a_large_mesh_in_the_middle_of_moving_fits_and_is_read() {
    let mut draft = Draft::default();
    for namespace in 0..20 {
        let name = format!("team-{namespace}");
        draft = draft.namespace(&name, Inject::Enabled, None);
        for service in 0..50 {
            let app = format!("service-{service}");
            draft = draft.service(&name, &app, no_change);
            for pod in 0..5 {
                let ip = format!("10.{}.{}.{pod}", 100 + namespace, service);
                draft = draft.pod(&name, &app, &ip, pod > 0, no_change);
            }
        }
    }
    let mesh = mesh(&draft.world(), &settings(), &Modes::default());
    let text = weft_yaml(&settings(), &mesh, MtlsMode::Permissive);
    assert!(text.len() < 400_000, "{}", text.len());
    let config = read(&text);
    let found = towards(&config, "service-7.team-3.svc.cluster.local", ["10.103.7.1", "10.103.7.0"]);
    assert_eq!(found, Ok([MtlsMode::Strict, MtlsMode::Disable]));
}

proptest! {
    /// What is reckoned before is never less than what is written then.
    #[test]
    fn the_text_has_no_more_octets_than_were_reckoned(
        services in proptest::collection::vec((0usize..3, "[a-z]{1,40}", 0u8..6), 1..30),
        domain in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}",
    ) {
        let mut draft = Draft::default().namespace("shop", Inject::Enabled, None);
        for (number, (kind, name, pods)) in services.iter().enumerate() {
            draft = draft.service("shop", name, |service| match kind {
                0 => service.mesh_disabled = true,
                1 => service.mode = Some(MtlsMode::Disable),
                _ => {}
            });
            for pod in 0..*pods {
                let long = format!("2001:db8:1234:5678:9abc:def0:{:x}:{pod}fff", 0x1000 + number);
                draft = draft.pod("shop", name, &format!("192.168.{}.{}", 100 + number, 200 + pod), pod > 0, |facts| {
                    facts.ips.push(long.parse().unwrap());
                });
            }
        }
        let (world, settings) = (draft.world(), Settings { cluster_domain: domain.parse().unwrap(), ..settings() });
        let (looks, modes) = (look(&world), Modes::default());
        let reckoned: usize =
            pieces(&world, &looks, &modes).map(|piece| piece.octets(&settings.cluster_domain)).sum();
        let mut mesh = frame(&world, &settings);
        let frame = weft_yaml(&settings, &mesh, MtlsMode::Permissive).len();
        fill(&mut mesh, (&world, &looks), &settings.cluster_domain, &modes, usize::MAX);
        let text = weft_yaml(&settings, &mesh, MtlsMode::Permissive);
        prop_assert!(text.len() <= frame + reckoned, "{} > {frame} + {reckoned}", text.len());
    }

    /// Whatever the pods: proxies read the text, use mutual TLS exactly towards pods with a sidecar, also while they
    /// are ending, and the text does not depend on the order in which things were seen.
    #[test]
    fn mutual_tls_goes_exactly_to_sidecars(
        pods in proptest::collection::btree_map(1u8..250, (any::<bool>(), any::<bool>(), any::<bool>()), 1..20),
    ) {
        let made = |backwards: bool| {
            let mut draft = Draft::default()
                .namespace("shop", Inject::Enabled, None)
                .service("shop", "orders", no_change);
            let mut list: Vec<_> = pods.iter().collect();
            if backwards {
                list.reverse();
            }
            for (ip, (injected, ending, finished)) in list {
                draft = draft.pod("shop", "orders", &format!("10.0.0.{ip}"), *injected, |pod| {
                    pod.ending = *ending;
                    pod.finished = *finished;
                });
            }
            weft_yaml(&settings(), &mesh(&draft.world(), &settings(), &Modes::default()), MtlsMode::Permissive)
        };
        let text = made(false);
        prop_assert_eq!(&text, &made(true));
        let config = read(&text);
        for (ip, (injected, _, finished)) in &pods {
            let ip = format!("10.0.0.{ip}");
            let [mode, _] = towards(&config, "orders.shop.svc.cluster.local", [&ip, &ip]).unwrap();
            let expected = if *injected && !finished { MtlsMode::Strict } else { MtlsMode::Disable };
            prop_assert_eq!(mode, expected);
        }
    }
}
