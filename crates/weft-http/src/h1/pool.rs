//! Kept-alive connections to an HTTP/1 application.
//!
//! A connection comes back by proof only: [`Sent`] says that all of the request was written, [`Whole`] that all of the
//! answer was read and nothing follows it. Whoever has not both can do nothing but close it.
//!
//! One that carried the requests of a client's connection with a login of its own ([`Login`]) is given to that client alone.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::conn::{Conn, Incoming, SharedConn, Whole};
use super::exchange::{Answered, Exchange, Failed, Guard, Slot};
use super::output::Sent;
use super::{Http1Fault, Login, Rest};
use crate::{Body, BodyError, Http1Limits, Interim};

/// The idle connections of one worker to one application address, the last used first.
#[derive(Debug)]
pub struct Http1Pool {
    idle: RefCell<Vec<Idle>>,
    /// The same of those that have an owner, the last used last.
    owned: RefCell<Vec<(Login, Idle)>>,
    limits: Http1Limits,
    /// A task closes what has been idle for too long, and what the application closes or speaks on. One for all: a timer
    /// for each connection would have to be looked at with each request.
    watcher: OnceCell<Waker>,
    watched: Cell<bool>,
}

/// Connections kept idle per address and worker. More than this were a burst; the application's memory is worth more.
const MAX_IDLE: usize = 256;

/// A share of the idle limit: how often idle connections are looked at, and so how late one may be closed.
const LOOKS: u32 = 4;

/// A connection that nobody uses.
struct Idle {
    conn: SharedConn,
    guard: Guard,
    /// How often it was found idle.
    looks: u32,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("looks", &self.looks).finish()
    }
}

impl Idle {
    /// Whether the application has closed it or said something that nobody asked for (408, garbage). It is not for the
    /// next request then.
    fn is_spoiled(&self, cx: &mut Context<'_>) -> bool {
        self.conn.borrow_mut().poll_fill(cx).is_ready()
    }

    fn into_slot(self) -> Slot {
        Slot { conn: self.conn, guard: self.guard, reused: true }
    }
}

/// Why the application gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error<C> {
    /// No connection could be made.
    #[error("connect: {0}")]
    Connect(#[source] C),
    /// The connection broke, or the application's answer was not HTTP.
    #[error(transparent)]
    Exchange(#[from] Http1Fault),
    /// The client's request body broke off.
    #[error("request body: {0}")]
    RequestBody(#[source] BodyError),
}

/// Why an idle connection brought no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The connection was closed by the application in the moment it was picked. The request may go over another: nothing
    /// came back, and it is safe to repeat.
    Stale(Box<Request<Body>>),
    /// It broke after that, or the request may not be repeated. With the head of the request, for those who know of a case in which it
    /// may go elsewhere.
    Failed(Http1Fault, Box<Request<()>>),
    /// The client's request body broke off.
    RequestBody(BodyError),
}

/// Has a socket answer with a reset when it is closed.
pub type ResetOnClose<S> = fn(&S);

/// A connection that was just made: a socket with what is held as long as it lives, and how the socket is told to answer with a
/// reset when it is closed, where there is such a way.
pub trait Connected {
    /// The socket.
    type Io: AsyncRead + AsyncWrite + Unpin + 'static;
    /// What is held.
    type Guard: 'static;

    /// The three.
    fn into_parts(self) -> (Self::Io, Self::Guard, ResetOnClose<Self::Io>);
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static, G: 'static> Connected for (S, G) {
    type Io = S;
    type Guard = G;

    fn into_parts(self) -> (S, G, ResetOnClose<S>) {
        (self.0, self.1, |_| ())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static, G: 'static> Connected for (S, G, ResetOnClose<S>) {
    type Io = S;
    type Guard = G;

    fn into_parts(self) -> Self {
        self
    }
}

/// What came of [`Http1Pool::open`].
#[derive(Debug)]
pub enum Opened {
    /// The application left HTTP; its connection.
    Switched(Response<()>, Rest),
    /// An ordinary answer.
    Answer(Response<Body>),
}

/// A request that was sent over an idle connection. Dropping it closes the connection.
pub struct Sending(Box<Exchange>);

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sending")
    }
}

impl Sending {
    /// Waits for the head of the answer, passing 1xx on.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn answer(mut self, interim: &Interim<'_>) -> Result<Response<Body>, Unanswered> {
        match poll_fn(|cx| self.0.poll(cx, interim)).await {
            Ok(Answered::Answer(response)) => Ok(response),
            Ok(Answered::Switched(..)) => Err(self.failed(Http1Fault::Malformed("unasked upgrade"))),
            Err(Failed::Stale(request)) if may_repeat(&request) => {
                Err(Unanswered::Stale(Box::new(request.map(|()| Body::Empty))))
            }
            Err(Failed::Stale(request)) => Err(Unanswered::Failed(Http1Fault::NoAnswer, request)),
            Err(Failed::Fault(fault)) => Err(self.failed(fault)),
            Err(Failed::RequestBody(error)) => Err(Unanswered::RequestBody(error)),
        }
    }

    fn failed(self, fault: Http1Fault) -> Unanswered {
        Unanswered::Failed(fault, Box::new(self.0.into_request()))
    }
}

/// RFC 9112 section 9.3.1, RFC 9110 section 9.2.2: what was sent over a connection that closed may be sent again by a
/// proxy if it is idempotent.
fn may_repeat(request: &Request<()>) -> bool {
    matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

impl Http1Pool {
    /// An empty pool.
    pub fn new(limits: Http1Limits) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            owned: RefCell::default(),
            limits,
            watcher: OnceCell::new(),
            watched: Cell::default(),
        })
    }

    /// Sends a request over an idle connection or a new one. What `connect` gives beside a connection is held as long as
    /// that lives.
    ///
    /// An idle connection may be closed by the application in the very moment it is picked; then the request goes over a
    /// new one at once, where it may be repeated.
    ///
    /// # Errors
    /// See [`Http1Error`].
    pub async fn send<N: Connected, C>(
        self: &Rc<Self>,
        request: Request<Body>,
        interim: &Interim<'_>,
        connect: impl AsyncFn() -> Result<N, C>,
    ) -> Result<Response<Body>, Http1Error<C>> {
        match self.open(request, interim, connect).await? {
            Opened::Answer(response) => Ok(response),
            Opened::Switched(..) => Err(Http1Fault::Malformed("unasked upgrade").into()),
        }
    }

    /// The same for a request after whose answer the connection may be another protocol's.
    ///
    /// # Errors
    /// See [`Http1Error`].
    pub async fn open<N: Connected, C>(
        self: &Rc<Self>,
        mut request: Request<Body>,
        interim: &Interim<'_>,
        connect: impl AsyncFn() -> Result<N, C>,
    ) -> Result<Opened, Http1Error<C>> {
        let mut slot = self.take_idle(&request);
        loop {
            let reused = match slot.take() {
                Some(slot) => slot,
                None => self.connect(&connect).await?,
            };
            let mut exchange = Box::new(Exchange::begin(Rc::clone(self), reused, request));
            match poll_fn(|cx| exchange.poll(cx, interim)).await {
                Ok(Answered::Answer(response)) => return Ok(Opened::Answer(response)),
                Ok(Answered::Switched(response, rest)) => return Ok(Opened::Switched(response, rest)),
                // The next is a new one, so that this happens once.
                Err(Failed::Stale(again)) if may_repeat(&again) => request = again.map(|()| Body::Empty),
                Err(Failed::Stale(_)) => return Err(Http1Fault::NoAnswer.into()),
                Err(Failed::Fault(fault)) => return Err(fault.into()),
                Err(Failed::RequestBody(error)) => return Err(Http1Error::RequestBody(error)),
            }
        }
    }

    /// Sends a request over an idle connection at once, or gives it back where there is none.
    ///
    /// # Errors
    /// The request.
    pub fn send_now(self: &Rc<Self>, request: Request<Body>) -> Result<Sending, Box<Request<Body>>> {
        let Some(slot) = self.take_idle(&request) else { return Err(Box::new(request)) };
        Ok(Sending(Box::new(Exchange::begin(Rc::clone(self), slot, request))))
    }

    /// How many connections are idle.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len() + self.owned.borrow().len()
    }

    /// Takes the connection of the request's client, where it has one of its own; else the one that was used last, and no look
    /// at the many below it.
    fn take_idle(&self, request: &Request<Body>) -> Option<Slot> {
        let owner = request.extensions().get::<Login>();
        if let Some(slot) = owner.and_then(|owner| self.take_owned(owner)) {
            return Some(slot);
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            // Whoever waits for the answer registers anew.
            let mut cx = Context::from_waker(Waker::noop());
            if !last.is_spoiled(&mut cx) {
                return Some(last.into_slot());
            }
        }
        None
    }

    fn take_owned(&self, owner: &Login) -> Option<Slot> {
        let mut owned = self.owned.borrow_mut();
        let at = owned.iter().position(|(login, _)| login == owner)?;
        let (_, idle) = owned.remove(at);
        let mut cx = Context::from_waker(Waker::noop());
        (!idle.is_spoiled(&mut cx)).then(|| idle.into_slot())
    }

    /// Takes a connection back whose messages are whole.
    fn put(self: &Rc<Self>, login: Option<Login>, conn: SharedConn, guard: Guard, _: Sent, _: Whole) {
        let idle = Idle { conn, guard, looks: 0 };
        {
            let mut conn = idle.conn.borrow_mut();
            if !conn.output.is_empty() {
                return;
            }
            conn.incoming = Incoming::Head;
        }
        if login.is_none() && self.idle.borrow().len() >= MAX_IDLE {
            return;
        }
        let noop = Waker::noop();
        let watcher = self.watcher.get().unwrap_or(noop);
        if idle.is_spoiled(&mut Context::from_waker(watcher)) {
            return;
        }
        match login {
            None => self.idle.borrow_mut().push(idle),
            Some(login) => {
                let mut owned = self.owned.borrow_mut();
                if owned.len() >= MAX_IDLE {
                    // Nobody is told when a client has gone, so that the oldest is most likely nobody's.
                    owned.remove(0);
                }
                owned.push((login, idle));
            }
        }
        if !self.watched.replace(true) {
            tokio::task::spawn_local(watch(Rc::downgrade(self), self.limits.idle / LOOKS));
        }
    }

    /// Closes what the application has spoiled; `aged`: and what has been idle for the limit.
    fn look(&self, cx: &mut Context<'_>, aged: bool) {
        let mut stays = |idle: &mut Idle| {
            idle.looks += u32::from(aged);
            idle.looks <= LOOKS && !idle.is_spoiled(cx)
        };
        self.idle.borrow_mut().retain_mut(&mut stays);
        self.owned.borrow_mut().retain_mut(|(_, idle)| stays(idle));
    }

    async fn connect<N: Connected, C>(
        &self,
        connect: &impl AsyncFn() -> Result<N, C>,
    ) -> Result<Slot, Http1Error<C>> {
        let (io, guard, reset_on_close) = connect().await.map_err(Http1Error::Connect)?.into_parts();
        Ok(Slot { conn: Conn::new(io, reset_on_close, self.limits), guard: Box::new(guard), reused: false })
    }
}

/// Looks after the idle connections of a pool, as long as it lives.
async fn watch(pool: Weak<Http1Pool>, every: Duration) {
    // A timer of no time at all would never let go.
    let every = every.max(Duration::from_millis(1));
    let mut timer = Box::pin(tokio::time::sleep(every));
    poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
        let _ = pool.watcher.set(cx.waker().clone());
        let mut aged = false;
        while timer.as_mut().poll(cx).is_ready() {
            aged = true;
            timer.as_mut().reset(tokio::time::Instant::now() + every);
        }
        pool.look(cx, aged);
        Poll::Pending
    })
    .await;
}

/// Where a connection goes that may be used again.
pub(super) struct Keep {
    pub(super) pool: Rc<Http1Pool>,
    /// Whose it is.
    pub(super) login: Option<Login>,
}

impl Keep {
    fn put(self, conn: SharedConn, guard: Guard, sent: Sent, whole: Whole) {
        self.pool.put(self.login, conn, guard, sent, whole);
    }
}

/// Brings a connection back to its pool when the answer has ended.
pub(super) enum Lease {
    /// The request was sent before the answer began: the usual case.
    Alone { keep: Keep, guard: Guard, sent: Sent },
    /// It is not used again; what belongs to it is held for as long.
    Closing(#[expect(dead_code, reason = "held, not read")] Guard),
    /// It is still being sent.
    Shared(AnswerEnd),
}

impl Lease {
    pub(super) fn answered(self, conn: SharedConn, whole: Whole) {
        match self {
            Self::Alone { keep, guard, sent } => keep.put(conn, guard, sent, whole),
            Self::Closing(_) => {}
            Self::Shared(end) => end.answered(whole),
        }
    }
}

/// Where an answer's body and an upload that outlives the answer's head meet: the second of them brings the connection
/// back.
pub(super) struct Meeting {
    /// Where the connection goes, if it may be used again.
    keep: Cell<Option<Keep>>,
    guard: Cell<Option<Guard>>,
    whole: Cell<Option<Whole>>,
    sent: Cell<Option<(SharedConn, Sent)>>,
    /// The answer has ended well.
    answered: Cell<bool>,
    /// The answer was given up before its end.
    over: Cell<bool>,
    upload: Cell<Option<Waker>>,
}

/// The answer's side of a [`Meeting`]. Dropping it before the answer is whole gives the exchange up.
pub(super) struct AnswerEnd(Option<Rc<Meeting>>);

impl Meeting {
    pub(super) fn new(guard: Guard, keep: Option<Keep>) -> (Rc<Self>, Lease) {
        let meeting = Rc::new(Self {
            keep: Cell::new(keep),
            guard: Cell::new(Some(guard)),
            whole: Cell::default(),
            answered: Cell::default(),
            sent: Cell::default(),
            over: Cell::default(),
            upload: Cell::default(),
        });
        let end = AnswerEnd(Some(Rc::clone(&meeting)));
        (meeting, Lease::Shared(end))
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_over(&self, cx: &Context<'_>) -> bool {
        self.upload.set(Some(cx.waker().clone()));
        self.over.get()
    }

    /// Whether the answer is whole, so that nobody else reads the connection.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    fn tell_upload(&self) {
        if let Some(upload) = self.upload.take() {
            upload.wake();
        }
    }

    /// All of the request was sent.
    pub(super) fn sent(&self, conn: SharedConn, sent: Sent) {
        match self.whole.take() {
            Some(whole) => self.put(conn, sent, whole),
            None => self.sent.set(Some((conn, sent))),
        }
    }

    fn put(&self, conn: SharedConn, sent: Sent, whole: Whole) {
        if let (Some(guard), Some(keep)) = (self.guard.take(), self.keep.take()) {
            keep.put(conn, guard, sent, whole);
        }
    }
}

impl AnswerEnd {
    fn answered(mut self, whole: Whole) {
        let Some(meeting) = self.0.take() else { return };
        match meeting.sent.take() {
            Some((conn, sent)) => meeting.put(conn, sent, whole),
            None => {
                meeting.whole.set(Some(whole));
                meeting.answered.set(true);
                meeting.tell_upload();
            }
        }
    }
}

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        if let Some(meeting) = self.0.take() {
            meeting.over.set(true);
            meeting.sent.set(None);
            meeting.tell_upload();
        }
    }
}
