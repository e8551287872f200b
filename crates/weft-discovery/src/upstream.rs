//! Asking the upstream servers.
//!
//! Each query goes out of a socket of its own, connected to the server: the kernel picks a fresh random port and drops
//! packets of anybody else, and with a random id and the question checked that is what RFC 5452 asks of a resolver.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use weft_core::DnsName;

use crate::config::DiscoveryConfig;
use crate::edns::EdnsMemory;
use crate::servers::ServerSource;
use crate::stats::DiscoveryStats;
use crate::wire::{Answer, Kind, Limits, Query, Unusable, cut_answer, parse_answer};

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
    edns: EdnsMemory,
    limits: Limits,
}

/// One try of one server.
#[derive(Clone, Copy)]
struct Try<'a> {
    server: SocketAddr,
    query: &'a Query,
    /// Over TCP from the start.
    tcp: bool,
    deadline: Instant,
    stats: &'a DiscoveryStats,
}

/// What a server answered, and to which of two questions.
enum Heard {
    /// To the one with EDNS.
    With(Result<Answer, Unusable>),
    /// To the one without, and nothing to the other.
    Without(Answer),
}

/// What came over UDP, and its bytes.
type Packet = (Result<Answer, Unusable>, Vec<u8>);

impl Upstream {
    pub(crate) fn new(config: &DiscoveryConfig) -> Self {
        Self {
            source: ServerSource::new(config),
            preferred: AtomicUsize::new(0),
            edns: EdnsMemory::default(),
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
            let first = match servers.rotate {
                true => self.preferred.fetch_add(1, Relaxed),
                false => self.preferred.load(Relaxed),
            };
            for index in (0..count).map(|i| first.wrapping_add(i) % count) {
                let Some(server) = servers.addrs.get(index) else { continue };
                let deadline = Instant::now() + servers.timeout;
                let one = Try { server: *server, query, tcp: servers.tcp, deadline, stats };
                match self.ask(one).await {
                    Ok(answer) if answer.kind == Kind::Failure => failed = Some(answer),
                    Ok(answer) => {
                        if !servers.rotate {
                            self.preferred.store(index, Relaxed);
                        }
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

    /// Asks one server, with EDNS unless it is known not to take it.
    async fn ask(&self, one: Try<'_>) -> io::Result<Answer> {
        let known = self.edns.takes(one.server);
        if known == Some(false) {
            return usable(self.ask_as(one, false).await?);
        }
        let outcome = match self.with_patience(one).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.edns.doubt(one.server);
                return Err(error);
            }
        };
        match outcome {
            Heard::Without(answer) => {
                if answer.kind != Kind::Failure {
                    self.edns.was_silent(one.server);
                }
                Ok(answer)
            }
            Heard::With(Err(Unusable::Edns)) => self.without(one, None).await,
            Heard::With(Ok(answer)) if answer.kind == Kind::Failure => match known {
                // That it takes EDNS is known, so this has another reason.
                Some(_) => {
                    self.edns.fails(one.server);
                    Ok(answer)
                }
                None => self.without(one, Some(answer)).await,
            },
            Heard::With(outcome) => {
                let answer = usable(outcome)?;
                if known.is_none() {
                    self.edns.took(one.server);
                }
                Ok(answer)
            }
        }
    }

    /// Asks with EDNS; without, too, where the server is silent for half of the time. What takes EDNS today may stand behind
    /// something tomorrow that lets such queries vanish, and a packet that was lost is sent again that way.
    async fn with_patience(&self, one: Try<'_>) -> io::Result<Heard> {
        let with = self.ask_as(one, true);
        tokio::pin!(with);
        let half = Instant::now() + one.deadline.saturating_duration_since(Instant::now()) / 2;
        if let Ok(outcome) = timeout_at(half, &mut with).await {
            return outcome.map(Heard::With);
        }
        let without = self.ask_as(one, false);
        tokio::pin!(without);
        tokio::select! {
            outcome = &mut with => match outcome {
                Ok(outcome) => Ok(Heard::With(outcome)),
                Err(_) => usable(without.await?).map(Heard::Without),
            },
            outcome = &mut without => match outcome {
                Ok(Ok(answer)) if answer.kind != Kind::Failure => Ok(Heard::Without(answer)),
                // A failure is no better than what may come yet.
                outcome => with.await.or(outcome).map(Heard::With),
            },
        }
    }

    /// Asks without EDNS what has failed with it.
    async fn without(&self, one: Try<'_>, failed: Option<Answer>) -> io::Result<Answer> {
        match (self.ask_as(one, false).await, failed) {
            (Ok(Ok(answer)), _) if answer.kind != Kind::Failure => {
                self.edns.refused(one.server);
                Ok(answer)
            }
            (_, Some(failed)) => {
                self.edns.fails(one.server);
                Ok(failed)
            }
            (outcome, None) => usable(outcome?),
        }
    }

    async fn ask_as(&self, one: Try<'_>, edns: bool) -> io::Result<Result<Answer, Unusable>> {
        if one.tcp {
            return timeout_at(one.deadline, self.ask_tcp(one, edns)).await?;
        }
        let (outcome, packet) = self.ask_udp(one, edns).await?;
        if !matches!(outcome, Err(Unusable::Truncated)) {
            return Ok(outcome);
        }
        one.stats.upstream_tcp.inc();
        match timeout_at(one.deadline, self.ask_tcp(one, edns)).await.map_err(io::Error::from).flatten() {
            // What came over UDP is better than nothing, for those who can use a part (it says that it is one). Where it has
            // none, its flag still says what a failure would not: that there is more, and how to ask for it.
            Err(error) => match cut_answer(&packet, one.query, edns) {
                Some(answer) => Ok(Ok(answer)),
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    async fn ask_udp(&self, one: Try<'_>, edns: bool) -> io::Result<Packet> {
        let local: SocketAddr = match one.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(one.server).await?;
        let id = random_id();
        one.stats.upstream_queries.inc();
        socket.send(&one.query.for_upstream(id, edns)).await?;
        // Servers keep to the size we offered, but a longer answer is an answer too.
        let mut buffer = vec![0; 4096];
        loop {
            let length = timeout_at(one.deadline, socket.recv(&mut buffer)).await??;
            let packet = buffer.get(..length).unwrap_or_default();
            match parse_answer(packet, one.query, id, edns, self.limits) {
                Err(Unusable::Mismatch) => one.stats.upstream_mismatched.inc(),
                outcome => {
                    buffer.truncate(length);
                    return Ok((outcome, buffer));
                }
            }
        }
    }

    async fn ask_tcp(&self, one: Try<'_>, edns: bool) -> io::Result<Result<Answer, Unusable>> {
        let mut stream = TcpStream::connect(one.server).await?;
        let id = random_id();
        one.stats.upstream_queries.inc();
        let packet = one.query.for_upstream(id, edns);
        // RFC 7766 section 8: length and message in one segment.
        let mut framed = u16::try_from(packet.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        framed.extend(packet);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await?;
        let outcome = parse_answer(&packet, one.query, id, edns, self.limits);
        if matches!(outcome, Err(Unusable::Mismatch)) {
            one.stats.upstream_mismatched.inc();
        }
        Ok(outcome)
    }
}

fn usable(outcome: Result<Answer, Unusable>) -> io::Result<Answer> {
    outcome.map_err(|_| io::ErrorKind::InvalidData.into())
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
