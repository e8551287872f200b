//! Why a stream was reset, as HTTP/2 says it.

use std::cell::Cell;
use std::fmt;

use h2::Reason;

use crate::BodyError;

/// The code of an RST_STREAM (RFC 9113 section 7), any number that a peer may send. It means something to clients (gRPC has a
/// status for each), so it passes from one side to the other as it came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ResetCode(Reason);

impl ResetCode {
    /// Nobody wants the stream any more.
    pub const CANCEL: Self = Self(Reason::CANCEL);
    /// Something went wrong on this side.
    pub const INTERNAL_ERROR: Self = Self(Reason::INTERNAL_ERROR);
    /// The request was not looked at, and may be sent again.
    pub const REFUSED_STREAM: Self = Self(Reason::REFUSED_STREAM);

    /// The number.
    pub fn get(self) -> u32 {
        self.0.into()
    }

    /// The code by which a peer ended a body, where it is one that gave a code.
    pub(crate) fn of(error: &BodyError) -> Option<Self> {
        match error {
            BodyError::Http2(error) if !error.is_go_away() => error.reason().map(Self),
            _ => None,
        }
    }
}

thread_local! {
    /// The code by which a client has ended the exchange that is being dropped.
    static LEAVING: Cell<Option<ResetCode>> = const { Cell::new(None) };
}

/// A client has given an exchange up, and what was done for it is dropped. A stream that was opened for it is reset with the
/// client's code, however deep in there it is.
#[derive(Debug)]
pub(crate) struct Leaving(());

impl Leaving {
    /// Until this is dropped, in one breath: nothing else is polled on this thread meanwhile.
    pub(crate) fn by(code: Option<ResetCode>) -> Self {
        LEAVING.set(code);
        Self(())
    }

    /// The client's code, while what is asking is dropped for that reason.
    pub(crate) fn code() -> Option<ResetCode> {
        LEAVING.get()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        LEAVING.set(None);
    }
}

impl From<u32> for ResetCode {
    fn from(code: u32) -> Self {
        Self(code.into())
    }
}

impl From<Reason> for ResetCode {
    fn from(reason: Reason) -> Self {
        Self(reason)
    }
}

impl From<ResetCode> for Reason {
    fn from(code: ResetCode) -> Self {
        code.0
    }
}

impl fmt::Debug for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
