//! What the tests stand on: a running DNS server of ours, and upstream servers that do what a test says.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(missing_docs, reason = "test support")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use weft_core::{DnsName, DrainTrigger, EndpointAddr, EndpointList, EndpointSource, ServiceKey};
use weft_discovery::{Discovery, DiscoveryConfig, DiscoveryError, DnsListeners, Upstreams};

/// Every wait of a test ends after this: much longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub(crate) fn dns(text: &str) -> DnsName {
    text.parse().unwrap()
}

pub(crate) fn endpoint(text: &str) -> EndpointAddr {
    EndpointAddr::new(text.parse().unwrap())
}

pub(crate) fn key(text: &str, port: u16) -> ServiceKey {
    ServiceKey::new(dns(text), port)
}

pub(crate) fn question(text: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), rtype));
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

pub(crate) fn reply(to: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new(to.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.queries = to.queries.clone();
    message
}

pub(crate) fn ip_record(owner: &str, ttl: u32, ip: &str) -> Record {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub(crate) fn srv_record(owner: &str, ttl: u32, port: u16, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::SRV(SRV::new(0, 0, port, name(target))))
}

pub(crate) fn cname_record(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

pub(crate) fn soa_record(ttl: u32) -> Record {
    let data = SOA::new(name("ns."), name("root."), 1, 2, 3, 4, ttl);
    Record::from_rdata(name("."), ttl, RData::SOA(data))
}

/// The addresses in an answer.
pub(crate) fn addresses(message: &Message) -> Vec<IpAddr> {
    let ip = |record: &Record| match &record.data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    };
    message.answers.iter().filter_map(ip).collect()
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

type Handler = Box<dyn FnMut(&Message, Over) -> Vec<Vec<u8>> + Send>;

/// An upstream server that sends, for each query, the packets that a handler says: none, one, or several.
pub(crate) struct Responder {
    pub(crate) addr: SocketAddr,
    queries: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Responder {
    pub(crate) async fn start(handler: impl FnMut(&Message, Over) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::with_delay(Duration::ZERO, handler).await
    }

    pub(crate) async fn with_delay(
        delay: Duration,
        handler: impl FnMut(&Message, Over) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, Arc::new(udp));
            }
        };
        let addr = udp.local_addr().unwrap();
        let queries = Arc::new(AtomicUsize::new(0));
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(Box::new(handler)));
        let (count, handle) = (Arc::clone(&queries), Arc::clone(&handler));
        let over_udp = tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                count.fetch_add(1, Relaxed);
                let packets = handle.lock().unwrap()(&query, Over::Udp);
                let udp = Arc::clone(&udp);
                tokio::spawn(async move {
                    sleep(delay).await;
                    for packet in packets {
                        let _ = udp.send_to(&packet, from).await;
                    }
                });
            }
        });
        let count = Arc::clone(&queries);
        let over_tcp = tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let length = stream.read_u16().await.unwrap();
                let mut packet = vec![0; length.into()];
                stream.read_exact(&mut packet).await.unwrap();
                count.fetch_add(1, Relaxed);
                let packets = handler.lock().unwrap()(&Message::from_vec(&packet).unwrap(), Over::Tcp);
                for packet in packets {
                    stream.write_u16(packet.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&packet).await.unwrap();
                }
            }
        });
        Self { addr, queries, tasks: vec![over_udp, over_tcp] }
    }

    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Relaxed)
    }

    /// Closes the sockets: from now on the port refuses.
    pub(crate) async fn stop(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Records by name and type that a test changes while they are served; and whether the server is well.
#[derive(Clone, Default)]
pub(crate) struct Zone(Arc<Mutex<ZoneState>>);

#[derive(Default)]
struct ZoneState {
    records: HashMap<(Name, RecordType), Vec<Record>>,
    additional: Vec<Record>,
    health: Health,
    asked: Vec<(Name, RecordType)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Health {
    #[default]
    Well,
    ServFail,
    Silent,
}

impl Zone {
    pub(crate) fn new(records: Vec<Record>) -> Self {
        let zone = Self::default();
        zone.replace(records);
        zone
    }

    /// All records anew.
    pub(crate) fn replace(&self, records: Vec<Record>) {
        let mut state = self.0.lock().unwrap();
        state.records.clear();
        for record in records {
            state.records.entry((record.name.clone(), record.record_type())).or_default().push(record);
        }
    }

    /// Records that go along with every SRV answer.
    pub(crate) fn additional(&self, records: Vec<Record>) {
        self.0.lock().unwrap().additional = records;
    }

    pub(crate) fn health(&self, health: Health) {
        self.0.lock().unwrap().health = health;
    }

    pub(crate) fn was_asked(&self, text: &str, rtype: RecordType) -> usize {
        let asked = (name(text), rtype);
        self.0.lock().unwrap().asked.iter().filter(|one| **one == asked).count()
    }

    pub(crate) fn answer(&self, query: &Message) -> Vec<Vec<u8>> {
        let mut state = self.0.lock().unwrap();
        let wanted = &query.queries[0];
        state.asked.push((wanted.name.clone(), wanted.query_type));
        match state.health {
            Health::Silent => return Vec::new(),
            Health::ServFail => return vec![reply(query, ResponseCode::ServFail).to_vec().unwrap()],
            Health::Well => {}
        }
        let exists = state.records.keys().any(|(name, _)| *name == wanted.name);
        let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let mut message = reply(query, code);
        match state.records.get(&(wanted.name.clone(), wanted.query_type)) {
            Some(records) => {
                message.answers = records.clone();
                if wanted.query_type == RecordType::SRV {
                    message.additionals = state.additional.clone();
                }
            }
            None => {
                message.add_authority(soa_record(1));
            }
        }
        vec![message.to_vec().unwrap()]
    }

    pub(crate) async fn serve(&self) -> Responder {
        let zone = self.clone();
        Responder::start(move |query, _| zone.answer(query)).await
    }
}

/// Our server, running.
pub(crate) struct Server {
    pub(crate) discovery: Discovery,
    pub(crate) addr: SocketAddr,
    drain: DrainTrigger,
    task: JoinHandle<Result<(), DiscoveryError>>,
}

/// Short times for tests.
pub(crate) fn config(upstreams: Vec<SocketAddr>) -> DiscoveryConfig {
    DiscoveryConfig {
        upstreams: Upstreams::Servers(upstreams),
        query_timeout: Some(Duration::from_millis(250)),
        refresh_floor: Duration::from_millis(50),
        ..DiscoveryConfig::default()
    }
}

impl Server {
    pub(crate) fn start(config: DiscoveryConfig) -> Self {
        let (discovery, task) = Discovery::new(config);
        let listeners = DnsListeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let addr = listeners.addrs()[0];
        let (trigger, drain) = weft_core::drain();
        let task = tokio::spawn(task.run(listeners, drain));
        Self { discovery, addr, drain: trigger, task }
    }

    pub(crate) async fn stop(self) {
        self.drain.close();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn udp(&self, query: &Message) -> Message {
        let packet = self.udp_bytes(&query.to_vec().unwrap()).await;
        let answer = Message::from_vec(&packet).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        answer
    }

    pub(crate) async fn udp_bytes(&self, packet: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.addr).await.unwrap();
        socket.send(packet).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
        buffer.truncate(length);
        buffer
    }

    pub(crate) async fn a(&self, text: &str) -> Message {
        self.udp(&question(text, RecordType::A)).await
    }

    /// The name that an address was handed out for.
    pub(crate) fn name_of(&self, ip: &str) -> Option<DnsName> {
        self.discovery.name_of(ip.parse().unwrap()).map(|named| named.name)
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }
}

pub(crate) async fn send_tcp(stream: &mut TcpStream, query: &Message) {
    let packet = query.to_vec().unwrap();
    stream.write_u16(packet.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
}

pub(crate) async fn recv_tcp(stream: &mut TcpStream) -> Message {
    let read = async {
        let length = stream.read_u16().await.unwrap();
        let mut packet = vec![0; length.into()];
        stream.read_exact(&mut packet).await.unwrap();
        Message::from_vec(&packet).unwrap()
    };
    timeout(PATIENCE, read).await.expect("no answer over TCP")
}

/// Waits until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = check() {
                return value;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// The endpoints of a list, as text.
pub(crate) fn shown(list: &EndpointList) -> (Vec<String>, EndpointSource) {
    (list.endpoints.iter().map(ToString::to_string).collect(), list.source)
}
