use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::SOA;
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;

/// A name server that knows `ca.weft-system.svc.cluster.local`.
struct Server {
    port: u16,
    task: JoinHandle<()>,
    queries: Arc<AtomicUsize>,
    /// Whether it says that there is no such name.
    denies: Arc<AtomicBool>,
}

const NAME: &str = "ca.weft-system.svc.cluster.local.";

impl Server {
    async fn start(at: &str, address: [u8; 4], ttl: u32) -> Self {
        let socket = UdpSocket::bind(at).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (queries, denies) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, denied) = (Arc::clone(&queries), Arc::clone(&denies));
        let task = tokio::spawn(async move {
            let mut packet = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let mut message = Message::from_vec(&packet[..length]).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let query = message.queries[0].clone();
                message.metadata.message_type = MessageType::Response;
                message.additionals.clear();
                message.edns = None;
                if denied.load(Ordering::Relaxed) || query.name().to_string() != NAME {
                    message.metadata.response_code = ResponseCode::NXDomain;
                } else if query.query_type() == RecordType::A {
                    let data = RData::A(Ipv4Addr::from(address).into());
                    message.answers.push(Record::from_rdata(query.name().clone(), ttl, data));
                }
                if message.answers.is_empty() {
                    // Without it nobody may keep the answer (RFC 2308 section 5).
                    let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, ttl);
                    message.authorities.push(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
                }
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { port, task, queries, denies }
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(resolv_conf: &str, hosts: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("resolv.conf", resolv_conf);
        files.write("hosts", hosts);
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn names(&self, port: u16) -> Names {
        Names::asking(self.0.path().join("resolv.conf"), self.0.path().join("hosts"), port)
    }
}

const CLUSTER: &str = "nameserver 127.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 timeout:1 attempts:1\n";

/// A name server, the files of a pod that ask it, and its names.
async fn pod(ttl: u32, hosts: &str) -> (Server, Files, Names) {
    let server = Server::start("127.0.0.1:0", [10, 0, 0, 7], ttl).await;
    let files = Files::new(CLUSTER, hosts);
    let names = files.names(server.port);
    (server, files, names)
}

fn ip(text: &str) -> Vec<IpAddr> {
    vec![text.parse().unwrap()]
}

#[tokio::test]
async fn search_domains_hosts_and_addresses() {
    let (server, _files, names) = pod(60, "10.9.9.9 other.example other # a comment\n").await;
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.7")));
    let asked = server.queries.load(Ordering::Relaxed);
    assert!(asked >= 3, "the first search domain has no such name: {asked}");
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.7")));
    assert_eq!(server.queries.load(Ordering::Relaxed), asked, "within the TTL nobody is asked");
    assert_eq!(names.lookup("other.example").await, Ok(ip("10.9.9.9")));
    assert_eq!(names.lookup("::1").await, Ok(ip("::1")));
    let dialed = names.sockets("[::1]", 15012).await;
    assert_eq!(dialed, Ok(vec!["[::1]:15012".parse().unwrap()]));
    assert_eq!(server.queries.load(Ordering::Relaxed), asked);
    let unknown = names.lookup("no.such.name").await.unwrap_err();
    assert_eq!(unknown.host, "no.such.name");
}

#[tokio::test]
async fn the_last_addresses_outlive_dns() {
    // A TTL of zero: each look-up asks.
    let (server, _files, names) = pod(0, "").await;
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.7")));
    // Denied, as by a DNS that has lost its source.
    server.denies.store(true, Ordering::Relaxed);
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.7")));
    // Silent: the port is still there, and nobody reads from it.
    server.task.abort();
    let _ = server.task.await;
    let silent = UdpSocket::bind(("127.0.0.1", server.port)).await.unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.7")));
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert!(names.lookup("other.weft-system").await.is_err(), "what was never found has no last address");
    drop(silent);
}

#[tokio::test]
async fn files_are_read_again() {
    let (first, files, names) = pod(60, "").await;
    let _second = Server::start(&format!("127.0.0.2:{}", first.port), [10, 0, 0, 8], 60).await;
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.7")));
    files.write("resolv.conf", &CLUSTER.replace("127.0.0.1", "127.0.0.2"));
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.8")));
    // Half written, or without a server: what was good stays.
    for bad in ["", "search shop.svc.cluster.local\n"] {
        files.write("resolv.conf", bad);
        assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.0.0.8")));
    }
    files.write("hosts", "10.9.9.9 ca.weft-system.svc.cluster.local\n");
    assert_eq!(names.lookup("ca.weft-system").await, Ok(ip("10.9.9.9")));
    assert!(first.queries.load(Ordering::Relaxed) > 0);
}
