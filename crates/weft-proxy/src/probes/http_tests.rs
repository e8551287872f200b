//! Applications of every kind, and what is sent to them.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const PORT: u16 = 8080;
/// One of the proxy's.
const OWN: u16 = 15021;
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// An application that gives its answers in turn, one to a connection, and keeps open what it was told to.
#[derive(Default)]
struct Application {
    answers: Mutex<Vec<Vec<u8>>>,
    hangs: bool,
    early: bool,
    asked: Mutex<Vec<(Door, String)>>,
}

impl Application {
    fn new(answers: &[&[u8]]) -> Self {
        let answers = answers.iter().rev().map(|answer| answer.to_vec()).collect();
        Self { answers: Mutex::new(answers), ..Self::default() }
    }

    fn heads(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, head)| head.clone()).collect()
    }
}

impl Dial for &'static Application {
    type Stream = DuplexStream;

    async fn dial(&self, door: Door) -> Result<DuplexStream, Unhealthy> {
        // Less than a head, so that one is written in parts.
        let (ours, mut theirs) = duplex(16);
        let application = *self;
        let answer = application.answers.lock().unwrap().pop().unwrap_or_default();
        tokio::spawn(async move {
            let mut head = Vec::new();
            if application.early {
                theirs.write_all(&answer).await.unwrap();
            }
            while !head.ends_with(b"\r\n\r\n") {
                head.push(theirs.read_u8().await.unwrap());
            }
            application.asked.lock().unwrap().push((door, String::from_utf8(head).unwrap()));
            if !application.early {
                // Who asked may have read enough.
                let _ = theirs.write_all(&answer).await;
            }
            if application.hangs {
                std::future::pending::<()>().await;
            }
        });
        Ok(ours)
    }

    fn leads_to(&self, port: u16) -> bool {
        port != OWN
    }
}

fn leaked(application: Application) -> &'static Application {
    Box::leak(Box::new(application))
}

async fn check(
    application: &'static Application,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Verdict, Unhealthy> {
    let header = |(name, value): &(&str, &str)| ProbeHeader { name: (*name).into(), value: (*value).into() };
    let headers: Vec<_> = headers.iter().map(header).collect();
    let definition = Definition { door: Door { port: PORT, tls: false }, path, headers: &headers };
    let asking = ask(definition, ADDRESS, &application);
    // The clock stands still: it only moves on when nothing else can.
    tokio::time::timeout(Duration::from_secs(1), asking).await.unwrap_or(Err(Unhealthy::NoAddress))
}

/// The headers of a definition, and those that Go's client sent for it as the kubelet uses it.
const HEADERS: &[(&[(&str, &str)], &str)] = &[
    (&[], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: close"),
    (
        &[("X-Custom", "kept"), ("authorization", "Bearer x"), ("x-custom", "second")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Authorization: Bearer x|X-Custom: kept|X-Custom: second|Connection: close",
    ),
    (
        &[("Host", "shop.example")],
        "Host: shop.example|User-Agent: kube-probe/1.32|Accept: */*|Connection: close",
    ),
    (
        &[("Host", "shop.example"), ("Host", "two")],
        "Host: shop.example|User-Agent: kube-probe/1.32|Accept: */*|Connection: close",
    ),
    (&[("host", "bad host/x")], "Host: |User-Agent: kube-probe/1.32|Accept: */*|Connection: close"),
    (&[("Host", "")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: close"),
    (&[("User-Agent", "mine")], "Host: ADDR|User-Agent: mine|Accept: */*|Connection: close"),
    (&[("User-Agent", "")], "Host: ADDR|Accept: */*|Connection: close"),
    (
        &[("Accept", "text/plain")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: text/plain|Connection: close",
    ),
    (&[("Accept", "")], "Host: ADDR|User-Agent: kube-probe/1.32|Connection: close"),
    (&[("Content-Length", "5")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: close"),
    (
        &[("Transfer-Encoding", "chunked")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: close",
    ),
    (&[("Trailer", "x")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: close"),
    (&[("Connection", "close")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: close"),
    (
        &[("Connection", "keep-alive")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: keep-alive|Connection: close",
    ),
    (
        &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: Upgrade|Upgrade: websocket",
    ),
    (
        &[("Connection", "Upgrade")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Connection: Upgrade|Connection: close",
    ),
    (
        &[("X-Space", "  a  b  ")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|X-Space: a  b|Connection: close",
    ),
    (&[("X-Empty", "")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|X-Empty: |Connection: close"),
    (
        &[("X-Tab", "a\tb")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|X-Tab: a\tb|Connection: close",
    ),
    (
        &[("TE", "trailers")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Te: trailers|Connection: close",
    ),
    (
        &[("Expect", "100-continue")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Expect: 100-continue|Connection: close",
    ),
    (
        &[("Referer", "http://r/")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Referer: http://r/|Connection: close",
    ),
    (&[("X-Latin", "é")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|X-Latin: é|Connection: close"),
    (
        &[("Accept-Encoding", "gzip")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|Accept-Encoding: gzip|Connection: close",
    ),
    (&[("x_y", "1")], "Host: ADDR|User-Agent: kube-probe/1.32|Accept: */*|X_y: 1|Connection: close"),
    (
        &[("Zed", "1"), ("Alpha", "2"), ("accept", "x")],
        "Host: ADDR|User-Agent: kube-probe/1.32|Accept: x|Alpha: 2|Zed: 1|Connection: close",
    ),
];

#[tokio::test(start_paused = true)]
async fn the_definitions_headers_are_sent_as_the_kubelet_sends_them() {
    for (headers, sent) in HEADERS {
        let application = leaked(Application::new(&[b"HTTP/1.1 204 No Content\r\n\r\n"]));
        let verdict = check(application, "/", headers).await.unwrap();
        assert_eq!(verdict, Verdict::Status(StatusCode::NO_CONTENT));
        let lines = sent.replace("ADDR", "10.0.0.1:8080").replace('|', "\r\n");
        assert_eq!(application.heads(), [format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n")], "{headers:?}");
    }
}

#[derive(Debug, PartialEq)]
enum Lead {
    /// The target and the host of the second request.
    To(&'static str, &'static str),
    Away,
    Fails,
}

/// A location in the answer to `/base/dir/x?q=1#f` with a host of its own, and what Go's client did as the kubelet uses it.
const LOCATIONS: &[(&str, Lead)] = &[
    ("/moved", Lead::To("/moved", "app.example")),
    ("moved", Lead::To("/base/dir/moved", "app.example")),
    ("../up", Lead::To("/base/up", "app.example")),
    ("./same", Lead::To("/base/dir/same", "app.example")),
    ("?only=query", Lead::To("/base/dir/x?only=query", "app.example")),
    ("#frag", Lead::To("/base/dir/x?q=1", "app.example")),
    ("http://ADDR/abs", Lead::To("/abs", "ADDR")),
    ("//ADDR/netpath", Lead::To("/netpath", "app.example")),
    ("http://ADDR", Lead::To("/", "ADDR")),
    ("http://other.example/x", Lead::Away),
    ("https://other.example/x", Lead::Away),
    ("mailto:x", Lead::Away),
    ("ftp://127.0.0.1/x", Lead::Fails),
    ("/a b\"<é>", Lead::To("/a%20b%22%3C%C3%A9%3E", "app.example")),
    ("/%zz", Lead::Fails),
    ("/a\tb", Lead::Fails),
    (":x", Lead::Fails),
    ("/x/../../../y", Lead::To("/y", "app.example")),
    ("http://ADDR/a/../b", Lead::To("/b", "ADDR")),
    (".//b", Lead::To("/base/dir//b", "app.example")),
    ("..//b", Lead::To("/base//b", "app.example")),
    ("/a/..//b", Lead::To("/b", "app.example")),
    ("?", Lead::To("/base/dir/x?", "app.example")),
    ("http://user:pw@ADDR/x", Lead::To("/x", "ADDR")),
    ("//localhost/x", Lead::Away),
    ("HTTP://ADDR/upper", Lead::To("/upper", "ADDR")),
    ("http:///x", Lead::Away),
    ("http:x", Lead::Away),
    ("http://[::1]/x", Lead::Away),
    ("/a?x=%zz y", Lead::To("/a?x=%zz y", "app.example")),
    ("/*", Lead::To("/*", "app.example")),
    ("*", Lead::To("/base/dir/*", "app.example")),
    ("/ok#with space", Lead::To("/ok", "app.example")),
    ("...", Lead::To("/base/dir/...", "app.example")),
    (".", Lead::To("/base/dir/", "app.example")),
    ("..", Lead::To("/base/", "app.example")),
    ("/.", Lead::To("/", "app.example")),
    ("/..", Lead::To("/", "app.example")),
    ("a/./b/../c/.", Lead::To("/base/dir/a/c/", "app.example")),
];

#[tokio::test(start_paused = true)]
async fn a_redirect_is_followed_as_the_kubelet_does() {
    for (location, lead) in LOCATIONS {
        let location = location.replace("ADDR", "10.0.0.1:8080").replace("127.0.0.1", "10.0.0.1");
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let application = leaked(Application::new(&[answer.as_bytes(), b"HTTP/1.1 200 OK\r\n\r\n"]));
        let verdict = check(application, "/base/dir/x?q=1#f", &[("Host", "app.example")]).await;
        let heads = application.heads();
        match lead {
            Lead::To(target, host) => {
                assert_eq!(verdict.unwrap(), Verdict::Status(StatusCode::OK), "{location:?}");
                let head = heads.get(1).unwrap();
                let host = host.replace("ADDR", "10.0.0.1:8080");
                let begins = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n");
                assert!(head.starts_with(&begins), "{location:?}: {head:?}");
                let referer = "Referer: http://10.0.0.1:8080/base/dir/x?q=1#f\r\n";
                assert!(head.contains(referer), "{location:?}: {head:?}");
            }
            Lead::Away => {
                assert_eq!((verdict.unwrap(), heads.len()), (Verdict::Redirect, 1), "{location:?}");
            }
            Lead::Fails => {
                assert!(matches!(verdict, Err(Unhealthy::Protocol(_))), "{location:?}: {verdict:?}");
                assert_eq!(heads.len(), 1, "{location:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_leads_anywhere_in_the_pod_but_to_the_proxy() {
    for (location, door) in [
        ("https://10.0.0.1:8443/x", Some(Door { port: 8443, tls: true })),
        ("http://10.0.0.1:15021/probe/0/app/liveness", None),
        ("https://10.0.0.1:15021/ready", None),
        ("http://10.0.0.1/x", Some(Door { port: 80, tls: false })),
        ("https://10.0.0.1/x", Some(Door { port: 443, tls: true })),
    ] {
        let answer = format!("HTTP/1.1 308 .\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let application = leaked(Application::new(&[answer.as_bytes(), b"HTTP/1.1 500 .\r\n\r\n"]));
        let verdict = check(application, "/", &[]).await.unwrap();
        let last = application.asked.lock().unwrap().last().map(|(door, _)| *door).unwrap();
        match door {
            Some(door) => {
                assert_eq!((verdict, last), (Verdict::Status(StatusCode::INTERNAL_SERVER_ERROR), door));
            }
            None => assert_eq!((verdict, last.port), (Verdict::Redirect, PORT), "{location}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_redirects_ends() {
    let answer = b"HTTP/1.1 307 Again\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".as_slice();
    let application = leaked(Application::new(&[answer; 20]));
    let verdict = check(application, "/", &[]).await;
    assert!(matches!(verdict, Err(Unhealthy::Protocol(_))), "{verdict:?}");
    assert_eq!(application.heads().len(), MOST_REQUESTS);
    // Without a location there is nothing to follow; the kubelet is content.
    let application = leaked(Application::new(&[b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"]));
    assert_eq!(check(application, "/", &[]).await.unwrap(), Verdict::Redirect);
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_to_be_one() {
    let long = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; 10 * MOST_BODY]].concat();
    let large = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'x'; 2 * MOST_HEAD]].concat();
    for (answer, status) in [
        (b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), Some(200)),
        (b"HTTP/1.0 204 OK\r\n\r\n", Some(204)),
        (b"HTTP/1.1 103 .\r\n\r\nHTTP/1.1 404 .\r\ncontent-length: 0\r\n\r\n", Some(404)),
        (b"HTTP/1.1 101 .\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Some(101)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Some(200)),
        (&long, Some(200)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok", None),
        (b"HTTP/1.1 200 OK\r\nx-half: he", None),
        (&large, None),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"", None),
    ] {
        for early in [false, true] {
            // What comes before a question has to fit into the pipe.
            if early && answer.len() > 16 {
                continue;
            }
            let application = leaked(Application { early, ..Application::new(&[answer]) });
            let verdict = check(application, "/", &[]).await;
            let read = match &verdict {
                Ok(Verdict::Status(status)) => Some(status.as_u16()),
                Err(Unhealthy::Protocol(_)) => None,
                other => panic!("{other:?} for {:?}", String::from_utf8_lossy(answer)),
            };
            assert_eq!(read, status, "{:?}", String::from_utf8_lossy(answer));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_never_ends_is_given_up() {
    for answer in [
        b"".as_slice(),
        b"HTTP/1.1 200 OK\r\nx-half: he",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ] {
        let application = leaked(Application { hangs: true, ..Application::new(&[answer]) });
        let verdict = check(application, "/", &[]).await;
        assert!(matches!(verdict, Err(Unhealthy::NoAddress)), "{verdict:?}");
    }
    // The kubelet has read enough of this one, and so have we.
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; 2 * MOST_BODY]].concat();
    let application = leaked(Application { hangs: true, ..Application::new(&[&endless]) });
    assert_eq!(check(application, "/", &[]).await.unwrap(), Verdict::Status(StatusCode::OK));
}
