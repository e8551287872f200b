//! One request to an application and its answer.
//!
//! Request and answer go on side by side: an application may answer before it has the whole request, and what it answered
//! counts even where it then takes no more.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;

use super::conn::{Conn, Rest, SharedConn};
use super::feed::{Fed, Feed};
use super::heads::{self, Outgoing};
use super::linger::Ticks;
use super::output::Sent;
use super::parse::{self, AnswerHead, Upgrade};
use super::pool::{Http1Pool, Keep, Lease, Meeting};
use super::table::Framing;
use super::{Http1Fault, Login, NameCase};
use crate::handler::{InterimLeft, TooManyInterim};
use crate::judge::switches_to;
use crate::{Body, BodyError, Interim};

/// What lives as long as a connection: counts it as open.
pub(super) type Guard = Box<dyn Any>;

/// A connection that carries an exchange. Dropping it closes the connection.
pub(super) struct Slot {
    pub(super) conn: SharedConn,
    pub(super) guard: Guard,
    /// It has carried another before.
    pub(super) reused: bool,
}

/// A request under way.
pub(crate) struct Exchange {
    slot: Option<Slot>,
    pool: Rc<Http1Pool>,
    request: Request<()>,
    upload: Upload,
    /// Bytes of an answer have come.
    begun: bool,
    /// The buffer has bytes that were not looked at.
    unseen: bool,
    interim_left: InterimLeft,
}

/// Why an exchange brought no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The application closed a connection that had been used before, and not one byte of an answer came: what a
    /// connection looks like that was idle for too long. The request, where it has no body.
    Stale(Box<Request<()>>),
    /// Anything else.
    Fault(Http1Fault),
    /// The client's request body broke off.
    RequestBody(BodyError),
}

impl From<Http1Fault> for Failed {
    fn from(fault: Http1Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What an application answered.
pub(crate) enum Answered {
    /// In HTTP.
    Answer(Response<Body>),
    /// By leaving HTTP: 101, or 2xx to CONNECT.
    Switched(Response<()>, Rest),
}

impl Exchange {
    /// Queues a request on a connection of its own.
    pub(super) fn begin(pool: Rc<Http1Pool>, slot: Slot, request: Request<Body>) -> Self {
        let (request, body) = {
            let (parts, body) = request.into_parts();
            (Request::from_parts(parts, ()), body)
        };
        let upload = Upload::begin(&mut slot.conn.borrow_mut(), &request, body);
        Self {
            slot: Some(slot),
            pool,
            request,
            upload,
            begun: false,
            unseen: false,
            interim_left: InterimLeft::default(),
        }
    }

    /// The head of a request that has no answer.
    pub(super) fn into_request(self) -> Request<()> {
        self.request
    }

    /// Sends, and waits for the answer's head.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        interim: &Interim<'_>,
    ) -> Poll<Result<Answered, Failed>> {
        let Some(slot) = &self.slot else { return Poll::Ready(Err(Http1Fault::NoAnswer.into())) };
        let conn = Rc::clone(&slot.conn);
        if let Poll::Ready(Err(error)) = self.upload.poll(&conn, cx) {
            self.slot = None;
            return Poll::Ready(Err(Failed::RequestBody(error)));
        }
        loop {
            match self.look(&conn, interim) {
                Ok(Some(head)) => {
                    drop(conn);
                    return Poll::Ready(self.conclude(head));
                }
                Ok(None) => {}
                Err(what) => {
                    self.slot = None;
                    return Poll::Ready(Err(Http1Fault::Malformed(what).into()));
                }
            }
            let (before, filled) = {
                let mut conn = conn.borrow_mut();
                (conn.input.buf.len(), ready!(conn.poll_fill(cx)))
            };
            match filled {
                Ok(0) => return Poll::Ready(Err(self.closed(None))),
                Ok(_) => {
                    let conn = conn.borrow();
                    self.begun = true;
                    self.unseen = parse::is_worth_a_look(&conn.input.buf, before, &conn.limits);
                }
                Err(error) => return Poll::Ready(Err(self.closed(Some(error)))),
            }
        }
    }

    /// Looks for a head in what has come, and passes interim ones on.
    fn look(&mut self, conn: &SharedConn, interim: &Interim<'_>) -> Result<Option<AnswerHead>, &'static str> {
        while self.unseen {
            let mut conn = conn.borrow_mut();
            let limits = conn.limits;
            let head = parse::answer(&mut conn.input.buf, self.request.method(), &limits)?;
            self.unseen = head.is_some();
            let Some(head) = head else { return Ok(None) };
            let status = head.response.status();
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(head));
            }
            drop(conn);
            self.interim_left.take().map_err(|TooManyInterim| "too many interim answers")?;
            interim.send(head.response);
        }
        Ok(None)
    }

    /// The application has closed, or the socket failed, before an answer.
    fn closed(&mut self, error: Option<std::io::Error>) -> Failed {
        let stale = self.slot.take().is_some_and(|slot| slot.reused) && !self.begun;
        if stale && self.upload.had_none {
            return Failed::Stale(Box::new(std::mem::take(&mut self.request)));
        }
        Failed::Fault(match error {
            Some(error) => error.into(),
            None if self.begun => Http1Fault::Incomplete,
            None => Http1Fault::NoAnswer,
        })
    }

    fn conclude(&mut self, head: AnswerHead) -> Result<Answered, Failed> {
        let Some(slot) = self.slot.take() else { return Err(Http1Fault::NoAnswer.into()) };
        let AnswerHead { response, framing, keep_alive, declares_body, binds_login } = head;
        let connect = *self.request.method() == Method::CONNECT;
        let asked = self.request.extensions().get::<Upgrade>();
        let named = response.extensions().get::<Upgrade>().map(|upgrade| &upgrade.0);
        let switched = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS if asked.is_some_and(|asked| switches_to(&asked.0, named)) => {
                true
            }
            // Nobody asked for it: what follows belongs to no protocol that we know.
            StatusCode::SWITCHING_PROTOCOLS => return Err(Http1Fault::Malformed("unasked 101").into()),
            // A 2xx with a length is an answer like any other; so is that of a server that knows no CONNECT.
            status => connect && status.is_success() && !declares_body,
        };
        if switched {
            let rest = Rest::of(&slot.conn, Some(slot.guard)).ok_or(Http1Fault::Incomplete)?;
            return Ok(Answered::Switched(response, rest));
        }
        // Where something else was asked for, the application may have understood more than we: it is not used again.
        let old = self.request.version() == Version::HTTP_10;
        let login = self.request.extensions().get::<Login>();
        // Whose it is must be known.
        let nobodys = (binds_login || self.upload.binds_login) && login.is_none();
        let keep = keep_alive && !connect && asked.is_none() && !old && !nobodys;
        let keep = keep.then(|| Keep { pool: Rc::clone(&self.pool), login: login.cloned() });
        Ok(Answered::Answer(response.map(|()| self.body(slot, framing, keep))))
    }

    /// The answer's body. Its connection goes back to the pool by the two proofs that both messages are whole.
    fn body(&mut self, slot: Slot, framing: Framing, keep: Option<Keep>) -> Body {
        let Slot { conn, guard, .. } = slot;
        let mut upload = std::mem::replace(&mut self.upload, Upload::nothing());
        // What is queued but not written is still being sent.
        let written = conn.borrow().output.is_empty();
        let lease = match (upload.sent.take_if(|_| written), keep) {
            (Some(sent), Some(keep)) => Lease::Alone { keep, guard, sent },
            (Some(_), None) => Lease::Closing(guard),
            (None, keep) => {
                let (meeting, lease) = Meeting::new(guard, keep);
                tokio::task::spawn_local(upload.finish(Rc::clone(&conn), meeting));
                lease
            }
        };
        match Conn::begin(&conn, framing) {
            Some(body) => Body::Http1(body.leased(lease)),
            None => {
                let whole = conn.borrow().whole();
                if let Some(whole) = whole {
                    lease.answered(conn, whole);
                }
                Body::Empty
            }
        }
    }
}

/// A request's body on its way.
pub(super) struct Upload {
    feed: Feed<Body>,
    sent: Option<Sent>,
    had_none: bool,
    binds_login: bool,
}

impl Upload {
    fn nothing() -> Self {
        Self { feed: Feed::none(), sent: None, had_none: true, binds_login: false }
    }

    fn begin(conn: &mut Conn, request: &Request<()>, body: Body) -> Self {
        // The bytes behind such a head belong to the other protocol, or to the next request if it is refused.
        let body = if heads::takes_over(request) { Body::Empty } else { body };
        let ended = body.is_end_stream();
        let framing = Outgoing::of_request(ended, &body.size_hint());
        let binds_login = heads::request(conn.output.flat(), request, framing);
        let case = request.extensions().get::<NameCase>().filter(|_| !ended).cloned();
        Self { feed: Feed::new(body, framing, case), sent: None, had_none: ended, binds_login }
    }

    /// Ready: all is written, or the application takes no more; what it answered may still come. An error is the client's.
    fn poll(&mut self, conn: &SharedConn, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            let fed = self.feed.gather(conn, cx)?;
            let waits = matches!(fed, Fed::Waits);
            if let Fed::Whole(sent) = fed {
                self.sent = Some(sent);
            }
            match conn.borrow_mut().poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    *self =
                        Self { had_none: self.had_none, binds_login: self.binds_login, ..Self::nothing() };
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
            if self.feed.is_over() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Goes on after the answer has begun, and brings the connection back if the answer has ended well by then.
    async fn finish(mut self, conn: SharedConn, meeting: Rc<Meeting>) {
        let mut ticks = Ticks::new(&conn.borrow().limits);
        let end = poll_fn(|cx| self.poll_end(&conn, &meeting, &mut ticks, cx)).await;
        match end {
            End::Written => {
                if let Some(sent) = self.sent {
                    meeting.sent(conn, sent);
                }
            }
            End::Broken => {
                // The application may wait for the rest before it goes on: it hears that none will come.
                poll_fn(|cx| {
                    if meeting.is_over(cx) || meeting.is_answered() {
                        return Poll::Ready(());
                    }
                    Pin::new(&mut *conn.borrow_mut().io).poll_shutdown(cx).map(drop)
                })
                .await;
            }
            End::Unwanted => {}
        }
    }

    fn poll_end(
        &mut self,
        conn: &SharedConn,
        meeting: &Meeting,
        ticks: &mut Ticks,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if meeting.is_over(cx) {
            return Poll::Ready(End::Unwanted);
        }
        match self.poll(conn, cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(End::Written),
            Poll::Ready(Err(_)) => return Poll::Ready(End::Broken),
            Poll::Pending if !meeting.is_answered() => return Poll::Pending,
            Poll::Pending => {}
        }
        // The answer is whole and nobody else reads. An application that closes, speaks again or takes nothing for long
        // wants no more of the request.
        let mut conn = conn.borrow_mut();
        let stalls = !conn.output.is_empty();
        let unwanted = conn.poll_fill(cx).is_ready() || ticks.poll_moving(cx, conn.moved, stalls).is_ready();
        if unwanted { Poll::Ready(End::Unwanted) } else { Poll::Pending }
    }
}

/// How an upload has ended that went on behind the head of its answer.
enum End {
    /// All is written, or the application takes no more.
    Written,
    /// The client's body broke off.
    Broken,
    /// Nobody waits for it any more.
    Unwanted,
}
