//! What was read from a socket and not used yet.
//!
//! A connection that waits for its peer holds no buffer: thousands of idle ones are common, and theirs would be a waste.
//! A read goes into a buffer of the thread, of which just what came is cut off.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio_util::io::poll_read_buf;

use super::Io;

/// The bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) buf: BytesMut,
    /// The peer has closed its sending half.
    pub(super) closed: bool,
    /// Bodies on this connection were large, so the next one may be.
    large: bool,
}

/// What a thread reads into: small pieces of heads, and large ones of bodies.
#[derive(Default)]
struct Arena {
    small: BytesMut,
    large: BytesMut,
}

thread_local! {
    static ARENA: RefCell<Arena> = RefCell::default();
}

/// What is allocated at once, and the least that a read has room for. A large piece is what one frame of a mesh link takes
/// ([`crate::Http2Limits::max_frame_size`]), so that it is not cut again.
const SMALL: (usize, usize) = (16 * 1024, 4 * 1024);
const LARGE: (usize, usize) = (128 * 1024, 64 * 1024);

impl Input {
    /// Reads once. 0: the peer has closed its sending half.
    pub(super) fn poll_fill(&mut self, io: &mut dyn Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Ok(0));
        }
        let read = if self.buf.is_empty() {
            self.poll_fill_empty(io, cx)
        } else {
            // The rest of a head that came in pieces.
            self.buf.reserve(SMALL.1);
            poll_read_buf(Pin::new(io), cx, &mut self.buf)
        };
        let read = ready!(read)?;
        self.closed = read == 0;
        Poll::Ready(Ok(read))
    }

    fn poll_fill_empty(&mut self, io: &mut dyn Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let large = self.large;
        let (size, least) = if large { LARGE } else { SMALL };
        // Taken out and put back: reading must not find it borrowed.
        let mut arena = ARENA
            .with_borrow_mut(|arena| std::mem::take(if large { &mut arena.large } else { &mut arena.small }));
        if arena.capacity() < least {
            arena.reserve(size);
        }
        let read = poll_read_buf(Pin::new(io), cx, &mut arena);
        // Even an empty piece would keep the whole arena alive, for as long as its connection waits.
        self.buf = if arena.is_empty() { BytesMut::new() } else { arena.split() };
        ARENA.with_borrow_mut(|kept| *(if large { &mut kept.large } else { &mut kept.small }) = arena);
        read
    }

    /// A body of so many octets begins, or of unknown length.
    pub(super) fn expect(&mut self, octets: Option<u64>) {
        self.large = octets.is_none_or(|octets| octets > SMALL.0 as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_connection_that_waits_holds_nothing() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut input = Input::default();
        let mut bytes: &[u8] = b"one request";
        let mut io = tokio::io::join(&mut bytes, tokio::io::empty());
        assert!(input.poll_fill(&mut io, &mut cx).is_ready());
        let _ = input.buf.split();
        let (mut io, _peer) = tokio::io::duplex(8);
        assert!(input.poll_fill(&mut io, &mut cx).is_pending());
        // What was cut off before is gone, so the arena is its thread's alone again.
        assert!(ARENA.with_borrow_mut(|arena| arena.small.try_reclaim(SMALL.0)));
        drop(input);
    }
}
