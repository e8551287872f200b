//! One direction of a plaintext relay, carried by the kernel: socket, pipe, socket, and no byte in user space.
//!
//! A pipe is on loan from the thread's pool while bytes are under way. The socket is spliced from only when the pipe is
//! empty: `EAGAIN` then means that the socket has nothing, and never that the pipe is full.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::flow::{Flow, FlowError, PER_TURN};

/// Size of a pipe. The default of 64 KiB doubles the system calls; more than this brings nothing (measured), and what is
/// in a pipe must fit into one large buffer when splicing has to be given up. Unprivileged users may have 64 MiB of pipes
/// (`fs.pipe-user-pages-soft`); beyond that the kernel refuses to enlarge, and the default size serves.
const PIPE_SIZE: usize = 256 << 10;

/// Empty pipes a thread keeps.
const KEPT_PIPES: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused beyond the user's limit; then it is a smaller pipe.
        let _ = fcntl_setpipe_size(&writer, PIPE_SIZE);
        Ok(Self { reader, writer })
    }

    /// Gives an empty pipe back.
    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < KEPT_PIPES {
                pipes.push(self);
            }
        });
    }
}

/// Pipes the thread keeps.
#[cfg(test)]
pub(super) fn kept_pipes() -> usize {
    PIPES.with_borrow(Vec::len)
}

/// How splicing came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpliceEnd {
    /// The data has ended, and all of it is written.
    Eof,
    /// The kernel refuses, or there is no pipe to be had.
    Unsupported,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Splice {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
}

impl Splice {
    pub(super) fn new() -> Self {
        Self { pipe: None, held: 0 }
    }

    /// Moves what can be moved.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        counter: &Cell<u64>,
    ) -> Poll<Result<SpliceEnd, FlowError>> {
        let mut moved = 0;
        loop {
            let step = if self.held == 0 { self.poll_in(cx, from) } else { self.poll_out(cx, to) };
            match ready!(step)? {
                Step::Ended(end) => return Poll::Ready(Ok(end)),
                Step::In => {}
                Step::Out(n) => {
                    counter.set(counter.get() + n as u64);
                    moved += n;
                }
            }
            if moved >= PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Fills the empty pipe from the socket.
    pub(super) fn poll_in(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<Result<Step, FlowError>> {
        loop {
            let Poll::Ready(ready) = from.poll_read_ready(cx) else {
                if let Some(pipe) = self.pipe.take() {
                    pipe.give_back();
                }
                return Poll::Pending;
            };
            ready.map_err(FlowError::Read)?;
            let pipe = match self.pipe.take().map_or_else(Pipe::take, Ok) {
                Ok(pipe) => self.pipe.insert(pipe),
                Err(_) => return Poll::Ready(Ok(Step::Ended(SpliceEnd::Unsupported))),
            };
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let spliced = from
                .try_io(Interest::READABLE, || Ok(splice(from, None, &pipe.writer, None, PIPE_SIZE, flags)?));
            return Poll::Ready(match spliced {
                Ok(0) => {
                    if let Some(pipe) = self.pipe.take() {
                        pipe.give_back();
                    }
                    Ok(Step::Ended(SpliceEnd::Eof))
                }
                Ok(n) => {
                    self.held = n;
                    Ok(Step::In)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if unsupported(&error) => Ok(Step::Ended(SpliceEnd::Unsupported)),
                Err(error) => Err(FlowError::Read(error)),
            });
        }
    }

    /// Empties the pipe into the socket.
    fn poll_out(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<Result<Step, FlowError>> {
        let Some(pipe) = &self.pipe else {
            // Bytes without a pipe to hold them cannot be; ending is the safe answer.
            return Poll::Ready(Ok(Step::Ended(SpliceEnd::Unsupported)));
        };
        loop {
            ready!(to.poll_write_ready(cx)).map_err(FlowError::Write)?;
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let spliced =
                to.try_io(Interest::WRITABLE, || Ok(splice(&pipe.reader, None, to, None, self.held, flags)?));
            return Poll::Ready(match spliced {
                Ok(0) => Err(FlowError::Write(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.held -= n.min(self.held);
                    Ok(Step::Out(n))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if unsupported(&error) => Ok(Step::Ended(SpliceEnd::Unsupported)),
                Err(error) => Err(FlowError::Write(error)),
            });
        }
    }

    /// Hands what is in the pipe to a buffer.
    pub(super) fn give_up(mut self, flow: &mut Flow) -> io::Result<()> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        let held = self.held;
        if held > 0 {
            flow.inject(|buffer| {
                let mut filled = 0;
                while filled < held {
                    let room = buffer.get_mut(filled..held).unwrap_or_default();
                    match rustix::io::read(&pipe.reader, room)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        n => filled += n,
                    }
                }
                Ok(filled)
            })?;
        }
        pipe.give_back();
        Ok(())
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        // A pipe with bytes in it must not reach another connection: it is closed.
        if self.held == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipe.give_back();
        }
    }
}

#[derive(Debug)]
pub(super) enum Step {
    In,
    Out(usize),
    Ended(SpliceEnd),
}

/// `EINVAL` and `ENOSYS`: sandboxes and odd kernels; `EPERM`: a seccomp filter.
fn unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::PERM))
}
