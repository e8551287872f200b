//! Listening sockets.
//!
//! A [`Listener`] is bound before the workers start, outside any runtime, so that a port that is taken ends the process
//! with a clear error and not a thread with a silent one. Each worker binds its own socket to the same port
//! (`SO_REUSEPORT`): the kernel spreads connections over them by a hash of the 4-tuple, and no lock or hand-off is
//! needed. Options for accepted connections are set on the listening socket, from which Linux copies them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::SocketOptions;

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn` (4096 by default).
    pub backlog: u32,
    /// `SO_REUSEPORT`: every worker binds its own socket to the port.
    pub reuse_port: bool,
    /// `IPV6_V6ONLY`. Off, an IPv6 wildcard takes IPv4 connections too, with IPv4-mapped addresses.
    pub v6_only: bool,
    /// What accepted connections inherit.
    pub accepted: SocketOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 4096, reuse_port: true, v6_only: false, accepted: SocketOptions::default() }
    }
}

/// A bound and listening socket that no runtime knows yet. [`crate::Acceptor::new`] gives it to one.
#[derive(Debug)]
pub struct Listener {
    socket: std::net::TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// What `socket`, `setsockopt`, `bind` or `listen` say: a port in use, an address that is not local, no permission.
    pub fn bind(addr: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // Without SO_REUSEADDR a restart fails while connections of the previous process are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(options.v6_only)?;
        }
        options.accepted.apply(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        let socket = std::net::TcpListener::from(socket);
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Listens on a port on all addresses of both families.
    ///
    /// One dual-stack IPv6 socket serves both: half the descriptors and accept loops of a pair of sockets, and no window
    /// in which one family answers and the other does not. IPv4 peers appear with mapped addresses, which
    /// [`weft_core::canonical`] undoes where they enter, and `SO_ORIGINAL_DST` works on such sockets. Where the kernel
    /// has no IPv6, the IPv4 wildcard is bound.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_any(port: u16, options: &ListenOptions) -> io::Result<Self> {
        let options = ListenOptions { v6_only: false, ..*options };
        match Self::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), &options) {
            Err(error) if no_ipv6(&error) => {
                Self::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), &options)
            }
            result => result,
        }
    }

    /// The address that was bound, with the port the kernel chose where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The socket, for a server that has an accept loop of its own.
    pub fn into_std(self) -> std::net::TcpListener {
        self.socket
    }
}

/// `EAFNOSUPPORT`: built without IPv6 or `ipv6.disable=1`. `EADDRNOTAVAIL`: `net.ipv6.conf.*.disable_ipv6=1`.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}
