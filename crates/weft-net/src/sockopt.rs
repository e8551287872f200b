//! Socket options, set in place.
//!
//! Options are set through [`socket2::SockRef`], which borrows the descriptor. Turning a tokio stream into a std stream
//! and back does the same at the price of one epoll removal and one addition per option.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::PlainTcp;

/// TCP keepalive: what finds a peer that is gone without a word. It is local to a hop, so a proxy makes it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe (`TCP_KEEPIDLE`; whole seconds).
    pub idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`; whole seconds).
    pub interval: Duration,
    /// Unanswered probes before the connection counts as dead (`TCP_KEEPCNT`).
    pub count: u32,
}

impl Default for Keepalive {
    /// 60 s, then 6 probes 10 s apart: a dead peer is found within two minutes, below the 350 s at which common NAT
    /// gateways and network load balancers forget idle flows.
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 }
    }
}

/// Options that every TCP socket of the proxy gets.
///
/// On Linux an accepted socket inherits all of them from its listener, so they cost no system call per connection there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// `TCP_NODELAY`. A proxy writes whole messages; Nagle's algorithm only adds delay to them.
    pub nodelay: bool,
    /// Keepalive probes; `None` leaves them off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged before the connection is given up. Keepalive does
    /// not probe while data is in flight, so this covers a peer that vanishes in the middle of a transfer.
    pub user_timeout: Option<Duration>,
}

impl Default for SocketOptions {
    /// No Nagle delay, default keepalive, 60 s user timeout.
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            user_timeout: Some(Duration::from_secs(60)),
        }
    }
}

impl SocketOptions {
    /// Sets the options on a socket.
    ///
    /// # Errors
    /// What `setsockopt` says; on Linux that is a value out of range or a socket that is already closed.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(keepalive) = self.keepalive {
            let params = TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count);
            socket.set_tcp_keepalive(&params)?;
        }
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

/// Closes a connection abruptly: the peer gets RST, not FIN, and nothing stays behind in TIME_WAIT.
///
/// For refusals and for passing on an abort. Data that was sent and not yet acknowledged is dropped. Where a peer is in
/// FIN_WAIT or already gone, this is an ordinary close.
pub fn reset(stream: TcpStream) {
    reset_on_drop(&stream);
    drop(stream);
}

/// Arranges that the stream, whatever wraps it, is [`reset`] when it is dropped.
pub fn reset_on_drop(stream: &impl PlainTcp) {
    // An error here means that the socket is gone already, which is what is wanted.
    let _ = SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
}
