//! A request, from its head to its answer, within the budget.
//!
//! Nothing of a review's content is looked at on the thread that all connections share, and nothing is built of it before
//! there is room for that.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use weft_telemetry::ServerSpans;

use super::PATH;
use super::budget::{Bounds, NoRoom, Pool, Room};
use super::limits::LimitRanges;
use super::metrics::Metrics;
use super::namespaces::Namespaces;
use super::review::{Answer, Question, Verdict};
use super::seats::{Seat, Seats, Serving};
use super::weight::weigh;
use crate::inject::{Injector, Skip};

/// The API server takes objects of 3 MiB, and a review has the object and what is around it.
pub(super) const MAX_BODY: usize = 8 << 20;
/// The API server waits five seconds for the whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bodies that are there or coming. One address has room for one of the largest. A review of a common pod has 10 to 50 KiB.
const BODIES: Bounds =
    Bounds { common: 256 << 10, all_common: 16 << 20, all_larger: 48 << 20, share: MAX_BODY };
/// What is built of them; with the bodies less than half of the memory that the chart gives. A pod of common size takes
/// half a megabyte, and the share of one address is also the most that a review may take.
const TREES: Bounds = Bounds { common: 4 << 20, all_common: 64 << 20, all_larger: 64 << 20, share: 64 << 20 };
/// Between two looks for slow bodies, while another finds no room.
const LOOK: Duration = Duration::from_millis(100);
/// When the API server may ask again: its client does by itself, within its five seconds.
const AGAIN: &str = "1";

/// What answers.
pub(super) struct Handler {
    injector: Arc<Injector>,
    pub(super) namespaces: Option<Box<dyn Namespaces>>,
    limits: LimitRanges,
    pub(super) seats: Arc<Seats>,
    pub(super) bodies: Pool,
    pub(super) trees: Pool,
    /// Threads that work on reviews at once: as many as there are processors.
    hands: Arc<Semaphore>,
    metrics: Metrics,
    spans: ServerSpans,
}

/// A review that gets no answer that the API server could follow: its `failurePolicy` decides.
struct NoAnswer {
    verdict: Verdict,
    status: StatusCode,
    reason: String,
}

/// A body with the room that it and its tree have.
struct Held {
    body: Bytes,
    of_body: Room,
    of_tree: Option<Room>,
}

/// An answer that has its room until it is written.
struct Written {
    octets: Vec<u8>,
    _room: Option<Room>,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Handler {
    pub(super) fn new(
        injector: Injector,
        (namespaces, limits): (Option<Box<dyn Namespaces>>, LimitRanges),
        seats: Arc<Seats>,
        metrics: Metrics,
        spans: ServerSpans,
    ) -> Self {
        let hands = available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            injector: Arc::new(injector),
            namespaces,
            limits,
            seats,
            bodies: Pool::new(BODIES),
            trees: Pool::new(TREES),
            hands: Arc::new(Semaphore::new(hands)),
            metrics,
            spans,
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers. `expected` is whether the caller's certificate is the API server's, where that is asked for.
    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        seat: &Seat,
        expected: bool,
    ) -> Response<Body> {
        let serving = seat.request();
        self.response(request, weft_core::canonical(client), &serving, expected).await
    }

    async fn response(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        serving: &Serving<'_>,
        expected: bool,
    ) -> Response<Body> {
        if !expected {
            self.metrics.forbidden();
            let why = "this certificate is not one of webhook.clientNames\n";
            return plain(StatusCode::FORBIDDEN, why.to_owned());
        }
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, format!("there is {PATH} only\n"));
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is posted\n".to_owned());
        }
        let began = Instant::now();
        let mut span = self.spans.begin(&request, client);
        if let Some(span) = &mut span {
            span.route(PATH);
        }
        let (address, asked) = (client.ip(), request.body().size_hint().exact());
        // It is the largest of the futures here, and not every request comes this far.
        let (verdict, response) = match Box::pin(self.review(request.into_body(), address, serving)).await {
            Ok(answered) => answered,
            Err(NoAnswer { verdict, status, reason }) => {
                tracing::warn!(peer = %address, %status, reason, "a review that is not answered");
                let mut response = plain(status, format!("{reason}\n"));
                if status == StatusCode::TOO_MANY_REQUESTS {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
                }
                (verdict, response)
            }
        };
        self.metrics.record(verdict, began.elapsed());
        if let Some(span) = &mut span {
            span.answered(response.status().as_u16());
            span.bodies(asked, response.size_hint().exact());
        }
        response
    }

    async fn review(
        &self,
        body: Incoming,
        address: IpAddr,
        serving: &Serving<'_>,
    ) -> Result<(Verdict, Response<Body>), NoAnswer> {
        // What does not say its length may be as long as any.
        let length =
            body.size_hint().exact().map_or(MAX_BODY, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if length > MAX_BODY {
            return Err(too_large(format!("the body has {length} octets; {MAX_BODY} are read")));
        }
        serving.waits();
        let of_body = self.room_for_body(address, length).await?;
        serving.sending(length);
        let body = read(body).await?;
        serving.sent();
        let mut held = Held { body, of_body, of_tree: None };

        let weight;
        (weight, held) = self.work(move || (weigh(&held.body), held)).await?;
        let weight = weight.map_err(invalid)?;
        let of_tree = self.trees.take(address, weight).await;
        held.of_tree = Some(of_tree.map_err(|no_room| {
            no_answer(no_room, &format!("to be read this review takes up to {weight} octets of memory"))
        })?);

        let question;
        (question, held) = self.work(move || (Question::read(&held.body), held)).await?;
        let (answer, mut held) = self.answer(question.map_err(invalid)?, held).await?;
        if let Some(room) = &mut held.of_tree {
            room.shrink(answer.body.len());
        }
        let Held { body, of_body, of_tree } = held;
        drop((body, of_body));
        let written = Written { octets: answer.body, _room: of_tree };
        let mut response = Response::new(Body::from(Bytes::from_owner(written)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok((answer.verdict, response))
    }

    /// The answer, by what is remembered of the namespace, and once more where that is not what the API server knows.
    async fn answer(&self, question: Question, held: Held) -> Result<(Answer, Held), NoAnswer> {
        let (answer, question, held) = self.look(question, held, false).await?;
        // The API server asked, so its labels say something else than what is remembered here.
        let Some(question) = question else { return Ok((answer, held)) };
        let (answer, _, held) = self.look(question, held, true).await?;
        Ok((answer, held))
    }

    /// One look at the pod. Gives the question back where another look may say something else.
    async fn look(
        &self,
        question: Question,
        held: Held,
        fresh: bool,
    ) -> Result<(Answer, Option<Question>, Held), NoAnswer> {
        let labels = self.labels(question.namespace.as_deref(), fresh).await;
        let limits = self.limits.of(question.namespace.as_deref());
        let injector = self.injector.clone();
        self.work(move || {
            let answer = question.answer(labels, limits, &injector);
            let again = !fresh && matches!(answer.skip, Some(Skip::NotAsked | Skip::Disabled));
            (answer, again.then_some(question), held)
        })
        .await
    }

    async fn labels(&self, namespace: Option<&str>, fresh: bool) -> Option<BTreeMap<String, String>> {
        match (&self.namespaces, namespace) {
            (Some(namespaces), Some(name)) => namespaces.labels(name, fresh).await,
            _ => None,
        }
    }

    /// Room for a body; where there is none, those end that have been coming for longest.
    async fn room_for_body(&self, address: IpAddr, length: usize) -> Result<Room, NoAnswer> {
        let mut taking = pin!(self.bodies.take(address, length));
        let taken = loop {
            tokio::select! {
                biased;
                taken = &mut taking => break taken,
                () = sleep(LOOK) => {}
            }
            if self.bodies.is_at_share(address, length) {
                self.seats.end_bodies(Some(address), length, |_| true);
            } else {
                self.seats.end_bodies(None, length, |other| self.bodies.are_alike(length, other));
            }
        };
        taken.map_err(|no_room| no_answer(no_room, &format!("the body has {length} octets")))
    }

    /// Does `job` on a thread where it holds nobody up. It ends even where nobody waits for it any more, so everything
    /// that it uses, room included, goes into it.
    async fn work<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, NoAnswer> {
        let hand = self.hands.clone().acquire_owned().await;
        let done = spawn_blocking(move || {
            let _hand = hand;
            job()
        });
        done.await.map_err(|error| NoAnswer {
            verdict: Verdict::Invalid,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: format!("this review cannot be answered: {error}"),
        })
    }
}

async fn read(body: Incoming) -> Result<Bytes, NoAnswer> {
    match timeout(BODY_TIMEOUT, to_bytes(Body::new(body), MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_large(&error) => {
            Err(too_large(format!("the body is longer than {MAX_BODY}")))
        }
        Ok(Err(error)) => Err(invalid(format!("the body cannot be read: {error}"))),
        Err(_) => Err(NoAnswer {
            verdict: Verdict::Invalid,
            status: StatusCode::REQUEST_TIMEOUT,
            reason: format!("no whole body within {BODY_TIMEOUT:?}"),
        }),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("length limit"))
}

fn invalid(reason: String) -> NoAnswer {
    NoAnswer { verdict: Verdict::Invalid, status: StatusCode::BAD_REQUEST, reason }
}

fn too_large(reason: String) -> NoAnswer {
    NoAnswer { verdict: Verdict::TooLarge, status: StatusCode::PAYLOAD_TOO_LARGE, reason }
}

fn no_answer(no_room: NoRoom, what: &str) -> NoAnswer {
    match no_room {
        NoRoom::TooLarge => too_large(format!("{what}; no review may have as much")),
        NoRoom::Busy => NoAnswer {
            verdict: Verdict::Busy,
            status: StatusCode::TOO_MANY_REQUESTS,
            reason: format!("{what}; other reviews have them, come again"),
        },
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
