//! A whole proxy between hostile clients and hostile applications: whatever either does, an application sees the requests
//! that the client sent and no others, a client sees the answers to its own, and everything comes to an end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_core::Drain;
use weft_http::{Abort, Answer, Body, Handler, Http1Limits, Http1Pool, Interim, serve_http1};

use crate::ragged::{Manner, Ragged};
use crate::reference::{Seen, requests};
use crate::support::full;

/// Hands every request to an application.
struct Forward {
    pool: Rc<Http1Pool>,
    applications: Rc<Applications>,
}

/// What the application does, connection by connection, and what it has heard on each.
struct Applications {
    manner: Manner,
    acts: Vec<Act>,
    heard: RefCell<Vec<Rc<RefCell<Vec<u8>>>>>,
}

/// What an application does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Reads it and answers with a length.
    Answer,
    /// The same in chunks, with trailers.
    Chunks,
    /// The same after some interim answers.
    Interim,
    /// Until it closes.
    UntilClose,
    /// Answers when it sees the head, and reads on.
    Early,
    /// The same, and closes.
    EarlyAndClose,
    /// Answers when it sees the head, and takes nothing more for a while.
    EarlyAndDeaf,
    /// Answers twice.
    Twice,
    /// Part of an answer, and closes.
    Part(u8),
    /// Closes.
    Close,
    /// Says nothing.
    Never,
}

/// The name of a request, which its answer repeats.
fn name_of(heard: &[u8]) -> String {
    let line = heard.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    target.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect()
}

impl Applications {
    fn connect(self: &Rc<Self>) -> (Ragged<DuplexStream>, ()) {
        let (near, far) = tokio::io::duplex(256);
        let heard = Rc::new(RefCell::new(Vec::new()));
        let mut all = self.heard.borrow_mut();
        all.push(Rc::clone(&heard));
        let index = all.len();
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move { this.serve(index, far, heard).await });
        (Ragged::new(near, Manner { seed: self.manner.seed ^ index as u64, ..self.manner }), ())
    }

    /// One connection. It ends when either side closes.
    async fn serve(&self, index: usize, mut io: DuplexStream, heard: Rc<RefCell<Vec<u8>>>) -> Option<()> {
        for round in 0.. {
            let act = self.acts[(index + round) % self.acts.len()];
            let begun = loop {
                let carried = requests(&heard.borrow());
                if let Some(begin) = carried.begins.get(round)
                    && (act.is_early() && has_head(&heard.borrow()[*begin..])
                        || carried.requests.len() > round)
                {
                    break *begin;
                }
                hear(&mut io, &heard).await?;
            };
            let (name, head) = {
                let heard = &heard.borrow()[begun..];
                (name_of(heard), heard.starts_with(b"HEAD "))
            };
            self.act(act, &name, head, &mut io).await?;
            if matches!(act, Act::EarlyAndDeaf) {
                tokio::time::sleep(Duration::from_secs(1000)).await;
            }
        }
        Some(())
    }

    async fn act(&self, act: Act, name: &str, head: bool, io: &mut DuplexStream) -> Option<()> {
        let content = if head { "" } else { "ok" };
        let plain = format!("HTTP/1.1 200 OK\r\nX-For: {name}\r\nContent-Length: 2\r\n\r\n{content}");
        let (text, goes_on) = match act {
            Act::Chunks if !head => (
                format!(
                    "HTTP/1.1 200 OK\r\nX-For: {name}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: v\r\n\r\n"
                ),
                true,
            ),
            Act::Answer | Act::Early | Act::EarlyAndDeaf | Act::Chunks => (plain, true),
            Act::Interim => {
                (format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n{plain}"), true)
            }
            Act::UntilClose => (format!("HTTP/1.1 200 OK\r\nX-For: {name}\r\n\r\n{content}"), false),
            Act::EarlyAndClose => (plain, false),
            Act::Twice => {
                (format!("{plain}HTTP/1.1 200 OK\r\nX-For: /evil\r\nContent-Length: 4\r\n\r\nevil"), true)
            }
            Act::Part(octets) => (plain[..usize::from(octets) % plain.len()].to_owned(), false),
            Act::Close => (String::new(), false),
            Act::Never => std::future::pending().await,
        };
        io.write_all(text.as_bytes()).await.ok()?;
        goes_on.then_some(())
    }
}

impl Act {
    fn is_early(self) -> bool {
        matches!(self, Self::Early | Self::EarlyAndClose | Self::EarlyAndDeaf | Self::Part(_) | Self::Close)
    }
}

fn has_head(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|end| end == b"\r\n\r\n")
}

async fn hear(io: &mut DuplexStream, heard: &RefCell<Vec<u8>>) -> Option<()> {
    let mut piece = [0; 64];
    let read = io.read(&mut piece).await.ok()?;
    heard.borrow_mut().extend_from_slice(&piece[..read]);
    (read > 0).then_some(())
}

impl Handler for Forward {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let connect = async || Ok::<_, &'static str>(self.applications.connect());
        let sent = self.pool.send(request, &interim, connect);
        let answered = tokio::time::timeout(Duration::from_secs(30), sent).await;
        let response = answered.ok().and_then(Result::ok).unwrap_or_else(|| {
            let mut response = Response::new(full("no"));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        });
        Ok(response.into())
    }
}

/// What a client does besides sending its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// It pauses behind so many octets.
    pub(crate) pauses: usize,
    /// It closes its half behind the last, or all of it.
    pub(crate) half: bool,
    /// It reads what it is told.
    pub(crate) reads: bool,
    /// It leaves before its last octets.
    pub(crate) leaves: usize,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) heard: Vec<Vec<u8>>,
    answers: Vec<u8>,
}

/// Runs client, proxy and applications until nothing goes on any more.
pub(crate) async fn run(bytes: Vec<u8>, client: Client, manner: Manner, acts: Vec<Act>) -> Outcome {
    let limits = Http1Limits {
        pause: Duration::from_secs(20),
        idle: Duration::from_secs(60),
        ..Http1Limits::default()
    };
    let applications = Rc::new(Applications { manner, acts, heard: RefCell::default() });
    let pool = Http1Pool::new(limits);
    let handler = Rc::new(Forward { pool: Rc::clone(&pool), applications: Rc::clone(&applications) });
    let (near, far) = tokio::io::duplex(256);
    let far = Ragged::new(far, manner);
    let served =
        tokio::task::spawn_local(
            async move { serve_http1(far, |_| (), handler, &limits, Drain::never()).await },
        );
    let (mut read, mut write) = tokio::io::split(near);
    let sending = async move {
        let bytes = &bytes[..bytes.len() - client.leaves.min(bytes.len())];
        let (first, second) = bytes.split_at(client.pauses.min(bytes.len()));
        let _ = write.write_all(first).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let _ = write.write_all(second).await;
        if client.half {
            let _ = write.shutdown().await;
        }
        write
    };
    let reading = async move {
        let mut answers = Vec::new();
        if client.reads {
            let _ = read.read_to_end(&mut answers).await;
        } else {
            tokio::time::sleep(Duration::from_secs(500)).await;
        }
        (answers, read)
    };
    let both = async { tokio::join!(tokio::time::timeout(Duration::from_secs(400), sending), reading) };
    // Nothing may last longer than all limits one after another for all requests.
    let whole = tokio::time::timeout(Duration::from_secs(3000), async {
        let (sent, (answers, read)) = both.await;
        drop((sent, read));
        served.await.unwrap().ok();
        answers
    });
    let answers = whole.await.expect("it hangs");
    // What is idle in the pool ends as well.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(pool.idle(), 0, "left in the pool");
    let heard = applications.heard.borrow().iter().map(|heard| heard.borrow().clone()).collect();
    Outcome { heard, answers }
}

/// Every connection to an application carried some of the requests that the client sent, in their order, and no others.
fn judge(sent: &[u8], outcome: &Outcome, acts: &[Act]) {
    let expected = requests(sent).requests;
    for heard in &outcome.heard {
        let carried = requests(heard);
        let seen = carried.requests;
        assert!(!carried.refused, "the mesh wrote {:?}", String::from_utf8_lossy(heard));
        let mut rest = expected.iter();
        for request in &seen {
            assert!(
                rest.any(|one| same(one, request)),
                "{request:?} was never sent, or not now; {:?}",
                String::from_utf8_lossy(sent)
            );
        }
    }
    if !acts.contains(&Act::Twice) {
        let text = String::from_utf8_lossy(&outcome.answers).into_owned();
        let named: Vec<&str> =
            text.split("X-For: ").skip(1).filter_map(|rest| rest.split("\r\n").next()).collect();
        let mut rest = expected.iter().map(|one| name_of(&[b"x ", &one.target[..], b" x"].concat()));
        // A request that is cut off is one as well.
        for (at, name) in named.iter().enumerate() {
            assert!(at + 1 >= named.len() || rest.any(|one| one == *name), "{name} of {named:?}");
        }
    }
}

fn same(sent: &Seen, heard: &Seen) -> bool {
    let sorted = |fields: &[(String, Vec<u8>)]| {
        let mut fields = fields.to_vec();
        fields.sort();
        fields
    };
    // An absolute target is what decides, and so is that of CONNECT: Host follows it.
    let absolute = sent.target.starts_with(b"http") || sent.method == "CONNECT";
    let fields = |seen: &Seen| {
        let mut fields = sorted(&seen.fields);
        fields.retain(|(name, _)| !absolute || name != "host");
        fields
    };
    (&sent.method, &sent.target, &sent.body) == (&heard.method, &heard.target, &heard.body)
        && fields(sent) == fields(heard)
        && (sorted(&sent.trailers) == sorted(&heard.trailers) || !sent.trailers.is_empty())
}

fn a_request(index: usize) -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![6 => Just("GET"), 6 => Just("POST"), 1 => Just("HEAD"), 1 => Just("CONNECT"), 1 => Just("OPTIONS")];
    let target = prop_oneof![
        8 => Just(format!("/{index}")),
        1 => Just(format!("/{index}<>?#x")),
        1 => Just(format!("http://h/{index}")),
        1 => Just("h:80".to_owned()),
        1 => Just(format!("/{index} ")),
    ];
    let version = prop_oneof![8 => Just("1.1"), 2 => Just("1.0"), 1 => Just("2.0")];
    let end = prop_oneof![8 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    let field = prop_oneof![
        Just("Host: other"),
        Just("Content-Length: 3"),
        Just("Content-Length: 40"),
        Just("Content-Length : 40"),
        Just("content-length: 0"),
        Just("Transfer-Encoding: chunked"),
        Just("Transfer-Encoding: Chunked, identity"),
        Just("Transfer-Encoding:\u{b}chunked"),
        Just("Transfer-Encoding\t: chunked"),
        Just("Connection: close"),
        Just("Connection: keep-alive"),
        Just("Connection: upgrade\r\nUpgrade: x"),
        Just("Connection: content-length, x-a"),
        Just("Expect: 100-continue"),
        Just("X-A: b"),
        Just(" folded: x"),
        Just("x_y: \u{e9}"),
        Just("TE: trailers"),
        Just("X-Forwarded-Client-Cert: me"),
        Just("X-A: c\rd"),
        Just("X-Empty:"),
        Just(":"),
    ];
    let hidden = format!("GET /hidden{index} HTTP/1.1\r\nHost: h\r\n\r\n");
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let framing = prop_oneof![
        4 => Just((String::new(), String::new())),
        3 => Just((format!("Content-Length: {}", hidden.len()), hidden.clone())),
        3 => Just(("Transfer-Encoding: chunked".to_owned(), chunked.clone())),
        1 => Just(("Transfer-Encoding: chunked".to_owned(), "2;x=y\r\nab\r\n0\r\nT: v\r\n\r\n".to_owned())),
        1 => Just(("Transfer-Encoding: chunked".to_owned(), format!("2\nab\r\n0\r\n\r\n{hidden}"))),
        1 => Just((String::new(), hidden)),
        1 => Just(("Content-Length: 5000".to_owned(), "y".repeat(5000))),
        1 => Just((String::new(), chunked)),
    ];
    let fields = proptest::collection::vec(field, 0..2);
    (method, target, version, end, fields, framing).prop_map(
        |(method, target, version, end, fields, (framing, body))| {
            let mut text = format!("{method} {target} HTTP/{version}{end}Host: h{end}");
            for field in fields.iter().copied().chain([framing.as_str()]).filter(|field| !field.is_empty()) {
                text.push_str(field);
                text.push_str(end);
            }
            [text.as_bytes(), end.as_bytes(), body.as_bytes()].concat()
        },
    )
}

pub(crate) fn some_requests() -> impl Strategy<Value = Vec<u8>> {
    (a_request(1), a_request(2), a_request(3), a_request(4), 0usize..5)
        .prop_map(|(a, b, c, d, most)| [a, b, c, d].into_iter().take(most).flatten().collect())
}

fn an_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Answer), 2 => Just(Act::Chunks), 1 => Just(Act::Interim), 1 => Just(Act::UntilClose),
        3 => Just(Act::Early), 1 => Just(Act::EarlyAndClose), 1 => Just(Act::EarlyAndDeaf), 1 => Just(Act::Twice),
        1 => any::<u8>().prop_map(Act::Part), 1 => Just(Act::Close), 1 => Just(Act::Never),
    ]
}

fn a_manner() -> impl Strategy<Value = Manner> {
    (
        any::<u64>(),
        prop_oneof![Just(1usize), Just(7), Just(100), Just(100_000)],
        prop_oneof![Just(0u64), 2u64..5],
        any::<bool>(),
    )
        .prop_map(|(seed, most, waits, holds_back)| Manner { seed, most, waits, holds_back })
}

fn a_client() -> impl Strategy<Value = Client> {
    let leaves = prop_oneof![3 => Just(0usize), 1 => 0usize..300];
    (0usize..400, any::<bool>(), prop_oneof![4 => Just(true), 1 => Just(false)], leaves)
        .prop_map(|(pauses, half, reads, leaves)| Client { pauses, half, reads, leaves })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_application_sees_the_requests_of_its_client_and_no_others(
        bytes in some_requests(),
        client in a_client(),
        manner in a_manner(),
        acts in proptest::collection::vec(an_act(), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let local = tokio::task::LocalSet::new();
        let outcome = local.block_on(&runtime, run(bytes.clone(), client, manner, acts.clone()));
        judge(&bytes, &outcome, &acts);
    }
}
