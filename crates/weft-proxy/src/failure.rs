//! Why a request has no answer, and what it may have done nevertheless.

use weft_http::{BodyError, ErrorCode, ExchangeError, Http1Error, Http1Fault, ResetCode};

use crate::dial::DialError;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    /// The code of the upstream's RST_STREAM. It means something to an HTTP/2 client (RFC 9113 section 7: REFUSED_STREAM
    /// allows a retry; gRPC has a status for each), so it is passed on as it is.
    pub(crate) reset: Option<ResetCode>,
    pub(crate) effect: Effect,
}

/// What a failed request may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it was not sent, or the upstream says that it did not look at it.
    None,
    /// Nobody knows: the connection broke.
    Unknown,
    /// Whatever it may have done, the route asks for another sending.
    AskedFor,
    /// The upstream, or the client, ended it on purpose.
    Ended,
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        let effect = match code {
            code if code.is_connect() => Effect::None,
            ErrorCode::UpstreamClosed => Effect::Unknown,
            _ => Effect::Ended,
        };
        Self { code, reset: None, effect }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        error.code.into()
    }
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        let (code, reset, effect) = match error {
            ExchangeError::Reset(reason) => (ErrorCode::UpstreamReset, Some(reason), Effect::Ended),
            ExchangeError::Unprocessed(_) | ExchangeError::NotSent(_) => {
                (ErrorCode::UpstreamRefused, Some(ResetCode::REFUSED_STREAM), Effect::None)
            }
            ExchangeError::Connection(_) => (ErrorCode::UpstreamClosed, None, Effect::Unknown),
            ExchangeError::TooManyInterim => (ErrorCode::UpstreamProtocol, None, Effect::Ended),
            ExchangeError::RequestBody(_) | ExchangeError::Unsendable(_) => {
                (ErrorCode::BadRequest, None, Effect::Ended)
            }
        };
        Self { code, reset, effect }
    }
}

impl From<Http1Error<DialError>> for Failure {
    fn from(error: Http1Error<DialError>) -> Self {
        match error {
            Http1Error::Connect(error) => error.into(),
            Http1Error::Exchange(Http1Fault::Malformed(_)) => ErrorCode::UpstreamProtocol.into(),
            Http1Error::Exchange(_) => ErrorCode::UpstreamClosed.into(),
            Http1Error::RequestBody(BodyError::Http1(Http1Fault::Stalled) | BodyError::Paused) => {
                ErrorCode::RequestTimeout.into()
            }
            Http1Error::RequestBody(_) => ErrorCode::BadRequest.into(),
        }
    }
}
