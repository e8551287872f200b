//! Asking the upstream servers.
//!
//! Each query goes out of a socket of its own, connected to the server: the kernel picks a fresh random port and drops
//! packets of anybody else, and with a random id and the question checked that is what RFC 5452 asks of a resolver.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{DiscoveryConfig, Upstreams};
use crate::resolv_conf::ResolvConf;
use crate::stats::DiscoveryStats;
use crate::wire::{Answer, Kind, Limits, Query, Unusable, parse_answer};

/// The C library waits five seconds; most answers that take longer than two are lost, and asking again is cheap.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 2;
/// However long a resolv.conf says to wait for one server.
const QUERY_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// How often the resolv.conf is looked at, at most.
const WATCH: Duration = Duration::from_secs(2);

/// Why there is no answer. The servers' own failures are answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// No server answered in time, or none could be reached.
    Unreachable,
    /// There is no server to ask.
    NoServer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Servers {
    addrs: Vec<SocketAddr>,
    timeout: Duration,
    attempts: u32,
}

/// What tells that a file is another than before: a ConfigMap swap changes the inode, an editor at least the time.
type FileMark = (u64, i64, i64, u64);

#[derive(Debug)]
struct Watched {
    servers: Servers,
    mark: Option<FileMark>,
    looked: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    source: Upstreams,
    query_timeout: Option<Duration>,
    attempts: Option<u32>,
    state: Mutex<Watched>,
    /// Our own listeners, which must never be asked.
    own: Mutex<Vec<SocketAddr>>,
    /// The server that answered last; the others are asked when it does not.
    preferred: AtomicUsize,
    limits: Limits,
}

impl Upstream {
    pub(crate) fn new(config: &DiscoveryConfig) -> Self {
        let upstream = Self {
            source: config.upstreams.clone(),
            query_timeout: config.query_timeout,
            attempts: config.attempts,
            state: Mutex::new(Watched {
                servers: Servers { addrs: Vec::new(), timeout: QUERY_TIMEOUT, attempts: ATTEMPTS },
                mark: None,
                looked: None,
            }),
            own: Mutex::new(Vec::new()),
            preferred: AtomicUsize::new(0),
            limits: Limits {
                min_ttl: config.min_ttl,
                max_ttl: config.max_ttl,
                max_negative_ttl: config.max_negative_ttl,
            },
        };
        if let Upstreams::Servers(addrs) = &config.upstreams {
            let mut state = upstream.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.servers = upstream.servers(addrs.clone(), None, None);
        }
        upstream
    }

    /// Keeps queries from going in a circle.
    pub(crate) fn set_own(&self, own: Vec<SocketAddr>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    fn servers(&self, addrs: Vec<SocketAddr>, timeout: Option<Duration>, attempts: Option<u32>) -> Servers {
        let timeout = self.query_timeout.or(timeout).unwrap_or(QUERY_TIMEOUT);
        Servers {
            addrs,
            timeout: timeout.clamp(Duration::from_millis(1), QUERY_TIMEOUT_MAX),
            attempts: self.attempts.or(attempts).unwrap_or(ATTEMPTS).clamp(1, 10),
        }
    }

    /// The servers as of now.
    fn current(&self) -> Servers {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Upstreams::ResolvConf(path) = &self.source {
            let now = Instant::now();
            if state.looked.is_none_or(|looked| now - looked >= WATCH) {
                state.looked = Some(now);
                self.look(path, &mut state);
            }
        }
        let mut servers = state.servers.clone();
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        servers.addrs.retain(|addr| !own.contains(addr));
        servers
    }

    /// Reads the resolv.conf again if it changed.
    fn look(&self, path: &Path, state: &mut Watched) {
        let mark =
            fs::metadata(path).map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())).ok();
        if mark.is_some() && mark == state.mark {
            return;
        }
        match fs::read_to_string(path) {
            Ok(text) => {
                let conf = ResolvConf::parse(&text);
                let servers = self.servers(conf.servers, conf.timeout, conf.attempts);
                if servers != state.servers {
                    tracing::info!(path = %path.display(), servers = ?servers.addrs, "DNS servers");
                    state.servers = servers;
                }
                state.mark = mark;
            }
            Err(error) => {
                if state.mark.take().is_some() || state.servers.addrs.is_empty() {
                    tracing::warn!(path = %path.display(), %error, "cannot read the DNS servers");
                }
            }
        }
    }

    /// Asks the servers in turn until one gives an answer. If each can only say that it failed, that is the answer.
    pub(crate) async fn exchange(&self, query: &Query, stats: &DiscoveryStats) -> Result<Answer, NoAnswer> {
        let servers = self.current();
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
