//! Clients that are slow in every way there is, hundreds at once: each is ended when its time is over, and others do not notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weft_testbed::{Gateway, Teller, eventually, rest};

use super::doors::{PATIENCE, all, backend, connect_from, gateway, route};
use super::limits::{connect, open};

/// How many clients: 800, so that the machine has time for the stories beside, or `WEFT_SLOW_CLIENTS`.
fn all_of_them() -> usize {
    let asked = std::env::var("WEFT_SLOW_CLIENTS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(800)
}

/// How long each may be.
const LIMIT: Duration = Duration::from_secs(12);

/// What so many may take of the gateway's memory: 30 KiB each, and what a build without optimisation needs for itself.
fn memory(clients: usize) -> f64 {
    (clients * 30 * 1024 + (32 << 20)) as f64
}

/// What those are sent that do not read it: more than the kernel keeps of it (net.ipv4.tcp_wmem, 4 MiB and its own).
const FLOOD: usize = 16 << 20;
/// The clients' and backends' sockets, some of them held twice, and what else a test has open.
const DESCRIPTORS: u64 = 12_000;

/// Makes room for the sockets of this process, which is client and backend at once.
fn room() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        let raised = Rlimit { current: limit.maximum.map(|most| most.min(2 * DESCRIPTORS)), ..limit };
        setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    }
    let now = getrlimit(Resource::Nofile).current;
    ensure!(
        now.is_none_or(|now| now >= DESCRIPTORS),
        "this test needs {DESCRIPTORS} open files and may have {now:?}; raise the hard limit (ulimit -Hn)"
    );
    Ok(())
}

/// A backend that answers everything with [`FLOOD`] octets, of which the kernel keeps few.
fn flood() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || -> std::io::Result<()> {
                set_socket_send_buffer_size(&stream, 65_536)?;
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer)?;
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD}\r\n\r\n").as_bytes())?;
                let piece = [b'x'; 65_536];
                for _ in 0..FLOOD / piece.len() {
                    stream.write_all(&piece)?;
                }
                Ok(())
            });
        }
    });
    Ok(addr)
}

/// A client whose kernel takes little of what it does not read.
fn small(at: SocketAddr) -> Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    set_socket_recv_buffer_size(&socket, 4096)?;
    rustix::net::connect(&socket, &at)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A client that does what it should, again and again: how long each round took, the shortest first.
fn worker(gateway: &Gateway, done: &Arc<AtomicBool>) -> JoinHandle<Result<Vec<Duration>>> {
    let (at, done) = (gateway.at(8080), Arc::clone(done));
    thread::spawn(move || {
        let mut rounds = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let began = Instant::now();
            let mut client = connect_from("127.0.0.1".parse()?, at)?;
            client.write_all(b"GET /work HTTP/1.1\r\nhost: a.shop.test\r\nconnection: close\r\n\r\n")?;
            let said = all(&mut client)?;
            ensure!(said.starts_with("HTTP/1.1 200 "), "{said}");
            rounds.push(began.elapsed());
        }
        rounds.sort_unstable();
        Ok(rounds)
    })
}

/// HTTP/2 by prior knowledge with windows of no size, and `GET http://flood.test/` (RFC 9113 sections 3.4 and 6.5.2, RFC 7541).
const NO_WINDOW: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0\
    \0\0\x0f\x01\x05\0\0\0\x01\x82\x86\x84\x01\x0aflood.test";

/// All the clients.
struct Slow {
    heads: Vec<TcpStream>,
    bodies: Vec<TcpStream>,
    silent: Vec<TcpStream>,
    shaking: Vec<TcpStream>,
    readers: Vec<TcpStream>,
    windows: Vec<TcpStream>,
}

impl Slow {
    /// So many, of each way to be slow its share.
    fn start(gateway: &Gateway, clients: usize) -> Result<Self> {
        let share = |of_hundred: usize| clients * of_hundred / 100;
        let say = |clients: Result<Vec<TcpStream>>, said: &[u8]| -> Result<Vec<TcpStream>> {
            let clients = clients?;
            for mut client in &clients {
                client.write_all(said)?;
            }
            Ok(clients)
        };
        let many = |count: usize, port: u16| (0..count).map(|_| connect(gateway, port)).collect();
        let little = |count: usize| (0..count).map(|_| small(gateway.at(8080))).collect();
        Ok(Self {
            readers: say(little(share(10)), b"GET / HTTP/1.1\r\nhost: flood.test\r\n\r\n")?,
            windows: say(many(share(10), 8080), NO_WINDOW)?,
            bodies: say(
                many(share(20), 8080),
                b"POST / HTTP/1.1\r\nhost: a.shop.test\r\ncontent-length: 10\r\n\r\nabc",
            )?,
            silent: say(many(share(15), 8080), b"")?,
            heads: say(many(share(25), 8080), b"GET / HTTP/1.1\r\nhost: a.sho")?,
            // A handshake message of 508 octets.
            shaking: say(many(share(20), 8443), b"\x16\x03\x01\x02\x00\x01\0\x01\xfc\x03\x03")?,
        })
    }

    /// Says an octet more now and then for those that are slow, and not silent.
    fn trickle(&self, done: &AtomicBool) {
        while !done.load(Ordering::Relaxed) {
            for mut client in self.heads.iter().chain(&self.shaking) {
                // It may be over.
                let _ = client.write_all(b"p");
            }
            rest(LIMIT / 8);
        }
    }

    /// How each is told of its end.
    fn ended(&self) -> Result<()> {
        for client in self.heads.iter().chain(&self.bodies) {
            let said = heard(client)?;
            ensure!(said.starts_with("HTTP/1.1 408 ") && said.contains("request-timeout"), "{said}");
        }
        for client in self.silent.iter().chain(&self.shaking) {
            let said = heard(client)?;
            ensure!(!said.contains("HTTP"), "{said}");
        }
        Ok(())
    }
}

fn heard(client: &TcpStream) -> Result<String> {
    let mut client = client.try_clone().context("a descriptor")?;
    all(&mut client)
}

#[test]
fn hundreds_of_slow_clients_are_ended_and_others_do_not_notice() -> Result<()> {
    room()?;
    let clients = all_of_them();
    let (teller, flood) = (Teller::start("teller")?, flood()?);
    let resources = [
        backend("teller", teller.addr, ""),
        backend("flood", flood, ""),
        route("HTTPRoute", "web", &["web"], "teller"),
        // The same listener by another host, for those who do not read.
        route("HTTPRoute", "flood", &["web"], "flood").replace("spec: {", "spec: {hostnames: [flood.test], "),
    ];
    let fields = [
        ("WEFT_TIMEOUTS_HEADER_READ", "12s"),
        ("WEFT_TIMEOUTS_BODY_PAUSE", "12s"),
        ("WEFT_TIMEOUTS_HANDSHAKE", "12s"),
        ("WEFT_TIMEOUTS_WRITE_STALL", "12s"),
        ("WEFT_TIMEOUTS_IDLE", "12s"),
        ("WEFT_TELEMETRY_ACCESS_LOG_MODE", "off"),
    ];
    let gateway = gateway(&resources, &fields)?;
    let before = gateway.metric("process_resident_memory_bytes ")?;
    let done = Arc::new(AtomicBool::new(false));
    let worker = worker(&gateway, &done);
    let began = Instant::now();
    let slow = Slow::start(&gateway, clients)?;
    // Those that have waited in the kernel for their turn.
    eventually("all of them to be let in", PATIENCE, || {
        Ok((open(&gateway)? >= (clients * 9 / 10) as f64).then_some(()))
    })?;
    let taken = gateway.metric("process_resident_memory_bytes ")? - before;
    ensure!(taken <= memory(clients), "{taken} bytes for {clients} clients");
    let told = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let trickling = scope.spawn(|| slow.trickle(&told));
        let ended = slow.ended();
        told.store(true, Ordering::Relaxed);
        // All of it took as long as it may: one after another they would have taken hours.
        let spent = began.elapsed();
        // A stream without a window ends within twice its time, and its connection is idle then.
        let gone =
            eventually("the others to be ended", LIMIT * 4, || Ok((open(&gateway)? <= 3.0).then_some(())));
        done.store(true, Ordering::Relaxed);
        trickling.join().map_err(|_| anyhow::anyhow!("the trickle"))?;
        ended?;
        ensure!((LIMIT..LIMIT * 4).contains(&spent), "{spent:?}");
        gone
    })?;
    for client in slow.readers.iter().chain(&slow.windows) {
        let came = heard(client)?.len();
        ensure!(came < FLOOD / 2, "{came} octets: it was not ended");
    }
    let rounds = worker.join().map_err(|_| anyhow::anyhow!("the worker"))??;
    let slowest = rounds.last().copied().unwrap_or_default();
    let most = rounds.get(rounds.len() * 95 / 100).copied().unwrap_or_default();
    ensure!(rounds.len() >= 50, "{} rounds", rounds.len());
    ensure!(most < LIMIT / 8 && slowest < LIMIT, "{most:?} for 95 of 100, {slowest:?} for the slowest");
    Ok(())
}
