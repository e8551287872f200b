//! Serves a client's HTTP/1 connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Method, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::{Drain, DrainPhase};

use super::conn::{Conn, Drained, Incoming, Rest, SharedConn};
use super::feed::{Fed, Feed};
use super::heads::{self, Outgoing, Persistence};
use super::linger::{self, Ticks};
use super::login::{self, Login};
use super::parse::{self, RequestHead};
use super::{Http1Fault, NameCase};
use crate::handler::InterimSink;
use crate::{
    Abort, Answer, Body, ErrorCode, HalfClose, Handler, Http1Limits, Interim, Refusal, UpgradeIo, UpgradeTask,
};

/// How a connection ended that did not break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Between two requests, or behind the last.
    Closed,
    /// In a request or an answer: the client went away, or was left.
    Aborted,
    /// It became another protocol's, and that ended.
    Switched,
}

/// Serves requests until the client closes, a limit is passed, or `drain` has begun and the request in flight is
/// answered. A connection without one is kept for a moment more ([`weft_core::ON_ITS_WAY`]): what was on its way then is answered
/// as well. Requests of one connection are answered in order, also when they are pipelined. A connection that becomes
/// another protocol's is served until that ends.
///
/// `reset_on_close` has the socket answer with a reset when it is closed. An answer without a length ends with its
/// connection, so that an ordinary end of one that broke off would make it a whole one.
///
/// # Errors
/// What broke the connection; a client that goes away is not an error.
pub async fn serve_http1<S, H>(
    io: S,
    reset_on_close: fn(&S),
    handler: Rc<H>,
    limits: &Http1Limits,
    drain: Drain,
) -> Result<Ended, Http1Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let conn = Conn::new(io, reset_on_close, *limits);
    let mut server = Server { conn, handler, drain, ticks: Ticks::new(limits), login: None };
    let mut quiet = std::pin::pin!(server.drain.clone().into_quiet());
    loop {
        let head = match server.head(quiet.as_mut()).await {
            Next::Request(head) => head,
            Next::Refused(code) => return server.refuse(code).await,
            Next::Closed => return Ok(Ended::Closed),
        };
        // Boxed, so that only connections with a request in flight pay for its size.
        match Box::pin(server.exchange(*head)).await? {
            After::Another => {}
            After::Close(ended) => return Ok(ended),
            After::Linger => {
                linger::linger(&server.conn).await;
                return Ok(Ended::Closed);
            }
            After::Switch(task) => {
                let Some(rest) = Rest::of(&server.conn, None) else { return Ok(Ended::Aborted) };
                task(UpgradeIo::Http1(rest)).await;
                return Ok(Ended::Switched);
            }
        }
    }
}

struct Server<H> {
    conn: SharedConn,
    handler: Rc<H>,
    drain: Drain,
    ticks: Ticks,
    /// There was a login on it, or the application has asked for one, that belongs to its connection.
    login: Option<Login>,
}

impl<H> Drop for Server<H> {
    fn drop(&mut self) {
        // Whoever still reads a request's body holds the connection as well. It is closed all the same: the client waits for
        // that end.
        if let Ok(mut conn) = self.conn.try_borrow_mut() {
            conn.close();
        }
    }
}

/// What comes on a connection that waits for a request.
enum Next {
    Request(Box<RequestHead>),
    Refused(ErrorCode),
    Closed,
}

/// What becomes of a connection behind an answer.
enum After {
    Another,
    Close(Ended),
    /// Closed by and by: the client may still be sending, and closing at once would take the answer away from it.
    Linger,
    Switch(UpgradeTask),
}

/// What a request knows of its connection while it is answered.
struct Asked {
    method: Method,
    version: Version,
    keep_alive: bool,
    expects_continue: bool,
}

impl<H: Handler> Server<H> {
    /// Waits for a request's head, until it is `quiet`.
    async fn head(&mut self, mut quiet: Pin<&mut impl Future<Output = ()>>) -> Next {
        let Self { conn, ticks, .. } = self;
        // What a client sent behind its last request was not looked at.
        let mut unseen = !conn.borrow().input.buf.is_empty();
        ticks.begin();
        poll_fn(|cx| {
            loop {
                let mut conn = conn.borrow_mut();
                let limits = conn.limits;
                if unseen {
                    match parse::request(&mut conn.input.buf, &limits) {
                        Ok(Some(head)) => return Poll::Ready(Next::Request(Box::new(head))),
                        Ok(None) => {}
                        Err(code) => return Poll::Ready(Next::Refused(code)),
                    }
                }
                let before = conn.input.buf.len();
                match conn.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(read)) if read > 0 => {
                        unseen = parse::is_worth_a_look(&conn.input.buf, before, &limits);
                    }
                    Poll::Ready(_) => return Poll::Ready(Next::Closed),
                }
            }
            let begun = !conn.borrow().input.buf.is_empty();
            if !begun && quiet.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Closed);
            }
            match ticks.poll_waiting(cx, begun) {
                Poll::Ready(()) if begun => Poll::Ready(Next::Refused(ErrorCode::RequestTimeout)),
                Poll::Ready(()) => Poll::Ready(Next::Closed),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Answers what is no request, and closes.
    async fn refuse(&mut self, code: ErrorCode) -> Result<Ended, Http1Fault> {
        self.handler.refused(code);
        let (head, body) = Refusal { code, grpc: false }.response().into_parts();
        let head = Response::from_parts(head, ());
        let asked = Asked {
            method: Method::GET,
            version: Version::HTTP_11,
            keep_alive: false,
            expects_continue: false,
        };
        let mut sending = Sending::begin(&self.conn, &asked, &head, body, Persistence::Close);
        let Self { conn, ticks, .. } = self;
        poll_fn(|cx| sending.poll(conn, ticks, cx)).await?;
        linger::linger(conn).await;
        Ok(Ended::Closed)
    }

    async fn exchange(&mut self, head: RequestHead) -> Result<After, Http1Fault> {
        let RequestHead { mut request, framing, keep_alive, expects_continue, binds_login } = head;
        if binds_login && self.login.is_none() {
            self.login = Some(Login::new());
        }
        if let Some(login) = &self.login {
            request.extensions_mut().insert(login.clone());
        }
        let asked = Asked {
            method: request.method().clone(),
            version: request.version(),
            keep_alive,
            expects_continue,
        };
        let body = Conn::begin(&self.conn, framing).map_or(Body::Empty, Body::Http1);
        let conn = Rc::clone(&self.conn);
        let sink = Sink { conn: &conn, old: asked.version == Version::HTTP_10, continued: Cell::new(false) };
        let handler = Rc::clone(&self.handler);
        let call = handler.call(request.map(|()| body), Interim::Http1(&sink));
        self.ticks.begin();
        let answered = self.wait(std::pin::pin!(call)).await;
        let continued = sink.continued.get();
        match answered {
            Waited::Answer(Answer { response, upgrade }) => {
                self.answer(asked, continued, response, upgrade).await
            }
            Waited::Gone => Ok(After::Close(Ended::Aborted)),
            Waited::Failed(code) => {
                handler.refused(code);
                let refusal = Refusal { code, grpc: false }.response();
                let asked = Asked { keep_alive: false, ..asked };
                self.answer(asked, continued, refusal, None).await
            }
        }
    }

    /// Waits for the handler, while the client may go away or stop sending.
    async fn wait<F>(&mut self, mut call: Pin<&mut F>) -> Waited<H::Body>
    where
        F: Future<Output = Result<Answer<H::Body>, Abort>>,
    {
        let Self { conn, ticks, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(answered) = call.as_mut().poll(cx) {
                return Poll::Ready(match answered {
                    Ok(answer) => Waited::Answer(answer),
                    Err(Abort(_)) => Waited::Gone,
                });
            }
            let mut conn = conn.borrow_mut();
            match watch_client(&mut conn, cx) {
                Client::There => {}
                Client::Gone => return Poll::Ready(Waited::Gone),
                Client::Malformed => return Poll::Ready(Waited::Failed(ErrorCode::BadRequest)),
            }
            if ticks.poll_moving(cx, conn.moved, conn.waits_for_peer()).is_ready() {
                conn.give_up_body();
                return Poll::Ready(Waited::Failed(ErrorCode::RequestTimeout));
            }
            Poll::Pending
        })
        .await
    }

    async fn answer<B>(
        &mut self,
        asked: Asked,
        continued: bool,
        response: Response<B>,
        upgrade: Option<UpgradeTask>,
    ) -> Result<After, Http1Fault>
    where
        B: http_body::Body<Data = bytes::Bytes, Error = crate::BodyError> + Unpin,
    {
        let (parts, body) = response.into_parts();
        let head = Response::from_parts(parts, ());
        let asks =
            matches!(head.status(), StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED);
        if asks && self.login.is_none() && login::is_asked_for(head.headers()) {
            self.login = Some(Login::new());
        }
        let keep = upgrade.is_none() && self.may_keep(&asked, continued, &head, &body);
        let persistence = match asked.version {
            Version::HTTP_10 if keep => Persistence::KeepAlive,
            _ if keep || upgrade.is_some() => Persistence::Silent,
            _ => Persistence::Close,
        };
        // Whoever still reads the request may let go of it at any time. The client was told that the connection goes on, so
        // all of its request is taken then: it may be about to send another.
        let promised = keep && matches!(self.conn.borrow().incoming, Incoming::Body(_));
        let most_drained = if promised { u64::MAX } else { linger::MOST_DRAINED };
        let mut sending = Sending::begin(&self.conn, &asked, &head, body, persistence);
        self.ticks.begin();
        let Self { conn, ticks, .. } = self;
        let sent = poll_fn(|cx| sending.poll(conn, ticks, cx)).await?;
        // Whoever watches the answer's end need not wait for the request's.
        drop(sending);
        match (sent, upgrade) {
            (Sent::Whole, Some(task)) => Ok(After::Switch(task)),
            (Sent::Whole, None) => {
                if asked.expects_continue && !continued {
                    // Whoever waits for a body that the client was never told to send waits in vain.
                    self.conn.borrow_mut().give_up_body();
                }
                Ok(self.behind(keep.then_some(most_drained), asked.keep_alive).await)
            }
            (Sent::BrokenOff, _) => Ok(After::Close(Ended::Aborted)),
        }
    }

    /// Whether another request may follow.
    fn may_keep<B: http_body::Body>(
        &self,
        asked: &Asked,
        continued: bool,
        head: &Response<()>,
        body: &B,
    ) -> bool {
        let conn = self.conn.borrow();
        let rest = match &conn.incoming {
            Incoming::Head | Incoming::Ended => true,
            // A client that was never told to send may send or not, and nobody can tell what its next bytes are.
            Incoming::Body(_) | Incoming::Dropped(_) if asked.expects_continue && !continued => false,
            // Somebody still reads it.
            Incoming::Body(_) => true,
            Incoming::Dropped(decoder) => decoder.left().is_some_and(|left| left <= linger::MOST_DRAINED),
            Incoming::Broken | Incoming::GivenUp | Incoming::Malformed => false,
        };
        let framing = Outgoing::of_answer(&asked.method, asked.version, head, &body.size_hint());
        let connect = asked.method == Method::CONNECT;
        rest && asked.keep_alive
            && !connect
            && framing != Outgoing::UntilClose
            && self.drain.phase() == DrainPhase::Running
    }

    /// The answer is written. Waits for the rest of the request, if somebody still reads it. `most`: what is read of one that
    /// nobody wants so that another may follow; without it none may.
    async fn behind(&mut self, most: Option<u64>, asked_to_keep: bool) -> After {
        let Self { conn, ticks, .. } = self;
        ticks.begin();
        let (keep, most) = (most.is_some(), most.unwrap_or(0));
        let (mut drained, mut told) = (0, keep);
        poll_fn(|cx| {
            let mut conn = conn.borrow_mut();
            if !told {
                // The end of the answer, which the client may wait for while its request is still read.
                match Pin::new(&mut *conn.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => told = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(After::Close(Ended::Aborted)),
                    Poll::Pending => {}
                }
            }
            loop {
                match &conn.incoming {
                    Incoming::Head | Incoming::Ended if keep => return Poll::Ready(After::Another),
                    // Nothing more can come, or nothing that a client may send who has asked for the end.
                    Incoming::Head | Incoming::Ended
                        if told && (conn.input.closed || conn.input.buf.is_empty() && !asked_to_keep) =>
                    {
                        return Poll::Ready(After::Close(Ended::Closed));
                    }
                    Incoming::Dropped(decoder)
                        if drained < most && decoder.left().is_none_or(|left| left <= most) =>
                    {
                        match conn.poll_drain(cx) {
                            Poll::Ready(Ok(Drained::Some(octets))) => drained += octets,
                            Poll::Ready(Ok(Drained::Whole)) => {}
                            Poll::Ready(Ok(Drained::Never) | Err(_)) => return Poll::Ready(After::Linger),
                            Poll::Pending => break,
                        }
                    }
                    Incoming::Head
                    | Incoming::Ended
                    | Incoming::Dropped(_)
                    | Incoming::GivenUp
                    | Incoming::Malformed => return Poll::Ready(After::Linger),
                    Incoming::Broken => return Poll::Ready(After::Close(Ended::Aborted)),
                    Incoming::Body(_) => {
                        conn.watch(cx);
                        break;
                    }
                }
            }
            if ticks.poll_moving(cx, conn.moved, conn.waits_for_peer()).is_ready() {
                conn.give_up_body();
                return Poll::Ready(After::Close(Ended::Aborted));
            }
            Poll::Pending
        })
        .await
    }
}

enum Waited<B> {
    Answer(Answer<B>),
    /// Nobody waits for an answer, or none is to be given.
    Gone,
    /// The client is there, and must be told.
    Failed(ErrorCode),
}

/// How the client of a request in flight is.
enum Client {
    There,
    Gone,
    Malformed,
}

/// Writes interim answers, and looks whether the client is still there.
fn watch_client(conn: &mut Conn, cx: &mut Context<'_>) -> Client {
    if let Poll::Ready(Err(_)) = conn.poll_flush(cx) {
        return Client::Gone;
    }
    match conn.incoming {
        Incoming::Broken => return Client::Gone,
        Incoming::Malformed | Incoming::GivenUp => return Client::Malformed,
        // Its holder reads, and sees a client go.
        Incoming::Body(_) => {
            conn.watch(cx);
            return Client::There;
        }
        // Nobody will read it before the answer.
        Incoming::Dropped(_) => return Client::There,
        Incoming::Head | Incoming::Ended => {}
    }
    // Requests that are sent ahead wait in the socket, but for the first bytes.
    while conn.input.buf.is_empty() && !conn.input.closed {
        match conn.poll_fill(cx) {
            Poll::Pending => return Client::There,
            Poll::Ready(Ok(0)) if conn.limits.half_close == HalfClose::Cancel => return Client::Gone,
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => return Client::Gone,
        }
    }
    if conn.input.closed && conn.is_reset(cx) {
        return Client::Gone;
    }
    Client::There
}

/// The way back for 1xx.
struct Sink<'a> {
    conn: &'a RefCell<Conn>,
    /// RFC 9110 section 15.2: not to a client of HTTP/1.0.
    old: bool,
    continued: Cell<bool>,
}

/// Interim answers that a client has not taken yet are no reason to keep more than this.
const MOST_INTERIM: usize = 64 * 1024;

impl InterimSink for Sink<'_> {
    fn send(&self, head: Response<()>) {
        let mut conn = self.conn.borrow_mut();
        let out = conn.output.flat();
        if self.old || out.len() > MOST_INTERIM || head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        if head.status() == StatusCode::CONTINUE {
            self.continued.set(true);
        }
        heads::interim(out, &head);
    }
}

/// An answer on its way to the client.
struct Sending<B> {
    feed: Feed<B>,
    broken: bool,
    /// The end of the connection is its end.
    until_close: bool,
}

enum Sent {
    Whole,
    /// The client is gone, or the body broke off.
    BrokenOff,
}

impl<B> Sending<B>
where
    B: http_body::Body<Data = bytes::Bytes, Error = crate::BodyError> + Unpin,
{
    fn begin(
        conn: &RefCell<Conn>,
        asked: &Asked,
        head: &Response<()>,
        body: B,
        persistence: Persistence,
    ) -> Self {
        let framing = Outgoing::of_answer(&asked.method, asked.version, head, &body.size_hint());
        let mut conn = conn.borrow_mut();
        heads::answer(conn.output.flat(), head, asked.version, &asked.method, framing, persistence);
        let case = head.extensions().get::<NameCase>().filter(|_| framing == Outgoing::Chunked).cloned();
        // Where it has none whatever it declares, what a peer sends all the same is thrown away.
        let bodyless = framing == Outgoing::None;
        let feed = if bodyless { Feed::none() } else { Feed::new(body, framing, case) };
        Self { feed, broken: false, until_close: framing == Outgoing::UntilClose }
    }

    fn poll(
        &mut self,
        conn: &SharedConn,
        ticks: &mut Ticks,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sent, Http1Fault>> {
        loop {
            let fed = self.feed.gather(conn, cx);
            self.broken |= fed.is_err();
            let waits = matches!(fed, Ok(Fed::Waits));
            let mut conn = conn.borrow_mut();
            match conn.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(Sent::BrokenOff)),
                Poll::Pending => {
                    if ticks.poll_moving(cx, conn.moved, true).is_ready() {
                        self.deny(&conn);
                        return Poll::Ready(Err(Http1Fault::Stalled));
                    }
                    return Poll::Pending;
                }
            }
            // What was handed on before it broke has left.
            if self.broken {
                self.deny(&conn);
                return Poll::Ready(Ok(Sent::BrokenOff));
            }
            if self.feed.is_over() {
                return Poll::Ready(Ok(Sent::Whole));
            }
            if waits {
                return Self::poll_wait(&mut conn, ticks, cx).map(|()| {
                    self.deny(&conn);
                    Ok(Sent::BrokenOff)
                });
            }
        }
    }

    /// An answer that broke off must not look like a whole one.
    fn deny(&self, conn: &Conn) {
        if self.until_close {
            conn.io.reset_on_close();
        }
    }

    /// Waits for more of the answer. Ready: none will come, or nobody waits for it.
    fn poll_wait(conn: &mut Conn, ticks: &mut Ticks, cx: &mut Context<'_>) -> Poll<()> {
        // The rest of the answer may never come where the rest of the request does not; and nobody reads then, who would
        // see the client go.
        let lost = match watch_client(conn, cx) {
            Client::There => false,
            Client::Gone => return Poll::Ready(()),
            Client::Malformed => true,
        };
        if ticks.poll_moving(cx, conn.moved, lost || conn.waits_for_peer()).is_ready() {
            if lost {
                return Poll::Ready(());
            }
            // Whoever reads the request hears that it does not go on, and may still end the answer. This wakes us as well.
            ticks.begin();
            conn.give_up_body();
        }
        Poll::Pending
    }
}
