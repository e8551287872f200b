//! Redirected connections, in a network namespace of the test's own with real iptables rules.

use std::net::SocketAddr;
use std::process::Command;

use tokio::net::TcpStream;
use weft_core::OriginalDst;
use weft_net::{Acceptor, Destination, ListenOptions, Listener};

const PORT: u16 = 15001;

/// Rules that redirect port 80 of documentation addresses, which the routes make local to the namespace.
const SETUP: &str = "
    ip link set lo up
    ip addr add 192.0.2.9/32 dev lo
    ip -6 addr add 2001:db8::9/128 dev lo nodad
    iptables -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001
    ip6tables -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001
    exec \"$0\" --ignored --exact in_the_namespace
";

#[test]
fn captured_connections_know_where_they_were_going() {
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let test = std::env::current_exe().unwrap();
    let output = unshare.args(["--net", "sh", "-e", "-c", SETUP]).arg(test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by the test above, in its namespace"]
async fn in_the_namespace() {
    let mut acceptor = Acceptor::new(Listener::bind_any(PORT, &ListenOptions::default()).unwrap()).unwrap();
    for target in ["192.0.2.9:80", "[2001:db8::9]:80"] {
        let target: SocketAddr = target.parse().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(target), acceptor.accept());
        client.unwrap();
        assert_eq!(accepted.destination().unwrap(), Destination::Captured(OriginalDst::new(target)));
    }
    // Dialed without a rule in the way: conntrack knows it, and it was going where it came.
    for ip in ["192.0.2.9", "2001:db8::9", "127.0.0.1", "::1"] {
        let target = SocketAddr::new(ip.parse().unwrap(), PORT);
        let (client, accepted) = tokio::join!(TcpStream::connect(target), acceptor.accept());
        client.unwrap();
        assert_eq!(accepted.destination().unwrap(), Destination::Direct(target));
    }
    // A plain IPv4 listener asks the same way.
    let own = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &ListenOptions::default()).unwrap();
    let mut acceptor = Acceptor::new(own).unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(acceptor.local_addr()), acceptor.accept());
    client.unwrap();
    assert_eq!(accepted.destination().unwrap(), Destination::Direct(accepted.local));
}
