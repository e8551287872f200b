use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A stream whose bytes are the socket's bytes: no cipher in between, so the kernel may move them by itself.
pub trait PlainTcp: AsyncRead + AsyncWrite + Unpin {
    /// The socket.
    fn tcp(&self) -> &TcpStream;

    /// Whether everything that was read from the socket has been handed on, so that the next byte is in the kernel.
    fn is_drained(&self) -> bool;
}

impl PlainTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn is_drained(&self) -> bool {
        true
    }
}

impl<S: PlainTcp + ?Sized> PlainTcp for &mut S {
    fn tcp(&self) -> &TcpStream {
        (**self).tcp()
    }

    fn is_drained(&self) -> bool {
        (**self).is_drained()
    }
}
