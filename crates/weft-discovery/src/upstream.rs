//! Asking the upstream servers.
//!
//! Each query goes out of a socket of its own, connected to the server: the kernel picks a fresh random port and drops
//! packets of anybody else, and with a random id and the question checked that is what RFC 5452 asks of a resolver.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use weft_core::DnsName;

use crate::config::DiscoveryConfig;
use crate::servers::ServerSource;
use crate::stats::DiscoveryStats;
use crate::wire::{Answer, Kind, Limits, Query, Unusable, parse_answer};

/// Why there is no answer. The servers' own failures are answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// No server answered in time, or none could be reached.
    Unreachable,
    /// There is no server to ask.
    NoServer,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    source: ServerSource,
    /// The server that answered last; the others are asked when it does not.
    preferred: AtomicUsize,
    limits: Limits,
}

impl Upstream {
    pub(crate) fn new(config: &DiscoveryConfig) -> Self {
        Self {
            source: ServerSource::new(config),
            preferred: AtomicUsize::new(0),
            limits: Limits {
                min_ttl: config.min_ttl,
                max_ttl: config.max_ttl,
                max_negative_ttl: config.max_negative_ttl,
            },
        }
    }

    /// Keeps queries from going in a circle.
    pub(crate) fn set_own(&self, own: Vec<SocketAddr>) {
        self.source.set_own(own);
    }

    /// The search domains that the application's resolver goes through.
    pub(crate) fn search(&self) -> Arc<[DnsName]> {
        self.source.search()
    }

    /// Asks the servers in turn until one gives an answer. If each can only say that it failed, that is the answer.
    pub(crate) async fn exchange(&self, query: &Query, stats: &DiscoveryStats) -> Result<Answer, NoAnswer> {
        let servers = self.source.current();
        let count = servers.addrs.len();
        if count == 0 {
            return Err(NoAnswer::NoServer);
        }
        let mut failed = None;
        for _ in 0..servers.attempts {
            let first = self.preferred.load(Relaxed);
            for index in (0..count).map(|i| (first + i) % count) {
                let Some(server) = servers.addrs.get(index) else { continue };
                match self.ask(*server, query, servers.timeout, stats).await {
                    Ok(answer) if answer.kind == Kind::Failure => failed = Some(answer),
                    Ok(answer) => {
                        self.preferred.store(index, Relaxed);
                        return Ok(answer);
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => stats.upstream_timeouts.inc(),
                    Err(error) => {
                        stats.upstream_errors.inc();
                        tracing::debug!(%server, %error, "DNS server");
                    }
                }
            }
            if let Some(answer) = failed {
                return Ok(answer);
            }
        }
        Err(NoAnswer::Unreachable)
    }

    async fn ask(
        &self,
        server: SocketAddr,
        query: &Query,
        time: Duration,
        stats: &DiscoveryStats,
    ) -> io::Result<Answer> {
        let mut edns = true;
        loop {
            let outcome = match self.ask_udp(server, query, edns, time, stats).await? {
                Err(Unusable::Truncated) => {
                    stats.upstream_tcp.inc();
                    timeout(time, self.ask_tcp(server, query, edns, stats)).await??
                }
                outcome => outcome,
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(Unusable::Edns) if edns => edns = false,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    async fn ask_udp(
        &self,
        server: SocketAddr,
        query: &Query,
        edns: bool,
        time: Duration,
        stats: &DiscoveryStats,
    ) -> io::Result<Result<Answer, Unusable>> {
        let deadline = Instant::now() + time;
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        let id = random_id();
        stats.upstream_queries.inc();
        socket.send(&query.for_upstream(id, edns)).await?;
        // Servers keep to the size we offered, but a longer answer is an answer too.
        let mut buffer = vec![0; 4096];
        loop {
            let length = timeout_at(deadline, socket.recv(&mut buffer)).await??;
            let packet = buffer.get(..length).unwrap_or_default();
            match parse_answer(packet, query, id, edns, self.limits) {
                Err(Unusable::Mismatch) => stats.upstream_mismatched.inc(),
                outcome => return Ok(outcome),
            }
        }
    }

    async fn ask_tcp(
        &self,
        server: SocketAddr,
        query: &Query,
        edns: bool,
        stats: &DiscoveryStats,
    ) -> io::Result<Result<Answer, Unusable>> {
        let mut stream = TcpStream::connect(server).await?;
        let id = random_id();
        stats.upstream_queries.inc();
        let packet = query.for_upstream(id, edns);
        // RFC 7766 section 8: length and message in one segment.
        let mut framed = u16::try_from(packet.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        framed.extend(packet);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await?;
        let outcome = parse_answer(&packet, query, id, edns, self.limits);
        if matches!(outcome, Err(Unusable::Mismatch)) {
            stats.upstream_mismatched.inc();
        }
        Ok(outcome)
    }
}

/// RFC 5452 section 9.1 wants ids that cannot be guessed, which a generator made for balancing does not give: its
/// state can be told from its output. The standard library's hasher keys are random, and SipHash of a counter under
/// them is a generator for this purpose.
fn random_id() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::LazyLock;
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    KEYS.hash_one(COUNT.fetch_add(1, Relaxed)) as u16
}
