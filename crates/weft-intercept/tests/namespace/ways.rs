//! Every way by which bytes can come to the application of a strict pod, and which of them end at the proxy.
//!
//! The table in `docs/guide/interception.md` (Ways in) has the same rows with the reasons. What is tried here is where the
//! kernel brings the bytes; what the proxy then does with them is the stories' (`tests/tests/security`, `corners/doors`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, bind, connect, ipproto, listen, recv, sendto,
    socket, sockopt,
};

use super::pod::{Pod, WAIT, as_user, backends, host, reach, reach_from, serve, sh};
use weft_intercept::{InterceptConfig, install};

/// Where the application listens on every address: an ordinary port, one that the rules leave out, and ports that the
/// proxy has on loopback or not at all.
const APPLICATION: [u16; 5] = [8080, 9090, 15000, 15008, 15053];
/// Of those, the one that `weft.dev/skip-inbound-ports` names.
const SKIPPED: u16 = 9090;

/// A strict pod with a second interface, its application, and servers where the proxy has its own.
fn strict_pod(backend: weft_intercept::Backend) -> Option<Pod> {
    let pod = Pod::new()?;
    let (inner, outer) = (pod.ns(), pod.net());
    sh(&format!(
        "set -e; ip link add net1 netns {inner} type veth peer name net1 netns {outer}
         ip -n {inner} link set net1 up; ip -n {outer} link set net1 up
         ip -n {inner} addr add 10.8.0.2/24 dev net1; ip -n {outer} addr add 10.8.0.1/24 dev net1"
    ));
    pod.run(|| {
        for addr in ["127.0.0.1:15001", "[::1]:15001", "[::]:15006", "[::]:15020", "[::]:15021"] {
            serve(addr);
        }
        // The proxy has this port on loopback, so the pod's own addresses are free for others.
        serve("10.9.0.2:15001");
        for port in APPLICATION {
            serve(&format!("[::]:{port}"));
        }
        let config =
            InterceptConfig { exclude_inbound_ports: vec![SKIPPED.into()], ..InterceptConfig::default() };
        install(&config, &host(backend)).unwrap();
    });
    Some(pod)
}

#[test]
fn every_tcp_connection_from_outside_ends_at_the_proxy() {
    for backend in backends() {
        let Some(pod) = strict_pod(backend) else { return };
        let (inner, outer) = (pod.ns(), pod.net());
        let link_local = sh(&format!("ip -n {inner} -6 -o addr show dev eth0 scope link"));
        let link_local =
            link_local.split(['/', ' ']).find(|word| word.starts_with("fe80")).unwrap().to_owned();
        let index = sh(&format!("ip netns exec {outer} cat /sys/class/net/eth0/ifindex"));
        sh(&format!(
            "set -e; ip -n {outer} route add 10.77.0.1/32 via 10.9.0.2
             ip netns exec {outer} iptables-{backend} -t nat -A OUTPUT -p tcp -d 10.9.0.1 --dport 8888 \
                -j DNAT --to-destination 10.9.0.2:8080"
        ));
        pod.outside(|| {
            for port in APPLICATION.into_iter().chain([15001]).filter(|port| *port != SKIPPED) {
                for ip in ["10.9.0.2", "[fd00:9::2]"] {
                    assert_eq!(reach(&format!("{ip}:{port}")), Some(15006), "{backend}: {ip}:{port}");
                }
            }
            for (way, target) in [
                ("a further interface", "10.8.0.2:8080".to_owned()),
                ("the link-local address", format!("[{link_local}%{}]:8080", index.trim())),
                ("an address that is only routed there", "10.77.0.1:8080".to_owned()),
                ("a hostPort or Service, rewritten on the node", "10.9.0.1:8888".to_owned()),
            ] {
                assert_eq!(reach(&target), Some(15006), "{backend}, {way}: {target}");
            }
            if let Some(answer) = reach_by(ipproto::MPTCP, "10.9.0.2:8080") {
                assert_eq!(answer, 15006, "{backend}: multipath TCP is TCP");
            }
            // What is exempt is the proxy itself, and what the pod's author asked for.
            for port in [15006, 15020, 15021, SKIPPED] {
                assert_eq!(reach(&format!("10.9.0.2:{port}")), Some(port), "{backend}");
            }
        });
    }
}

/// The kernel throws away what comes from outside for 127.0.0.0/8 when it looks for a route, and the rules are before that:
/// so it is captured, whatever `route_localnet` says.
#[test]
fn what_comes_from_outside_for_loopback_is_captured() {
    for backend in backends() {
        let Some(pod) = strict_pod(backend) else { return };
        let (inner, outer) = (pod.ns(), pod.net());
        // Outside, 127.0.0.1 becomes an address like any other, beyond the pod.
        sh(&format!(
            "set -e; ip -n {outer} addr del 127.0.0.1/8 dev lo
             ip netns exec {outer} sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
             ip -n {outer} route add 127.0.0.1/32 via 10.9.0.2 src 10.9.0.1"
        ));
        for routed in ["0", "1"] {
            sh(&format!("ip netns exec {inner} sysctl -qw net.ipv4.conf.all.route_localnet={routed}"));
            let answered = pod.outside(|| reach("127.0.0.1:8080"));
            assert_eq!(answered, Some(15006), "{backend}, route_localnet {routed}");
        }
    }
}

#[test]
fn inside_the_pod_loopback_is_open_and_the_pods_address_is_not() {
    for backend in backends() {
        let Some(pod) = strict_pod(backend) else { return };
        // Entering the namespace is what nsenter, kubectl exec and kubectl port-forward do.
        pod.run(|| {
            for uid in [0, 1000] {
                as_user(uid, || {
                    assert_eq!(reach("127.0.0.1:8080"), Some(8080), "{backend}, uid {uid}: open");
                    assert_eq!(reach("[::1]:8080"), Some(8080), "{backend}, uid {uid}: open");
                    assert_eq!(reach("10.9.0.2:8080"), Some(15001), "{backend}, uid {uid}");
                    assert_eq!(reach("[fd00:9::2]:8080"), Some(15001), "{backend}, uid {uid}");
                });
            }
            // Whoever can become the proxy's user is the proxy.
            as_user(2102, || {
                assert_eq!(reach("10.9.0.2:8080"), Some(8080), "{backend}: open");
                assert_eq!(reach_from(Some("127.0.0.1"), "10.9.0.2:8080"), Some(15006), "{backend}");
            });
        });
    }
}

/// What is not TCP is not carried by the mesh, and reaches the application: a NetworkPolicy is for that.
#[test]
fn what_is_not_tcp_is_open() {
    for backend in backends() {
        let Some(pod) = strict_pod(backend) else { return };
        let receiver = pod.run(|| UdpSocket::bind("[::]:8080").unwrap());
        receiver.set_read_timeout(Some(WAIT)).unwrap();
        let mut buffer = [0; 128];
        for target in ["10.9.0.2:8080", "[fd00:9::2]:8080"] {
            pod.outside(|| {
                let from = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                UdpSocket::bind(from).unwrap().send_to(target.as_bytes(), target).unwrap();
            });
            let read = receiver.recv(&mut buffer).expect("UDP comes to the application");
            assert_eq!(&buffer[..read], target.as_bytes(), "{backend}");
        }
        // SCTP, where the kernel has it.
        let listener = pod.run(|| {
            let fd = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP)).ok()?;
            bind(&fd, &"10.9.0.2:7070".parse::<SocketAddr>().unwrap()).ok()?;
            listen(&fd, 1).ok()?;
            Some(fd)
        });
        if let Some(listener) = listener {
            let client = pod.outside(|| {
                let fd = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP)).unwrap();
                patience(&fd);
                connect(&fd, &"10.9.0.2:7070".parse::<SocketAddr>().unwrap()).map(|()| fd)
            });
            client.expect("SCTP comes to the application");
            drop(listener);
        }
    }
}

/// With CAP_NET_RAW, which the container runtime gives by default, a process sees what comes to its pod, whatever becomes of
/// it: ICMP, and the packets of connections that the proxy refuses.
#[test]
fn raw_sockets_see_everything() {
    let Some(pod) = strict_pod(weft_intercept::Backend::Nft) else { return };
    let raw = |protocol| pod.run(|| socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).unwrap());
    let (icmp, tcp) = (raw(ipproto::ICMP), raw(ipproto::TCP));
    pod.outside(|| {
        // An echo request (RFC 792): type 8, code 0, the checksum of what follows, identifier and sequence number.
        let mut echo = *b"\x08\0\0\0\0\0\0\0marked";
        let sum: u32 = echo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        echo[2..4].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
        let out = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
        sendto(&out, &echo, SendFlags::empty(), &"10.9.0.2:0".parse::<SocketAddr>().unwrap()).unwrap();
        let mut captured = TcpStream::connect_timeout(&"10.9.0.2:8080".parse().unwrap(), WAIT).unwrap();
        let mut answer = String::new();
        captured.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "15006");
        captured.write_all(b"marked").unwrap();
    });
    for (fd, what) in [(icmp, "ICMP"), (tcp, "TCP")] {
        patience(&fd);
        let mut packet = [0; 2048];
        loop {
            let (read, _) = recv(&fd, &mut packet, RecvFlags::empty()).expect(what);
            if packet[..read].ends_with(b"marked") {
                break;
            }
        }
    }
}

/// A connection that is older than the rules goes on where connections were tracked before; where they were not, its next
/// packet counts as the first of a new one, and is captured. In a pod `weft init` comes before the application.
#[test]
fn what_was_open_before_the_rules_goes_on_only_where_it_was_tracked() {
    for (backend, tracked) in backends().into_iter().flat_map(|backend| [(backend, false), (backend, true)]) {
        let Some(pod) = Pod::new() else { return };
        if tracked {
            sh(&format!(
                "ip netns exec {} iptables-{backend} -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
                pod.ns()
            ));
        }
        let listener = pod.run(|| TcpListener::bind("10.9.0.2:8080").unwrap());
        let mut client =
            pod.outside(|| TcpStream::connect_timeout(&"10.9.0.2:8080".parse().unwrap(), WAIT).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        pod.run(|| install(&InterceptConfig::default(), &host(backend)).map(drop).unwrap());
        client.write_all(b"still").unwrap();
        server.set_read_timeout(Some(WAIT)).unwrap();
        let mut buffer = [0; 5];
        let came = server.read_exact(&mut buffer).is_ok();
        assert_eq!((came, &buffer == b"still"), (tracked, tracked), "{backend}");
    }
}

/// Which port answers over a stream protocol; `None` where the kernel does not have the protocol.
fn reach_by(protocol: Protocol, target: &str) -> Option<u16> {
    let fd = socket(AddressFamily::INET, SocketType::STREAM, Some(protocol)).ok()?;
    patience(&fd);
    connect(&fd, &target.parse::<SocketAddr>().unwrap()).unwrap();
    let mut text = String::new();
    TcpStream::from(fd).read_to_string(&mut text).unwrap();
    text.parse().ok()
}

fn patience(fd: &OwnedFd) {
    sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, Some(WAIT)).unwrap();
    sockopt::set_socket_timeout(fd, sockopt::Timeout::Send, Some(WAIT)).unwrap();
}
