//! Sending a request a second time.
//!
//! A request goes elsewhere only where that does no harm: the first sending surely had no effect (nothing was sent, the
//! peer says that it did not look, or its application takes no connection), or the connection broke and the request is
//! idempotent (RFC 9110 section 9.2.2). What a second sending needs is put aside before the first.

use std::ops::ControlFlow;

use http::{Method, Request, Response};
use weft_balance::{Outcome, Timestamp};
use weft_http::wire::{clean_answer, is_marked};
use weft_http::{Body, Replay, unanswered};

use super::http::{Outbound, observe};
use crate::app::{Effect, Failure};
use crate::record::RequestRecord;
use crate::upstream::EndpointLinks;

/// A request that is about to be sent again.
pub(super) struct Again {
    pub(super) request: Request<()>,
    pub(super) body: Body,
    pub(super) replay: Option<Replay>,
    /// Why: what to say where there is nobody else to send it to.
    pub(super) because: Failure,
}

/// What a request needs to be sent again.
pub(super) struct Spare {
    head: Option<Request<()>>,
    /// `None`: it has no body.
    body: Option<Replay>,
}

impl Spare {
    /// Keeps the head of a request, where another sending is left at all.
    pub(super) fn head(request: &Request<()>, another: bool) -> Self {
        Self { head: another.then(|| request.clone()), body: None }
    }

    /// The same for a request with a body.
    pub(super) fn with_body(self, body: Option<Replay>) -> Self {
        Self { body, ..self }
    }

    /// The request, if sending it again does no harm and all of it is still there, with what keeps its body.
    fn unpack(self, effect: Effect) -> Option<(Request<()>, Body, Option<Replay>)> {
        let head = self.head?;
        let harmless = match effect {
            Effect::None => true,
            Effect::Unknown => is_idempotent(head.method()),
            Effect::Ended => false,
        };
        if !harmless {
            return None;
        }
        let body = match &self.body {
            Some(replay) => replay.again()?,
            None => Body::Empty,
        };
        Some((head, body, self.body))
    }
}

impl Outbound {
    /// Judges one sending: what the client is told of it, or the request that is sent again.
    pub(super) fn judge(
        &self,
        sent: Result<Response<Body>, Failure>,
        spare: Spare,
        links: &EndpointLinks,
        record: &mut RequestRecord,
    ) -> ControlFlow<Result<Response<Body>, Failure>, Again> {
        match sent {
            Ok(mut response) => {
                let marked = is_marked(response.headers());
                if let Some(code) = marked.then(|| unanswered(response.headers())).flatten() {
                    if let Ok(again) = self.again(code.into(), spare, links, record) {
                        return ControlFlow::Continue(again);
                    }
                } else {
                    observe(record, response.status());
                }
                if let Err(code) = clean_answer(&mut response) {
                    return ControlFlow::Break(Err(code.into()));
                }
                ControlFlow::Break(Ok(response))
            }
            Err(failure) => match self.again(failure, spare, links, record) {
                Ok(again) => ControlFlow::Continue(again),
                Err(failure) => ControlFlow::Break(Err(failure)),
            },
        }
    }

    /// After a failure: the request, where it may be sent again, or else the failure.
    pub(super) fn again(
        &self,
        failure: Failure,
        spare: Spare,
        links: &EndpointLinks,
        record: &mut RequestRecord,
    ) -> Result<Again, Failure> {
        if let Some(in_flight) = record.in_flight() {
            in_flight.observe(Timestamp::now(), Outcome::Failure);
        }
        if failure.effect == Effect::None {
            self.upstream.unseen(&links.endpoint, failure.code);
        }
        let Some((request, body, replay)) = spare.unpack(failure.effect) else { return Err(failure) };
        tracing::debug!(endpoint = %links.endpoint.addr(), code = failure.code.as_str(), "sending a request again");
        self.upstream.retries.inc(match failure.effect {
            Effect::None => "unprocessed",
            Effect::Unknown | Effect::Ended => "connection_lost",
        });
        record.retried();
        Ok(Again { request, body, replay, because: failure })
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(method: Method, effect: Effect, another: bool) -> bool {
        let mut request = Request::new(());
        *request.method_mut() = method;
        let (replay, first) = Replay::of(Body::Full("body".into()));
        drop(first);
        Spare::head(&request, another).with_body(Some(replay)).unpack(effect).is_some()
    }

    #[test]
    fn a_request_is_sent_again_only_where_that_does_no_harm() {
        assert!(again(Method::POST, Effect::None, true), "it was not seen");
        assert!(again(Method::PUT, Effect::Unknown, true), "it is idempotent");
        assert!(!again(Method::POST, Effect::Unknown, true), "it may have had its effect");
        assert!(!again(Method::GET, Effect::Ended, true), "the upstream gave its answer");
        assert!(!again(Method::GET, Effect::None, false), "it was the last attempt");
    }
}
