//! Logins that belong to a connection, as NTLM has them, through a proxy on each side of a link that all clients share.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_core::Drain;
use weft_http::{Abort, Answer, Body, Handler, Http1Limits, Http1Pool, Interim, serve_http1, wire};

use crate::support::{heard, local, pass_time};

/// Both proxies, and an application that knows its users by their connections.
struct Mesh {
    pool: Rc<Http1Pool>,
    /// Connections that the application has taken, ever.
    taken: Rc<Cell<u32>>,
}

impl Mesh {
    fn new() -> Rc<Self> {
        Rc::new(Self { pool: Http1Pool::new(Http1Limits::default()), taken: Rc::default() })
    }

    fn client(self: &Rc<Self>) -> Client {
        let (near, far) = tokio::io::duplex(4096);
        let handler = Rc::new(Through(Rc::clone(self)));
        tokio::task::spawn_local(async move {
            serve_http1(far, |_| (), handler, &Http1Limits::default(), Drain::never()).await
        });
        Client(near)
    }
}

/// What happens to a request between a client and the application.
struct Through(Rc<Mesh>);

impl Handler for Through {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, mut request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let upgrade = wire::clean_request(&mut request).unwrap();
        wire::to_link(&mut request, upgrade);
        // Over a link, nothing but the head and the body.
        let (head, body) = request.into_parts();
        let mut linked = Request::new(body);
        (*linked.method_mut(), *linked.uri_mut()) = (head.method, head.uri);
        (*linked.headers_mut(), *linked.version_mut()) = (head.headers, Version::HTTP_2);
        wire::from_link(&mut linked).unwrap();
        let connect = async || {
            let (near, far) = tokio::io::duplex(4096);
            self.0.taken.set(self.0.taken.get() + 1);
            tokio::task::spawn_local(application(far, self.0.taken.get()));
            Ok::<_, ()>((near, ()))
        };
        let mut response = self.0.pool.send(linked, &interim, connect).await.unwrap();
        wire::response_to_link(&mut response);
        Ok(response.into())
    }
}

/// Three messages make a login: a wish, a challenge of this connection, and its answer.
async fn application(mut io: DuplexStream, number: u32) {
    let (mut challenged, mut user) = (false, None);
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = io.read_u8().await else { return };
            request.push(byte);
        }
        let text = String::from_utf8(request).unwrap();
        assert!(!text.to_ascii_lowercase().contains("weft"), "{text}");
        let field = text.lines().find_map(|line| line.strip_prefix("Authorization: "));
        let answer = match field.and_then(|field| field.strip_prefix("NTLM ")) {
            Some("wish") => {
                challenged = true;
                format!("HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM {number}\r\nContent-Length: 0\r\n\r\n")
            }
            Some(proof) if challenged && proof.split('@').nth(1) == Some(&number.to_string()) => {
                user = proof.split('@').next().map(str::to_owned);
                said(user.as_deref().unwrap())
            }
            _ => match &user {
                Some(user) => said(user),
                None => {
                    "HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"
                        .to_owned()
                }
            },
        };
        io.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn said(user: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}", user.len())
}

struct Client(DuplexStream);

impl Client {
    /// The status, and the challenge or the content.
    async fn ask(&mut self, field: &str) -> (u16, String) {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let text = heard(&mut self.0).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        let challenge = head.lines().find_map(|line| line.strip_prefix("Www-Authenticate: NTLM "));
        let challenge =
            challenge.or(head.lines().find_map(|line| line.strip_prefix("WWW-Authenticate: NTLM ")));
        (status, challenge.unwrap_or(body).to_owned())
    }

    async fn wish(&mut self) -> String {
        let (status, challenge) = self.ask("Authorization: NTLM wish\r\n").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        challenge
    }

    async fn prove(&mut self, user: &str, challenge: &str) -> (u16, String) {
        self.ask(&format!("Authorization: NTLM {user}@{challenge}\r\n")).await
    }
}

#[tokio::test(start_paused = true)]
async fn each_client_has_its_own_login_and_nobody_elses() {
    local(async {
        let mesh = Mesh::new();
        let (mut anna, mut bert, mut other) = (mesh.client(), mesh.client(), mesh.client());
        assert_eq!(anna.ask("").await.0, 401, "it is asked for a login");
        // The messages of two logins, one between the other.
        let annas = anna.wish().await;
        let berts = bert.wish().await;
        assert_ne!(annas, berts, "a connection each");
        assert_eq!(anna.prove("anna", &annas).await, (200, "anna".into()));
        assert_eq!(bert.prove("bert", &berts).await, (200, "bert".into()));
        let taken = mesh.taken.get();
        for _ in 0..3 {
            assert_eq!(anna.ask("").await, (200, "anna".into()));
            assert_eq!(other.ask("").await.0, 401);
            assert_eq!(mesh.client().ask("").await.0, 401);
            assert_eq!(bert.ask("").await, (200, "bert".into()));
        }
        // One that only asks for a login has none, and its connection is not for others either.
        assert!(mesh.taken.get() > taken);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_a_client_has_made_up_is_none() {
    local(async {
        let mesh = Mesh::new();
        let mut anna = mesh.client();
        let challenge = anna.wish().await;
        anna.prove("anna", &challenge).await;
        let name = "0123456789abcdef0123456789abcdef";
        let mut thief = mesh.client();
        // The application would see what got through.
        assert_eq!(thief.ask(&format!("Weft-Login: {name}\r\n")).await.0, 401);
        assert_eq!(anna.ask(&format!("Weft-Login: {name}\r\n")).await, (200, "anna".into()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_login_that_nobody_uses_ends_with_its_connection() {
    local(async {
        let mesh = Mesh::new();
        let mut anna = mesh.client();
        let challenge = anna.wish().await;
        anna.prove("anna", &challenge).await;
        assert_eq!(anna.ask("").await.0, 200);
        // A quarter more than the limit at most; the client's own connection has the same limit, and some requests of others
        // keep neither.
        pass_time(Http1Limits::default().idle / 2).await;
        assert_eq!(anna.ask("").await.0, 200, "it is in use");
        pass_time(Http1Limits::default().idle / 4 * 3).await;
        let mut late = Duration::ZERO;
        while mesh.pool.idle() > 0 {
            late += Duration::from_secs(1);
            pass_time(Duration::from_secs(1)).await;
            assert!(late < Http1Limits::default().idle, "it is kept for ever");
        }
    })
    .await;
}
