//! The accept loop: takes connections, and survives everything that `accept(2)` may answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};
use weft_core::ClientAddr;

use crate::{Destination, Listener, original_dst};

/// The first pause after a failure that leaves the connection in the queue.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause. Descriptors are freed by connections that close, so looking once a second is soon enough.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that was taken in.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, nonblocking, with the options of the listener.
    pub stream: TcpStream,
    /// Who connected.
    pub client: ClientAddr,
    /// The socket's own address, in canonical form: for a captured connection the port of the proxy, not of the service.
    pub local: SocketAddr,
}

impl Accepted {
    /// Where the client was going: see [`original_dst`].
    ///
    /// # Errors
    /// As [`original_dst`].
    pub fn destination(&self) -> io::Result<Destination> {
        original_dst(&self.stream, self.local)
    }
}

/// What happened instead of a connection; for a counter and a log line.
#[derive(Debug)]
pub enum AcceptEvent<'a> {
    /// The connection was gone before it was taken, or the network refused it. The next one is tried at once.
    Skipped(&'a io::Error),
    /// Descriptors or memory ran out (or an error that is not known to pass): nothing is accepted for a while.
    Paused {
        /// What `accept` said.
        error: &'a io::Error,
        /// How long nothing is accepted.
        pause: Duration,
    },
}

/// Accepts connections on the worker's runtime.
pub struct Acceptor {
    listener: TcpListener,
    local: SocketAddr,
    on_event: Box<dyn FnMut(AcceptEvent<'_>)>,
    pause: Duration,
    paused_until: Option<Instant>,
}

/// Drops what asks for a new connection, and nothing else: a SYN without an ACK. The kernel runs it over the TCP header (RFC 9293
/// section 3.1: the control bits are octet 13; ACK is 0x10, SYN 0x02), in the instructions of linux/filter.h: the octet is
/// loaded (`BPF_LD | BPF_B | BPF_ABS`), masked (`BPF_ALU | BPF_AND | BPF_K`) and compared (`BPF_JMP | BPF_JEQ | BPF_K`); what
/// `BPF_RET | BPF_K` says is how many octets of the packet are left.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

impl Acceptor {
    /// Registers a listener with the runtime of the calling thread.
    ///
    /// # Errors
    /// Where the runtime's poller refuses the descriptor.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn new(listener: Listener) -> io::Result<Self> {
        let local = listener.local_addr();
        let listener = TcpListener::from_std(listener.into_std())?;
        Ok(Self { listener, local, on_event: Box::new(|_| ()), pause: FIRST_PAUSE, paused_until: None })
    }

    /// Calls `f` on everything that is not a connection.
    #[must_use]
    pub fn on_event(mut self, f: impl FnMut(AcceptEvent<'_>) + 'static) -> Self {
        self.on_event = Box::new(f);
        self
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Has the kernel let nobody in any more, as if the first packets of new clients were lost: they send them again, and find the
    /// port closed or another process listening on it. Whoever was answered already may still finish and is to be taken in
    /// ([`Self::accept`]): closing at once would reset those who come between that and the end.
    ///
    /// # Errors
    /// The kernel takes no filters: then there is that moment.
    pub fn stop_admitting(&self) -> io::Result<()> {
        SockRef::from(&self.listener).attach_filter(&NO_SYN)
    }

    /// The next connection. Never fails and never spins: errors are told to the callback and waited out.
    ///
    /// Cancel-safe: a pause goes on where it was when the future is dropped and made anew.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            match self.accept_once().await {
                Ok(accepted) => {
                    self.pause = FIRST_PAUSE;
                    return accepted;
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    async fn accept_once(&self) -> io::Result<Accepted> {
        let (stream, client) = self.listener.accept().await?;
        // The bound address is the local address unless it is a wildcard: one system call less.
        let local = if self.local.ip().is_unspecified() { stream.local_addr()? } else { self.local };
        Ok(Accepted { stream, client: ClientAddr::new(client), local: weft_core::canonical(local) })
    }

    fn failed(&mut self, error: &io::Error) {
        if passes(error) {
            (self.on_event)(AcceptEvent::Skipped(error));
            return;
        }
        let pause = self.pause;
        (self.on_event)(AcceptEvent::Paused { error, pause });
        self.paused_until = Some(Instant::now() + pause);
        self.pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Whether the failed call took the connection out of the queue, so that the next call may succeed.
///
/// accept(2), "Error handling": Linux passes pending network errors of the new socket on, and they are to be treated
/// like EAGAIN. Everything else (EMFILE, ENFILE, ENOBUFS, ENOMEM, and what nobody thought of) leaves the queue as it is,
/// and trying again at once would spin.
fn passes(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::AGAIN
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::NOTCONN
                | Errno::TIMEDOUT
        )
    )
}
