//! The self-test: connections to places where nobody listens, which succeed only when the rules redirect them here.
//!
//! It runs after the rules are written and before the proxy starts, takes the proxy's ports for a moment, and needs no
//! other machine. Outbound and DNS are probed as the user that runs it, which must not be the proxy's. The inbound side
//! is probed by the self-call rule, for which a thread takes the proxy's user id; the rule for connections from outside
//! cannot be met from inside and is checked by its text ([`verify_installed`]).

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::process::Uid;

use crate::backend::own_addresses;
use crate::config::{Family, InterceptConfig};
use crate::error::InterceptError;
use crate::install::{Host, Report, verify_installed};

/// All is on one machine: what takes longer than this does not come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Documentation addresses (RFC 5737, RFC 3849): nobody answers there.
const NOWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Checks the rules, then proves them.
///
/// # Errors
/// The first rule that is missing, or the first probe that was not redirected.
pub fn verify(config: &InterceptConfig, host: &Host) -> Result<Report, InterceptError> {
    config.validate()?;
    let mut report = verify_installed(config, host)?;
    let families: Vec<Family> = report.families.iter().map(|(family, _)| *family).collect();
    for family in families {
        Probe { config, family, notices: &mut report.notices }.all()?;
    }
    Ok(report)
}

struct Probe<'a> {
    config: &'a InterceptConfig,
    family: Family,
    notices: &'a mut Vec<String>,
}

impl Probe<'_> {
    fn all(&mut self) -> Result<(), InterceptError> {
        if rustix::process::geteuid().as_raw() == self.config.proxy_uid {
            return Err(
                self.failed("run", "the self-test cannot run as the proxy's own user; run it as another")
            );
        }
        let own = own_addresses(self.family).into_iter().next();
        self.outbound(own)?;
        self.dns(own)?;
        self.self_call(own)
    }

    fn failed(&self, what: &'static str, reason: impl Into<String>) -> InterceptError {
        InterceptError::Probe { family: self.family, what, reason: reason.into() }
    }

    fn notice(&mut self, text: String) {
        self.notices.push(text);
    }

    fn loopback(&self, port: u16) -> SocketAddr {
        match self.family {
            Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
            Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }

    fn outbound(&mut self, own: Option<IpAddr>) -> Result<(), InterceptError> {
        const WHAT: &str = "outbound";
        let Some(target) = self.outbound_target(own) else {
            self.notice(format!(
                "{}: outbound is not probed: every destination that could be is excluded",
                self.family
            ));
            return Ok(());
        };
        let listener = self.listen(WHAT, self.config.outbound_port)?;
        match try_tcp(&listener, target, None) {
            Ok(()) => Ok(()),
            Err(error) if is_unroutable(&error) => {
                self.notice(format!("{}: outbound is not probed: no address and no route", self.family));
                Ok(())
            }
            Err(error) => Err(self.failed(
                WHAT,
                format!(
                    "a connection to {target} did not arrive at port {} ({error})",
                    self.config.outbound_port
                ),
            )),
        }
    }

    /// A destination that the rules must capture: the pod's own address, which always has a route, where it may be.
    fn outbound_target(&self, own: Option<IpAddr>) -> Option<SocketAddr> {
        let config = self.config;
        let included: Vec<IpAddr> = config
            .include_outbound_cidrs
            .iter()
            .map(|net| net.addr())
            .filter(|ip| self.family.has(*ip))
            .collect();
        let candidates =
            own.into_iter().chain(NOWHERE.into_iter().filter(|ip| self.family.has(*ip))).chain(included);
        let allowed = |ip: &IpAddr| {
            let within = |nets: &[ipnet::IpNet]| nets.iter().any(|net| net.contains(ip));
            (config.include_outbound_cidrs.is_empty() || within(&config.include_outbound_cidrs))
                && !within(&config.exclude_outbound_cidrs)
        };
        let port =
            free_port(&config.include_outbound_ports, &config.exclude_outbound_ports, &config.never())?;
        candidates.into_iter().find(allowed).map(|ip| SocketAddr::new(ip, port))
    }

    fn dns(&mut self, own: Option<IpAddr>) -> Result<(), InterceptError> {
        let Some(port) = self.config.dns_port else { return Ok(()) };
        let nowhere = NOWHERE.into_iter().find(|ip| self.family.has(*ip));
        let Some(server) = own.or(nowhere).map(|ip| SocketAddr::new(ip, 53)) else { return Ok(()) };
        let listener = self.listen("DNS over TCP", port)?;
        match try_tcp(&listener, server, None) {
            Ok(()) => {}
            Err(error) if is_unroutable(&error) => {
                self.notice(format!("{}: DNS is not probed: no address and no route", self.family));
                return Ok(());
            }
            Err(error) => {
                return Err(
                    self.failed("DNS over TCP", format!("a query did not arrive at port {port} ({error})"))
                );
            }
        }
        match self.try_udp(server, port) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.notice(format!(
                    "{}: the answer to a DNS query is not probed: no CAP_SETUID",
                    self.family
                ));
                Ok(())
            }
            Err(error) => {
                Err(self.failed("DNS over UDP", format!("a query did not make the round trip ({error})")))
            }
        }
    }

    /// A query there and an answer back: the answer passes only when the rewriting is undone. False where the answer
    /// could not be tried, because only a socket of the proxy's user answers in the zone of the question.
    fn try_udp(&self, server: SocketAddr, port: u16) -> io::Result<bool> {
        let at = self.loopback(port);
        let (proxy, whole) = match as_user(self.config.proxy_uid, move || UdpSocket::bind(at)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (UdpSocket::bind(at)?, false),
            bound => (bound?, true),
        };
        let client = UdpSocket::bind(SocketAddr::new(unspecified(self.family), 0))?;
        proxy.set_read_timeout(Some(PATIENCE))?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.connect(server)?;
        let nonce = nonce(&client.local_addr()?);
        client.send(&nonce)?;
        let mut buffer = [0; 64];
        let (read, from) = proxy.recv_from(&mut buffer)?;
        if buffer.get(..read) != Some(&nonce[..]) {
            return Err(io::Error::other("another datagram came"));
        }
        if whole {
            proxy.send_to(b"answer", from)?;
            let read = client.recv(&mut buffer)?;
            if buffer.get(..read) != Some(&b"answer"[..]) {
                return Err(io::Error::other("another answer came"));
            }
        }
        Ok(whole)
    }

    fn self_call(&mut self, own: Option<IpAddr>) -> Result<(), InterceptError> {
        const WHAT: &str = "call of the pod to itself";
        let Some(own) = own else {
            self.notice(format!(
                "{}: the call of the pod to itself is not probed: the pod has no address",
                self.family
            ));
            return Ok(());
        };
        let Some(port) = free_port(&[], &[], &self.config.never()) else { return Ok(()) };
        let listener = self.listen(WHAT, self.config.inbound_port)?;
        let (target, uid, from) = (SocketAddr::new(own, port), self.config.proxy_uid, self.loopback(0));
        match try_tcp(&listener, target, Some((uid, from))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.notice(format!(
                    "{}: the call of the pod to itself is not probed: no CAP_SETUID",
                    self.family
                ));
                return Ok(());
            }
            Err(error) => {
                let port = self.config.inbound_port;
                return Err(self.failed(
                    WHAT,
                    format!("a connection to {target} did not arrive at port {port} ({error})"),
                ));
            }
        }
        // And the opposite: an ordinary connection of the proxy must not come back to it.
        let outbound = self.listen(WHAT, self.config.outbound_port)?;
        match try_tcp(&outbound, target, Some((uid, SocketAddr::new(own, 0)))) {
            Ok(()) => Err(self.failed(WHAT, "the proxy's own traffic is captured: it would loop")),
            Err(_) => Ok(()),
        }
    }

    fn listen(&self, what: &'static str, port: u16) -> Result<TcpListener, InterceptError> {
        TcpListener::bind(self.loopback(port)).map_err(|error| {
            let cure = if error.kind() == io::ErrorKind::AddrInUse {
                "; the self-test takes the proxy's ports for a moment, so run it before the proxy starts or while it is stopped"
            } else {
                ""
            };
            self.failed(what, format!("port {port} cannot be listened on ({error}){cure}"))
        })
    }
}

/// Connects to `target` (as another user and from another address where given) and looks whether `listener` gets it.
fn try_tcp(listener: &TcpListener, target: SocketAddr, from: Option<(u32, SocketAddr)>) -> io::Result<()> {
    let mut client = match from {
        None => TcpStream::connect_timeout(&target, PATIENCE)?,
        Some((uid, from)) => as_user(uid, move || dial(from, target))?,
    };
    let nonce = nonce(&client.local_addr()?);
    client.write_all(&nonce)?;
    wait(listener)?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 16];
    server.read_exact(&mut buffer)?;
    if buffer == nonce { Ok(()) } else { Err(io::Error::other("another connection came")) }
}

/// Connects from `from`. To a local address the kernel answers at once.
fn dial(from: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &from)?;
    connect(&socket, &target)?;
    Ok(socket.into())
}

/// Runs `work` on a thread of its own that has taken `uid`: on Linux user ids are a thread's, and the owner match looks
/// at the one that the socket was made with.
fn as_user<T: Send + 'static>(
    uid: u32,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let uid = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        work()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the probe's thread failed")))
}

fn wait(listener: &impl AsFd) -> io::Result<()> {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let limit = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&limit))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it went elsewhere")),
        _ => Ok(()),
    }
}

/// Sixteen octets that no other connection carries by accident.
fn nonce(local: &SocketAddr) -> [u8; 16] {
    use std::hash::{BuildHasher as _, RandomState};
    let half = || RandomState::new().hash_one(local).to_ne_bytes();
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&half());
    nonce[8..].copy_from_slice(&half());
    nonce
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn is_unroutable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable
    )
}

/// A port that is captured: included, not excluded, not the proxy's, not DNS.
fn free_port(include: &[crate::PortRange], exclude: &[crate::PortRange], never: &[u16]) -> Option<u16> {
    let captured = |port: &u16| {
        *port != 53
            && (include.is_empty() || include.iter().any(|r| r.contains(*port)))
            && !exclude.iter().any(|r| r.contains(*port))
            && !never.contains(port)
    };
    // From the top: nothing listens there, as ephemeral ports end at 60999 by default.
    (1..=u16::MAX).rev().find(captured)
}
