//! Where a captured connection was going.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;
use weft_core::{OriginalDst, canonical};

/// How a connection came to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// iptables redirected it; this is where the client was going.
    Captured(OriginalDst),
    /// The client dialed the proxy itself, at this address.
    Direct(SocketAddr),
}

/// Asks the kernel where the client of an accepted connection was going (`SO_ORIGINAL_DST`, and `IP6T_SO_ORIGINAL_DST`
/// for IPv6). An IPv4 connection on a dual-stack socket is asked for by the IPv4 option, whatever the socket's family.
///
/// `local` is the accepted socket's own address. conntrack knows every connection, also those that no rule changed; for
/// them it answers with the address that was dialed, which then equals `local`.
///
/// # Errors
/// What `getsockopt` says, apart from the answers that mean "not redirected".
pub fn original_dst(stream: &TcpStream, local: SocketAddr) -> io::Result<Destination> {
    let local = canonical(local);
    let socket = SockRef::from(stream);
    let answer = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let dialed = match answer {
        Ok(addr) => addr.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?,
        Err(error) if not_tracked(&error) => return Ok(Destination::Direct(local)),
        Err(error) => return Err(error),
    };
    // Scope and flow label are no part of where a client goes.
    let dialed = SocketAddr::new(dialed.ip(), dialed.port());
    let captured = OriginalDst::new(dialed);
    if captured.get() == SocketAddr::new(local.ip(), local.port()) {
        return Ok(Destination::Direct(local));
    }
    Ok(Destination::Captured(captured))
}

/// `ENOENT`: conntrack has no entry. `ENOPROTOOPT`: conntrack is not loaded, so nothing can have been redirected.
fn not_tracked(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOPROTOOPT))
}
