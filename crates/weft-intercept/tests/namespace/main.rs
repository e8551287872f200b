//! The rules in a real network namespace, with real connections.
//!
//! A test makes a namespace of its own that stands for a pod, joined by a veth pair to a second one that stands for the
//! network, and enters it with a thread: network namespaces, like user ids on Linux, are a thread's. It needs root (or
//! CAP_SYS_ADMIN and CAP_NET_ADMIN), ip and iptables; without them it says so and is skipped.

mod pod;
mod ways;

use std::net::UdpSocket;

use weft_intercept::{
    Backend, BackendChoice, Families, Family, Host, InterceptConfig, InterceptError, install, remove, verify,
    verify_installed,
};

use pod::{Pod, WAIT, as_user, backends, host, reach, reach_from, serve, sh};

#[test]
fn traffic_is_captured_returned_and_excluded_as_the_rules_say() {
    for backend in backends() {
        let Some(pod) = Pod::new() else { return };
        pod.outside(|| {
            for port in [80, 25, 15020, 443] {
                serve(&format!("[::]:{port}"));
            }
        });
        pod.run(|| {
            // The proxy's ports as the proxy binds them, and an application.
            for addr in
                ["127.0.0.1:15001", "[::1]:15001", "[::]:15006", "[::]:15020", "[::]:8080", "[::]:9090"]
            {
                serve(addr);
            }
            let config = InterceptConfig {
                exclude_outbound_ports: vec![25.into()],
                exclude_outbound_cidrs: vec!["10.9.0.3/32".parse().unwrap()],
                exclude_inbound_ports: vec![9090.into()],
                ..InterceptConfig::default()
            };
            let report = install(&config, &host(backend)).unwrap();
            assert_eq!(report.families, [(Family::V4, backend), (Family::V6, backend)]);
            assert!(report.notices.is_empty(), "{report:?}");

            // Outbound: the application's connections, wherever they go.
            assert_eq!(reach("10.9.0.1:80"), Some(15001), "{backend}");
            assert_eq!(reach("[fd00:9::1]:80"), Some(15001), "{backend}");
            assert_eq!(reach("10.9.0.2:8080"), Some(15001), "the pod's own address is a service too");
            assert_eq!(reach("[fd00:9::2]:8080"), Some(15001));
            // Returned: loopback, exclusions, the proxy's own ports, the proxy itself.
            assert_eq!(reach("127.0.0.1:8080"), Some(8080));
            assert_eq!(reach("[::1]:8080"), Some(8080));
            assert_eq!(reach("10.9.0.1:25"), Some(25));
            assert_eq!(reach("10.9.0.3:443"), Some(443));
            assert_eq!(reach("10.9.0.2:15020"), Some(15020));
            assert_eq!(reach("10.9.0.1:15020"), Some(15001), "another pod's port is not ours");
            as_user(2102, || {
                assert_eq!(reach("10.9.0.1:80"), Some(80));
                assert_eq!(reach("[fd00:9::1]:80"), Some(80));
                assert_eq!(reach("10.9.0.2:8080"), Some(8080), "the inbound proxy reaches its application");
                // The self-call.
                assert_eq!(reach_from(Some("127.0.0.1"), "10.9.0.2:8080"), Some(15006));
                assert_eq!(reach_from(Some("::1"), "[fd00:9::2]:8080"), Some(15006));
                assert_eq!(reach_from(Some("127.0.0.1"), "127.0.0.1:8080"), Some(8080));
            });
        });
        // Inbound.
        pod.outside(|| {
            assert_eq!(reach("10.9.0.2:8080"), Some(15006), "{backend}");
            assert_eq!(reach("[fd00:9::2]:8080"), Some(15006), "{backend}");
            assert_eq!(reach("10.9.0.2:7777"), Some(15006), "a port where nobody listens as well");
            assert_eq!(reach("10.9.0.2:9090"), Some(9090));
            assert_eq!(reach("10.9.0.2:15020"), Some(15020));
        });
    }
}

#[test]
fn twice_is_once_and_removed_is_nothing() {
    for backend in backends() {
        let Some(pod) = Pod::new() else { return };
        let before = pod.rules();
        let config = InterceptConfig::default();
        let install_here =
            |config: &InterceptConfig| pod.run(|| install(config, &host(backend)).map(drop).unwrap());
        install_here(&config);
        let once = pod.rules();
        assert!(once.contains("WEFT_INBOUND") && once.contains("CT --zone 2"), "{once}");
        install_here(&config);
        assert_eq!(pod.rules(), once);
        // Other options and back leave no trace either.
        install_here(&InterceptConfig {
            dns_port: None,
            exclude_inbound_ports: vec![1.into()],
            ..config.clone()
        });
        assert_ne!(pod.rules(), once);
        install_here(&config);
        assert_eq!(pod.rules(), once);
        // The other backend takes over instead of standing beside.
        let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
        pod.run(|| install(&config, &host(other)).map(drop).unwrap());
        assert_eq!(pod.rules().matches("-j WEFT_INBOUND").count(), 2, "one for each family");
        pod.run(|| remove(&host(backend)).map(drop).unwrap());
        let left: Vec<String> =
            pod.rules().lines().filter(|l| !l.starts_with('*')).map(str::to_owned).collect();
        assert_eq!(left.join("\n"), before.replace('*', ""));
        pod.run(|| assert!(remove(&host(backend)).unwrap().families.is_empty(), "nothing is left to remove"));
    }
}

#[test]
fn rules_of_others_stay() {
    let Some(pod) = Pod::new() else { return };
    sh(&format!(
        "ip netns exec {0} iptables-nft -t nat -A OUTPUT -p tcp --dport 1 -j RETURN; ip netns exec {0} iptables-nft -A INPUT -p icmp -j DROP",
        pod.ns()
    ));
    let before = pod.rules();
    pod.run(|| {
        let host = Host::detect(Families::Auto, BackendChoice::Auto).unwrap();
        install(&InterceptConfig::default(), &host).unwrap();
        verify_installed(&InterceptConfig::default(), &host).unwrap();
        remove(&host).unwrap();
    });
    let kept =
        |text: &str| text.lines().filter(|l| l.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(kept(&pod.rules()), kept(&before));
}

#[test]
fn the_backend_that_has_rules_is_taken() {
    for backend in backends() {
        let Some(pod) = Pod::new() else { return };
        sh(&format!(
            "ip netns exec {} iptables-{backend} -t nat -A OUTPUT -p tcp --dport 1 -j RETURN",
            pod.ns()
        ));
        pod.run(|| {
            let host = Host::detect(Families::V4, BackendChoice::Auto).unwrap();
            assert_eq!(
                install(&InterceptConfig::default(), &host).unwrap().families,
                [(Family::V4, backend)]
            );
        });
    }
}

#[test]
fn the_self_test_passes_with_the_rules_and_fails_without_any_one_of_them() {
    for backend in backends() {
        let Some(pod) = Pod::new() else { return };
        let config = InterceptConfig::default();
        pod.run(|| {
            let host = host(backend);
            assert!(matches!(verify(&config, &host), Err(InterceptError::NotInstalled { .. })));
            install(&config, &host).unwrap();
            let report = verify(&config, &host).unwrap();
            assert!(report.notices.is_empty(), "{report:?}");
            // Twice, since the first leaves conntrack entries.
            verify(&config, &host).unwrap();
        });
        // Rules that look right but do not work: an earlier rule of someone else takes the traffic away.
        for (family, taken, what) in [
            ("iptables", "-p tcp --dport 65535 -j ACCEPT", "IPv4 outbound"),
            ("ip6tables", "-p tcp --dport 65535 -j ACCEPT", "IPv6 outbound"),
            ("iptables", "-p udp --dport 53 -j ACCEPT", "IPv4 DNS over UDP"),
            ("ip6tables", "-p tcp --dport 53 -j ACCEPT", "IPv6 DNS over TCP"),
            ("iptables", "-p tcp -s 127.0.0.1 ! -d 127.0.0.0/8 -j ACCEPT", "IPv4 call of the pod to itself"),
        ] {
            let rule = |verb: &str| {
                sh(&format!("ip netns exec {} {family}-{backend} -t nat {verb} OUTPUT {taken}", pod.ns()))
            };
            rule("-I");
            let failed = pod.run(|| verify(&config, &host(backend)).unwrap_err().to_string());
            assert!(failed.contains(&format!("self-test, {what}:")), "{failed}");
            rule("-D");
        }
        pod.run(|| verify(&config, &host(backend)).map(drop).unwrap());
    }
}

#[test]
fn a_jump_that_is_missing_or_double_is_found() {
    let Some(pod) = Pod::new() else { return };
    let config = InterceptConfig::default();
    let jump = "PREROUTING -p tcp -m comment --comment \"weft: interception\" -j WEFT_INBOUND";
    pod.run(|| install(&config, &host(Backend::Nft)).map(drop).unwrap());
    let check = |verb: &str| {
        sh(&format!("ip netns exec {} iptables-nft -t nat {verb} {jump}", pod.ns()));
        pod.run(|| verify_installed(&config, &host(Backend::Nft)).map(drop).map_err(|e| e.to_string()))
    };
    assert!(check("-A").unwrap_err().contains("1 times, not 2"));
    check("-D").unwrap();
    assert!(check("-D").unwrap_err().contains("1 times, not 0"));
}

/// The case the zones are for: the proxy gets the port that a query of the application had before.
#[test]
fn a_reused_dns_port_does_not_come_back_to_the_proxy() {
    for backend in backends() {
        let Some(pod) = Pod::new() else { return };
        let server = pod.outside(|| UdpSocket::bind("10.9.0.1:53").unwrap());
        server.set_read_timeout(Some(WAIT)).unwrap();
        let asked = pod.run(|| {
            install(&InterceptConfig::default(), &host(backend)).unwrap();
            let proxy = as_user(2102, || UdpSocket::bind("127.0.0.1:15053").unwrap());
            proxy.set_read_timeout(Some(WAIT)).unwrap();
            let mut buffer = [0; 64];
            // The application asks and is answered; its socket goes, the conntrack entry stays.
            let app = UdpSocket::bind("10.9.0.2:0").unwrap();
            app.set_read_timeout(Some(WAIT)).unwrap();
            let port = app.local_addr().unwrap().port();
            app.connect("10.9.0.1:53").unwrap();
            app.send(b"app").unwrap();
            let (_, from) = proxy.recv_from(&mut buffer).unwrap();
            proxy.send_to(b"answer", from).unwrap();
            assert_eq!(app.recv(&mut buffer).unwrap(), 6);
            drop(app);
            // The proxy asks the same server from the same port.
            let upstream = as_user(2102, || UdpSocket::bind(("10.9.0.2", port)).unwrap());
            upstream.set_read_timeout(Some(WAIT)).unwrap();
            upstream.connect("10.9.0.1:53").unwrap();
            upstream.send(b"proxy").unwrap();
            upstream
        });
        let mut buffer = [0; 64];
        let (read, from) = server.recv_from(&mut buffer).expect("the query of the proxy leaves the pod");
        assert_eq!(&buffer[..read], b"proxy", "{backend}");
        server.send_to(b"yes", from).unwrap();
        assert_eq!(asked.recv(&mut buffer).unwrap(), 3, "and its answer comes to the proxy");
    }
}

#[test]
fn without_a_capability_it_is_named() {
    let Some(pod) = Pod::new() else { return };
    pod.run(|| {
        // Another user id takes all effective capabilities away.
        let error =
            as_user(1000, || Host::detect(Families::V4, BackendChoice::Only(Backend::Legacy)).unwrap_err());
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}
