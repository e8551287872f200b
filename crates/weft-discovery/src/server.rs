//! The server that the application's captured DNS packets reach.

use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use weft_core::DnsName;

use crate::config::DiscoveryConfig;
use crate::error::DiscoveryError;
use crate::learned::Learned;
use crate::resolver::{Found, Resolver, Unresolved};
use crate::standing::Meant;
use crate::stats::DiscoveryStats;
use crate::wire::{Kind, Query, Request, SERVFAIL, failure, parse_request, render};

/// Queries of one TCP connection that are answered at a time (RFC 7766 section 6.2.1.1 wants them in parallel).
const PIPELINED: usize = 16;
/// After an error of a listening socket (descriptors used up): long enough not to spin, short enough not to be felt.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an answer waits for the own answer of the mesh name that its aliases lead to.
const OWN_ANSWER: Duration = Duration::from_secs(1);
/// The longest message over UDP, apart from the IP header.
const DATAGRAM: usize = 65_535;

/// Sockets that the DNS server answers on. They are given bound, so that a process can bind before it does anything
/// else and hand them over later.
#[derive(Debug, Default)]
pub struct DnsListeners {
    /// UDP sockets on specific addresses.
    pub udp: Vec<std::net::UdpSocket>,
    /// Listening TCP sockets.
    pub tcp: Vec<std::net::TcpListener>,
}

impl DnsListeners {
    /// Binds UDP and TCP on each address. For redirected queries these are `127.0.0.1` and `::1`, which is where the
    /// kernel's `REDIRECT` target sends packets of the local machine. Port 0 gives both protocols the same free port.
    ///
    /// # Errors
    /// [`DiscoveryError::Wildcard`] for `0.0.0.0` and `::`; [`DiscoveryError::Listen`] where the system refuses.
    pub fn bind(addrs: &[SocketAddr]) -> Result<Self, DiscoveryError> {
        let mut listeners = Self::default();
        for addr in addrs {
            if addr.ip().is_unspecified() {
                return Err(DiscoveryError::Wildcard(*addr));
            }
            let (tcp, udp) =
                bind_both(*addr).map_err(|source| DiscoveryError::Listen { addr: *addr, source })?;
            listeners.tcp.push(tcp);
            listeners.udp.push(udp);
        }
        Ok(listeners)
    }

    /// The addresses that are answered on.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        let udp = self.udp.iter().filter_map(|socket| socket.local_addr().ok());
        let mut addrs: Vec<_> = udp.chain(self.tcp.iter().filter_map(|tcp| tcp.local_addr().ok())).collect();
        addrs.sort_unstable();
        addrs.dedup();
        addrs
    }
}

fn bind_both(addr: SocketAddr) -> std::io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let mut tries = 0;
    loop {
        let tcp = bind_tcp(addr)?;
        match std::net::UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, udp)),
            // The port that was free for TCP may be taken for UDP: try another, unless it was asked for.
            Err(error) if addr.port() != 0 || tries == 16 => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

fn bind_tcp(addr: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
    // A restarted proxy finds connections of the last one in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// What all sockets share.
#[derive(Debug)]
pub(crate) struct Server {
    resolver: Arc<Resolver>,
    learned: Arc<Learned>,
    stats: Arc<DiscoveryStats>,
    /// Queries that wait for upstream.
    waiting: Arc<AtomicUsize>,
    max_waiting: usize,
    max_connections: usize,
    tcp_idle: Duration,
}

/// How an answer may travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a packet.
enum Next {
    Send(Vec<u8>),
    Resolve(Query, Waiting),
    Nothing,
}

impl Server {
    pub(crate) fn new(config: &DiscoveryConfig, resolver: Arc<Resolver>, learned: Arc<Learned>) -> Self {
        Self {
            stats: Arc::clone(&resolver.stats),
            resolver,
            learned,
            waiting: Arc::default(),
            max_waiting: config.max_in_flight.max(1).saturating_mul(4),
            max_connections: config.tcp_connections,
            tcp_idle: config.tcp_idle,
        }
    }

    /// Everything that can be decided without waiting.
    fn first_look(&self, packet: &[u8], transport: Transport) -> Next {
        match parse_request(packet) {
            Request::Drop => {
                self.stats.malformed.inc();
                Next::Nothing
            }
            Request::Reject(answer) => {
                self.stats.rejected.inc();
                Next::Send(answer)
            }
            Request::Query(query) => match self.at_hand(&query) {
                Some((found, own)) => Next::Send(self.reply(&query, &Ok(found), own.as_ref(), transport)),
                None if self.waiting.load(Relaxed) >= self.max_waiting => {
                    Next::Send(self.reply(&query, &Err(Unresolved::Overloaded), None, transport))
                }
                None => Next::Resolve(query, Waiting::new(&self.waiting)),
            },
        }
    }

    /// The answer, and the one for the name that its aliases lead to where that is needed, if nothing has to be waited for.
    fn at_hand(&self, query: &Query) -> Option<(Found, Option<Found>)> {
        let found = self.resolver.at_hand(query, None)?;
        let own = match self.led_to(query, &found) {
            Some(led) => Some(self.resolver.at_hand(&led, None)?),
            None => None,
        };
        Some((found, own))
    }

    async fn resolve(&self, query: &Query, transport: Transport) -> Vec<u8> {
        let outcome = self.resolver.resolve(query, None).await;
        let led = outcome.as_ref().ok().and_then(|found| self.led_to(query, found));
        let own = match led {
            // Without its own answer the name is not believed; the client gets its answer in any case.
            Some(led) => {
                timeout(OWN_ANSWER, self.resolver.resolve(&led, None)).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        self.reply(query, &outcome, own.as_ref(), transport)
    }

    /// The chain of names that an answer gives addresses by, from the question on; nothing where it gives none.
    fn chain(query: &Query, found: &Found) -> Vec<DnsName> {
        let answer = &found.answer;
        let question = if answer.addresses.is_empty() { None } else { query.address_name() };
        question
            .map_or_else(Vec::new, |name| iter::once(name).chain(answer.aliases.iter().cloned()).collect())
    }

    /// The question for the mesh name that the aliases of an answer lead to, where the answer alone is not enough.
    fn led_to(&self, query: &Query, found: &Found) -> Option<Query> {
        if found.answer.aliases.is_empty() {
            return None;
        }
        match self.learned.meant(&Self::chain(query, found), &self.resolver.upstream.search())? {
            Meant::Led { to, .. } => Some(Query::new(to, query.qtype)),
            Meant::Name(_) => None,
        }
    }

    /// Remembers what an answer teaches: whose the addresses are. `own` is the answer for the name it leads to.
    fn learn(&self, query: &Query, found: &Found, own: Option<&Found>) {
        let chain = Self::chain(query, found);
        let search = if chain.len() > 1 { self.resolver.upstream.search() } else { Arc::default() };
        let (now, all) = (Instant::now(), &*found.answer.addresses);
        match self.learned.meant(&chain, &search) {
            None => {}
            Some(Meant::Name(name)) => self.learned.remember(name, all, found.remaining(), now),
            Some(Meant::Led { to, otherwise }) => {
                let has = |ip: &&IpAddr| own.is_some_and(|own| own.answer.addresses.contains(ip));
                let (its, others): (Vec<IpAddr>, Vec<IpAddr>) = all.iter().partition(has);
                let ttl = own.map_or(Duration::ZERO, Found::remaining);
                self.learned.remember_led(otherwise, to, its, ttl, now);
                self.learned.remember(otherwise, &others, found.remaining(), now);
            }
        }
    }

    /// The packet for the client. This is the only place where answers reach the application, so names are learned here.
    fn reply(
        &self,
        query: &Query,
        outcome: &Result<Found, Unresolved>,
        own: Option<&Found>,
        transport: Transport,
    ) -> Vec<u8> {
        let limit = match transport {
            Transport::Udp => query.udp_limit(),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let found = match outcome {
            Ok(found) => found,
            Err(reason) => {
                match reason {
                    Unresolved::Overloaded => self.stats.overloaded.inc(),
                    Unresolved::NoAnswer(_) => self.stats.failed.inc(),
                }
                return render(&failure(query, SERVFAIL), query, |ttl| ttl, limit).0;
            }
        };
        // Over TCP there is no other way left that "truncated" could point to.
        if transport == Transport::Tcp && found.answer.is_cut_away() {
            self.stats.failed.inc();
            return render(&failure(query, SERVFAIL), query, |ttl| ttl, limit).0;
        }
        match found.answer.kind {
            Kind::Positive => self.stats.answered.inc(),
            Kind::Negative => self.stats.negative.inc(),
            Kind::Failure => self.stats.failed.inc(),
        }
        let (packet, cut) = render(&found.answer, query, |old| found.ttl(old), limit);
        if cut {
            self.stats.truncated.inc();
        }
        // Of an answer that was cut as well: a client that knows no TCP connects to what it got of it.
        self.learn(query, found, own);
        packet
    }

    /// Answers on one UDP socket for as long as it is polled.
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "DNS over UDP");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            self.stats.queries_udp.inc();
            // A full send buffer drops the answer, as a network would; the client asks again.
            match self.first_look(buffer.get(..length).unwrap_or_default(), Transport::Udp) {
                Next::Nothing => {}
                Next::Send(answer) => drop(socket.try_send_to(&answer, client)),
                Next::Resolve(query, waiting) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let _waiting = waiting;
                        let answer = server.resolve(&query, Transport::Udp).await;
                        drop(socket.try_send_to(&answer, client));
                    });
                }
            }
        }
    }

    /// Answers on one listening TCP socket for as long as it is polled.
    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) if connections.len() < self.max_connections => {
                    let server = Arc::clone(&self);
                    connections.spawn(async move {
                        let _gauge = Connection::new(&server.stats);
                        let error = server.connection(stream).await.err();
                        tracing::trace!(?error, "DNS over TCP closed");
                    });
                }
                Ok(_) => self.stats.tcp_refused.inc(),
                Err(error) => {
                    tracing::debug!(%error, "DNS over TCP");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// One TCP connection: length-prefixed messages, several under way at a time, answers as they come.
    async fn connection(self: &Arc<Self>, mut stream: TcpStream) -> std::io::Result<()> {
        let mut answers: JoinSet<Vec<u8>> = JoinSet::new();
        let mut received: Vec<u8> = Vec::new();
        let mut open = true;
        while open || !answers.is_empty() {
            tokio::select! {
                read = timeout(self.tcp_idle, stream.read_buf(&mut received)),
                    if open && answers.len() < PIPELINED =>
                {
                    match read {
                        // Idle is a connection without a query: one that waits for us is not.
                        Err(_) if answers.is_empty() => return Ok(()),
                        Err(_) => continue,
                        Ok(read) => open = read? != 0,
                    }
                }
                Some(answer) = answers.join_next() => {
                    if let Ok(answer) = answer {
                        self.send(&mut stream, &answer).await?;
                    }
                }
            }
            while answers.len() < PIPELINED
                && let Some(message) = take_message(&mut received)
            {
                self.stats.queries_tcp.inc();
                match self.first_look(&message, Transport::Tcp) {
                    // Framing that holds no DNS will not get better.
                    Next::Nothing => return Ok(()),
                    Next::Send(answer) => self.send(&mut stream, &answer).await?,
                    Next::Resolve(query, waiting) => {
                        let server = Arc::clone(self);
                        answers.spawn(async move {
                            let _waiting = waiting;
                            server.resolve(&query, Transport::Tcp).await
                        });
                    }
                }
            }
        }
        Ok(())
    }

    async fn send(&self, stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let mut framed = Vec::with_capacity(2 + answer.len());
        framed.extend(length.to_be_bytes());
        framed.extend(answer);
        timeout(self.tcp_idle, stream.write_all(&framed)).await?
    }
}

/// The first whole message of what was received (RFC 1035 section 4.2.2), taken out of it.
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(received.get(..2)?.try_into().ok()?));
    let message = received.get(2..2 + length)?.to_vec();
    received.drain(..2 + length);
    Some(message)
}

/// Counts a query as waiting from the moment it was taken in, not from when its task first runs.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The gauge of open connections.
struct Connection<'a>(&'a DiscoveryStats);

impl<'a> Connection<'a> {
    fn new(stats: &'a DiscoveryStats) -> Self {
        stats.tcp_connections.inc();
        Self(stats)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.tcp_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_listen_on_the_same_port_of_each_address() {
        let listeners =
            DnsListeners::bind(&["127.0.0.1:0", "[::1]:0"].map(|addr| addr.parse().unwrap())).unwrap();
        assert_eq!((listeners.udp.len(), listeners.tcp.len(), listeners.addrs().len()), (2, 2, 2));
    }

    #[test]
    fn a_wildcard_and_a_port_in_use_are_refused_with_the_reason() {
        let wildcard = DnsListeners::bind(&["0.0.0.0:0".parse().unwrap()]).unwrap_err();
        assert!(wildcard.to_string().contains("specific address"), "{wildcard}");
        let taken = DnsListeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let addr = taken.addrs()[0];
        let error = DnsListeners::bind(&[addr]).unwrap_err();
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }

    #[test]
    fn messages_are_taken_whole_and_in_order() {
        let mut received = vec![0, 2, 7, 8, 0, 0, 0, 3, 1];
        assert_eq!(take_message(&mut received), Some(vec![7, 8]));
        assert_eq!(take_message(&mut received), Some(vec![]));
        assert_eq!(take_message(&mut received), None);
        assert_eq!(received, [0, 3, 1]);
    }
}
