//! Sending a request at once: over a mesh link or a kept-alive connection that is open already.
//!
//! It is the usual case, and the cheap one: nothing is waited for before the answer, so that the request needs no future that has
//! room for all that may have to be waited for. What is promised is the same either way ([`super::attempt`]).

use std::ops::ControlFlow;
use std::rc::Rc;

use http::{Request, Response, Version};
use http_body::Body as _;
use weft_balance::Timestamp;
use weft_core::MtlsMode;
use weft_http::wire;
use weft_http::{Body, Interim, Lease, Replay, Sent};

use super::Start;
use super::attempt::{Attempt, Sender, Serving, cleaned, finished};
use super::retry::Spare;
use crate::cluster::{EndpointLinks, Link, Picked, PlainPeer};
use crate::failure::Failure;
use crate::pools::{Started, Unsent};
use crate::record::RequestRecord;

/// A request that is on its way, and what it may still need. (Apart from the future of the request, which would have room
/// for it in each of its steps.)
pub(crate) enum Pending {
    Link { sent: Sent, links: Rc<EndpointLinks>, spare: Spare },
    Plain { peer: Rc<PlainPeer>, started: Started, links: Rc<EndpointLinks>, spare: Spare, another: bool },
}

/// What is open towards an endpoint.
enum Open {
    Link(Lease<Link>),
    Plain(Rc<PlainPeer>),
}

type Starting = Start<Box<Pending>, Attempt>;

impl Sender<'_> {
    /// Sends a request, if nothing has to be waited for. This is no async function, because the future of one keeps room for
    /// all it ever held.
    pub(super) fn start(
        &self,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Starting {
        let cluster = self.cluster;
        // A body goes along at once where the connection is the request's own.
        let waits = !request.body().is_end_stream()
            && (cluster.mode() != MtlsMode::Disable || request.version() == Version::HTTP_2);
        if waits || !self.tries.is_plain() {
            return waiting(request);
        }
        let now = Timestamp::at(record.started());
        let picked = self.pick_home(now).or_else(|| cluster.pick_now(now, &[]));
        let found = picked.and_then(|picked| {
            let links = &picked.links;
            let link = || links.link_now(&cluster.ways).map(Open::Link);
            let plain = || self.plain_now(links, request.version()).map(Open::Plain);
            Some((cluster.by_mode_now(links, now, link, plain)?, picked))
        });
        match found {
            None => waiting(request),
            Some((Open::Link(lease), picked)) => self.over_link(lease, picked, request, version, record),
            Some((Open::Plain(peer), picked)) => self.over_plain(peer, picked, request, record),
        }
    }

    fn over_link(
        &self,
        Lease { connection: link, slot }: Lease<Link>,
        picked: Picked,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Starting {
        let mut request = request.map(drop);
        self.settle(&picked);
        let links = Rc::clone(&picked.links);
        let spare = Spare::head(&request, self.tries.most > 1);
        wire::to_link(&mut request, None);
        Serving { cluster: self.cluster, picked, record: &mut *record }.over_link(&link, version);
        match slot.send_now(request) {
            Ok(sent) => Start::Sent(Box::new(Pending::Link { sent, links, spare })),
            Err(error) => self.start_again(error.into(), spare, &links, record),
        }
    }

    /// Sends a request to an application without a sidecar, if a connection to it is idle.
    fn over_plain(
        &self,
        peer: Rc<PlainPeer>,
        picked: Picked,
        request: Request<Body>,
        record: &mut RequestRecord,
    ) -> Starting {
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        let another = self.tries.most > 1;
        let (replay, body) = if another && !body.is_end_stream() {
            let (kept, first) = Replay::of(body);
            (Some(kept), first)
        } else {
            (None, body)
        };
        // A connection of HTTP/1 keeps the head itself until the answer is there.
        let spare = Spare::head(&head, another && head.version() == Version::HTTP_2);
        let mut request = head.map(|()| body);
        if let Err(code) = finished(&mut request, record.trace.context) {
            return Start::Failed(code.into());
        }
        let version = request.version();
        let started = match peer.start(request) {
            Ok(started) => started,
            // Those that were idle are all closed.
            Err(request) => {
                let (head, body) = request.into_parts();
                return Start::Waits(Attempt::first(Request::from_parts(head, ()), body).keeping(replay));
            }
        };
        self.settle(&picked);
        let (links, spare) = (Rc::clone(&picked.links), spare.with_body(replay));
        Serving { cluster: self.cluster, picked, record: &mut *record }.over_plain(version);
        match started {
            Ok(started) => Start::Sent(Box::new(Pending::Plain { peer, started, links, spare, another })),
            Err(failure) => self.start_again(failure, spare, &links, record),
        }
    }

    fn start_again(
        &self,
        failure: Failure,
        spare: Spare,
        links: &EndpointLinks,
        record: &mut RequestRecord,
    ) -> Starting {
        match spare.again(failure, self.cluster, links, record) {
            Ok(again) => Start::Waits(Attempt::after(again, links)),
            Err(failure) => Start::Failed(failure),
        }
    }
}

/// Brings the answer of a request that was sent. Who has sent it is asked for when the answer is there: it is larger than all that is
/// waited with.
pub(super) async fn finish<'a>(
    pending: Box<Pending>,
    sender: impl FnOnce() -> Sender<'a>,
    interim: &Interim<'_>,
    record: &mut RequestRecord,
) -> Result<Response<Body>, Failure> {
    let (answer, links, spare) = match *pending {
        Pending::Link { sent, links, spare } => {
            let answer = sent.head(interim).await.map_err(Failure::from);
            (answer, links, spare)
        }
        // Boxed: it is larger than the other, and the future of a stream is moved for every request.
        Pending::Plain { peer, started, links, spare, another } => {
            Box::pin(async move { plain(peer.finish(started, interim).await, links, spare, another) }).await
        }
    };
    let sender = sender();
    match sender.judge_answer(answer.and_then(cleaned), spare, &links, record) {
        ControlFlow::Break(done) => done,
        ControlFlow::Continue(again) => {
            let attempt = Attempt::after(again, &links);
            Box::pin(async move { sender.carry(attempt, interim, record).await }).await
        }
    }
}

/// The head of a request that was not sent is that of the next, where `another` sending is left.
fn plain(
    answer: Result<Response<Body>, Unsent>,
    links: Rc<EndpointLinks>,
    mut spare: Spare,
    another: bool,
) -> (Result<Response<Body>, Failure>, Rc<EndpointLinks>, Spare) {
    let answer = answer.map_err(|Unsent { failure, head }| {
        if let Some(head) = head.filter(|_| another) {
            spare.put_head(*head);
        }
        failure
    });
    (answer, links, spare)
}

fn waiting(request: Request<Body>) -> Starting {
    let (head, body) = request.into_parts();
    Start::Waits(Attempt::first(Request::from_parts(head, ()), body))
}
