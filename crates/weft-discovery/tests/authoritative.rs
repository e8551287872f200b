//! Against a real authoritative server: NSD, from the Debian package `nsd`.

mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use support::*;
use tokio::time::sleep;
use weft_core::EndpointSource;

/// NSD with one zone, `mesh.test`, on a free port.
struct Nsd {
    child: Child,
    dir: tempfile::TempDir,
    addr: SocketAddr,
    serial: u32,
}

fn program() -> &'static str {
    // Debian puts daemons where a user's PATH does not look.
    ["/usr/sbin/nsd", "/sbin/nsd", "/usr/local/sbin/nsd"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("this test needs NSD, a real authoritative DNS server: apt-get install nsd")
}

impl Nsd {
    fn start(records: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addr = free_port();
        let (path, port) = (dir.path().display(), addr.port());
        let config = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  database: \"\"\n  zonesdir: \"{path}\"\n  \
             pidfile: \"{path}/pid\"\n  xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/zones\"\n  \
             xfrdir: \"{path}\"\n  server-count: 1\n  zonefiles-check: yes\nremote-control:\n  control-enable: no\n\
             zone:\n  name: mesh.test\n  zonefile: mesh.zone\n"
        );
        std::fs::write(dir.path().join("nsd.conf"), config).unwrap();
        write_zone(dir.path(), 1, records);
        Self { child: Self::spawn(dir.path()), dir, addr, serial: 1 }
    }

    fn spawn(dir: &Path) -> Child {
        let config = dir.join("nsd.conf");
        Command::new(program())
            .args(["-d", "-c"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start nsd")
    }

    fn write(&mut self, records: &str) {
        self.serial += 1;
        write_zone(self.dir.path(), self.serial, records);
    }

    /// A new zone, taken over without a restart.
    fn reload(&mut self, records: &str) {
        self.write(records);
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.child = Self::spawn(self.dir.path());
    }

    async fn up(&self) {
        let zone = question("ns.mesh.test", RecordType::A).to_vec().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        eventually("nsd answers", || {
            let _ = socket.send_to(&zone, self.addr);
            socket.recv(&mut [0; 512]).ok()
        })
        .await;
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_zone(dir: &Path, serial: u32, records: &str) {
    let head =
        format!("$ORIGIN mesh.test.\n$TTL 1\n@ SOA ns root {serial} 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n");
    std::fs::write(dir.join("mesh.zone"), head + records).unwrap();
}

fn free_port() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = udp.local_addr().unwrap();
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

const ZONE: &str = "\
web             A     10.96.0.1\n\
alias           CNAME web\n\
_p80._tcp.web-endpoints SRV 0 100 8080 a.web-endpoints\n\
_p80._tcp.web-endpoints SRV 0 100 8080 b.web-endpoints\n\
_p80._tcp.web-endpoints SRV 9 100 8080 reserve.web-endpoints\n\
a.web-endpoints A     10.0.0.1\n\
b.web-endpoints AAAA  fd00::2\n\
reserve.web-endpoints A 10.0.0.9\n\
db              A     10.0.1.1\n\
db              A     10.0.1.2\n\
odd             TYPE65280 \\# 3 010203\n\
gone._tcp.none  SRV   0 0 1 .\n";

async fn serve(zone: &str) -> (Nsd, Server) {
    let nsd = Nsd::start(zone);
    nsd.up().await;
    let server = Server::start(config(vec![nsd.addr]));
    (nsd, server)
}

#[tokio::test]
async fn answers_pass_through_and_negative_ones_keep_their_soa() {
    let (_nsd, server) = serve(ZONE).await;
    let answer = server.a("Web.mesh.test").await;
    assert_eq!(addresses(&answer), ["10.96.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(answer.answers[0].name.eq_case(&name("Web.mesh.test")), "in the spelling of the question");
    let alias = server.a("alias.mesh.test").await;
    assert_eq!((alias.answers.len(), addresses(&alias).len()), (2, 1));
    assert_eq!(server.name_of("10.96.0.1"), Some(dns("alias.mesh.test")));
    let missing = server.a("missing.mesh.test").await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
    let no_data = server.udp(&question("web.mesh.test", RecordType::MX)).await;
    assert_eq!((no_data.metadata.response_code, no_data.answers.len()), (ResponseCode::NoError, 0));
    let odd = server.udp(&question("odd.mesh.test", RecordType::from(65_280))).await;
    assert_eq!(odd.answers.len(), 1);
    let outside = server.a("example.org").await;
    assert_eq!(outside.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn a_large_answer_goes_over_tcp_both_ways() {
    let many: String = (0..200).map(|i| format!("many A 10.1.0.{i}\n")).collect();
    let (_nsd, server) = serve(&many).await;
    assert!(server.a("many.mesh.test").await.metadata.truncation);
    let mut stream = server.tcp().await;
    send_tcp(&mut stream, &question("many.mesh.test", RecordType::A)).await;
    assert_eq!(recv_tcp(&mut stream).await.answers.len(), 200);
    assert_eq!(server.discovery.stats().upstream_tcp.get(), 1);
    let mut watch = server.discovery.watch(&key("many.mesh.test", 80), endpoint("10.1.0.1:80"));
    assert_eq!(watch.ready().await.endpoints.len(), 200);
}

#[tokio::test]
async fn endpoints_follow_the_zone_and_outlive_the_server() {
    let (mut nsd, server) = serve(ZONE).await;
    let mut watch = server.discovery.watch(&key("web.mesh.test", 80), endpoint("10.96.0.1:80"));
    let list = watch.ready().await;
    // The reserve has a lower priority (a higher number).
    assert_eq!(shown(&list), (vec!["10.0.0.1:8080".into(), "[fd00::2]:8080".into()], EndpointSource::Srv));
    let mut headless = server.discovery.watch(&key("db.mesh.test", 5432), endpoint("10.0.1.1:5432"));
    assert_eq!(headless.ready().await.source, EndpointSource::Headless);

    nsd.reload(&ZONE.replace("10.0.0.1\n", "10.0.0.7\n"));
    eventually("the new pod", || watch.current().filter(|list| shown(list).0[0] == "10.0.0.7:8080")).await;

    let good = watch.current().unwrap();
    server.a("web.mesh.test").await;
    nsd.stop();
    sleep(Duration::from_millis(1200)).await;
    let answer = server.a("web.mesh.test").await;
    assert_eq!(addresses(&answer), ["10.96.0.1".parse::<std::net::IpAddr>().unwrap()], "stale");
    assert_eq!(watch.current().unwrap(), good);
    let stats = server.discovery.stats();
    eventually("the outage is seen", || (stats.refreshes_failed.get() > 0).then_some(())).await;
    assert_eq!(watch.current().unwrap(), good);

    nsd.write(ZONE);
    nsd.restart();
    nsd.up().await;
    eventually("the old pod again", || watch.current().filter(|list| shown(list).0[0] == "10.0.0.1:8080"))
        .await;
}
