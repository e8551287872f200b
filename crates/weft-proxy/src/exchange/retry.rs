//! Sending a request a second time.
//!
//! A request goes elsewhere only where that does no harm: the first sending surely had no effect (nothing was sent, the
//! peer says that it did not look, or its application takes no connection), or the connection broke and the request is
//! idempotent (RFC 9110 section 9.2.2). What a second sending needs is put aside before the first. Of requests that may have
//! been seen only so many are sent again as the destination's budget allows.

use http::{Method, Request};
use weft_balance::Timestamp;
use weft_http::{Body, ErrorCode, Replay};

use crate::cluster::{Cluster, EndpointLinks};
use crate::failure::{Effect, Failure};
use crate::record::RequestRecord;

/// A request that is about to be sent again.
pub(super) struct Again {
    pub(super) request: Request<()>,
    pub(super) body: Body,
    pub(super) replay: Option<Replay>,
    /// Why: what to say where there is nobody else to send it to.
    pub(super) because: Failure,
}

/// What a request needs to be sent again.
pub(crate) struct Spare {
    head: Option<Request<()>>,
    /// `None`: it has no body.
    body: Option<Replay>,
}

impl Spare {
    /// Keeps the head of a request, where another sending is left at all.
    pub(super) fn head(request: &Request<()>, another: bool) -> Self {
        Self { head: another.then(|| request.clone()), body: None }
    }

    /// The head that came back from a sending whose connection had kept it.
    pub(super) fn put_head(&mut self, head: Request<()>) {
        self.head = Some(head);
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
            Effect::AskedFor => true,
            Effect::Ended => false,
        };
        if !harmless {
            return None;
        }
        match self.body {
            Some(replay) => replay.again().map(|(replay, body)| (head, body, Some(replay))),
            None => Some((head, Body::Empty, None)),
        }
    }

    /// After a failure: the request, where it may be sent again, or else the failure.
    pub(super) fn again(
        self,
        failure: Failure,
        cluster: &Cluster,
        links: &EndpointLinks,
        record: &mut RequestRecord,
    ) -> Result<Again, Failure> {
        record.unanswered(failure.code);
        if failure.effect == Effect::None {
            cluster.unseen(&links.endpoint, failure.code);
        }
        if failure.effect == Effect::AskedFor {
            return self.asked_for(cluster, failure.code).ok_or(failure);
        }
        match self.unpack(failure.effect) {
            Some((request, body, replay)) => Ok(Again { request, body, replay, because: failure }),
            None => Err(failure),
        }
    }
}

impl Spare {
    /// After an answer or a failure that the route wants another sending for: the request, where it can be sent again and the
    /// budget allows it. It is asked here already, for the answer is given up for it.
    pub(super) fn asked_for(self, cluster: &Cluster, code: ErrorCode) -> Option<Again> {
        let (request, body, replay) = self.unpack(Effect::AskedFor)?;
        if !cluster.budget.withdraw(Timestamp::now()) {
            cluster.retries_refused.inc();
            return None;
        }
        let because = Failure { code, reset: None, effect: Effect::AskedFor };
        Some(Again { request, body, replay, because })
    }
}

/// Counts a request that is about to be sent again, now that there is somebody to send it to. `false`: the budget does not
/// allow it.
pub(super) fn allow(because: &Failure, cluster: &Cluster, record: &mut RequestRecord) -> bool {
    let reason = match because.effect {
        Effect::None => "unprocessed",
        Effect::AskedFor => "route",
        Effect::Unknown | Effect::Ended if cluster.budget.withdraw(Timestamp::now()) => "connection_lost",
        Effect::Unknown | Effect::Ended => {
            cluster.retries_refused.inc();
            return false;
        }
    };
    tracing::debug!(service = %cluster.label, code = because.code.as_str(), "sending a request again");
    cluster.retries.inc(reason);
    record.retried();
    true
}

/// Whether the peer took no more requests on a connection, which says nothing of its others.
pub(super) fn was_refused(because: &Option<Failure>) -> bool {
    because.as_ref().is_some_and(|failure| failure.code == ErrorCode::UpstreamRefused)
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
