//! Requests behind which a connection may carry something else: nothing may hide there from the sidecar.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::{Pod, Service, eventually, story};

use crate::SOON;
use crate::careless::Careless;
use crate::links::{MALLORY, Trap, head};
use crate::speaker::{Got, Speaker, in_time};

/// What the sidecars must not take for a body, nor for bytes that are nobody's business.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://weft.local/ns/bank/sa/admin\r\n\r\n";

/// So many bytes are what the attacks' lengths say.
const FORTY: &str = "forty bytes that an application discards";

/// Speaks to `to` over a connection of its own, until `end` has come, or all that comes.
async fn ask(to: SocketAddr, bytes: &str, end: &str) -> Result<String> {
    let work = async {
        let mut stream = TcpStream::connect(to).await.context("connecting")?;
        stream.write_all(bytes.as_bytes()).await.context("writing")?;
        let mut seen = Vec::new();
        let ended = |seen: &[u8]| seen.windows(end.len()).any(|window| window == end.as_bytes());
        while !ended(&seen) && stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {}
        Ok(String::from_utf8_lossy(&seen).into_owned())
    };
    in_time(end, work).await?
}

/// A request for an upgrade, without its first line and its end.
const UPGRADE: &str = "host: a\r\nconnection: upgrade\r\nupgrade: made-up/1\r\n";

/// Requests for an upgrade, with and without a body.
async fn upgrades(to: SocketAddr) -> Result<()> {
    let body = format!("{FORTY}{HIDDEN}");
    let (all, length) = (body.len(), FORTY.len());
    let ok = "ok\n";
    let chunked = format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{FORTY}\r\n0\r\n\r\n");
    // Ordinary requests: whole, and with what follows them.
    for rest in [
        format!("{UPGRADE}content-length: {length}\r\n\r\n{FORTY}"),
        format!("{UPGRADE}content-length: {length}\r\nexpect: 100-continue\r\n\r\n{FORTY}"),
        format!("{UPGRADE}{chunked}"),
        "host: a\r\nconnection: upgrade\r\nupgrade: h2c, \u{e9}\r\n\r\n".to_owned(),
        format!("host: a\r\ncontent-length: {all}\r\n\r\n{body}"),
    ] {
        let seen = ask(to, &format!("POST /a HTTP/1.1\r\n{rest}"), ok).await?;
        ensure!(seen.contains("HTTP/1.1 200 OK\r\n") && seen.contains(ok), "{rest:?}: {seen:?}");
        // Over the same connection to the application, if the sidecar takes it for one.
        let next =
            ask(to, &format!("POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: {all}\r\n\r\n{body}"), ok)
                .await?;
        ensure!(next.contains(ok), "after {rest:?}: {next:?}");
    }
    // Upgrades, with a length that is none.
    for (method, rest) in [("GET", ""), ("GET", "content-length: 0\r\n"), ("POST", "content-length: 0\r\n")] {
        let seen =
            ask(to, &format!("{method} /switch HTTP/1.1\r\n{UPGRADE}{rest}\r\nthrough\n\n"), "\n\n").await?;
        ensure!(
            seen.starts_with("HTTP/1.1 101 ") && seen.contains("upgrade: made-up/1\r\n"),
            "{method}: {seen:?}"
        );
        ensure!(
            seen.ends_with("\r\n\r\nthrough\n\n") && !seen.to_ascii_lowercase().contains("content-length"),
            "{method}: {seen:?}"
        );
    }
    // A 101 of a server that goes on reading requests.
    for (path, asked) in [("/status/101", UPGRADE), ("/status/h2c", UPGRADE), ("/status/101", "host: a\r\n")]
    {
        let seen = ask(to, &format!("GET {path} HTTP/1.1\r\n{asked}\r\n{HIDDEN}"), "protocol\n").await?;
        ensure!(seen.starts_with("HTTP/1.1 502 ") && seen.contains("upstream-protocol"), "{path}: {seen:?}");
    }
    Ok(())
}

/// CONNECT, to what it may not name and to what it may.
async fn connects(to: SocketAddr, tunnels: bool) -> Result<()> {
    for (target, rest) in [
        ("/x", ""),
        ("a", ""),
        ("a:0", ""),
        ("http://a/", ""),
        ("u@a:1", ""),
        ("a:1", "content-length: 40\r\n"),
        ("a:1", "transfer-encoding: chunked\r\n"),
    ] {
        let seen =
            ask(to, &format!("CONNECT {target} HTTP/1.1\r\nhost: a:1\r\n{rest}\r\n{HIDDEN}"), "malformed\n")
                .await?;
        ensure!(seen.starts_with("HTTP/1.1 400 "), "CONNECT {target} {rest}: {seen:?}");
    }
    for host in ["plain.example:1", "chunks.example:1"] {
        let seen =
            ask(to, &format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n{HIDDEN}"), "port\n").await?;
        if tunnels {
            // An HTTP/1 client takes every 2xx for a tunnel. This one's bytes are not read, and may have reset what it got.
            ensure!(seen.is_empty() || seen.starts_with("HTTP/1.1 200 "), "CONNECT {host}: {seen:?}");
        } else {
            let refused = seen.starts_with("HTTP/1.1 405 ")
                && seen.to_ascii_lowercase().contains("weft-error: method-not-allowed\r\n");
            ensure!(refused, "CONNECT {host}: {seen:?}");
        }
    }
    if tunnels {
        let request =
            "CONNECT tunnel.example:1 HTTP/1.1\r\nhost: tunnel.example:1\r\ncontent-length: 0\r\n\r\n";
        let seen = ask(to, &format!("{request}through\n\n"), "\n\n").await?;
        ensure!(seen.starts_with("HTTP/1.1 200 ") && seen.ends_with("through\n\n"), "{seen:?}");
    }
    Ok(())
}

/// What everybody may try who can write HTTP/1 to a sidecar: an application to its own, a plaintext client to another's.
/// `tunnels` is whether CONNECT is allowed.
async fn attack(to: SocketAddr, tunnels: bool) -> Result<()> {
    upgrades(to).await?;
    connects(to, tunnels).await?;
    let last = ask(to, "GET /last HTTP/1.1\r\nhost: a\r\n\r\n", "ok\n").await?;
    ensure!(last.contains("ok\n"), "{last:?}");
    Ok(())
}

const ATTACKS: [&str; 10] = [
    "POST /a",
    "POST /b",
    "GET /switch",
    "POST /switch",
    "GET /status/101",
    "GET /status/h2c",
    "GET /last",
    "CONNECT plain.example:1",
    "CONNECT chunks.example:1",
    "CONNECT tunnel.example:1",
];

/// Where CONNECT is not allowed it has not reached the application.
fn judge(app: &Careless, caller: Option<&str>, tunnels: bool) -> Result<()> {
    let allowed = if tunnels { &ATTACKS[..] } else { &ATTACKS[..7] };
    // What stands behind a refused request is the next one to a sidecar that reads both: it is told whose it is.
    let seen = app.saw_only(caller, &[allowed, &["GET /hidden"]].concat())?;
    ensure!(seen.len() >= 16, "{seen:?}");
    Ok(())
}

fn inbound(mode: &str, tunnels: bool) -> serde_json::Value {
    let mut inbound = serde_json::json!({ "mode": mode });
    if tunnels {
        inbound["connectPorts"] = serde_json::json!([8080]);
    }
    inbound
}

#[test]
fn nothing_hides_behind_a_request_of_an_application() {
    story("takeover-app", |mesh| {
        for tunnels in [false, true] {
            let (orders, web) = (mesh.pod("orders.shop").start()?, mesh.pod("web.shop").start()?);
            let app = Careless::start(&orders, 8080)?;
            mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
            let inbound = inbound("strict", tunnels);
            let _server = mesh.sidecar(&orders)?.config(|yaml| yaml["inbound"] = inbound).start()?;
            let _client = mesh.sidecar(&web)?.start()?;
            let to = SocketAddr::new(web.resolve("orders.shop")?[0], 80);
            web.run(async || attack(to, tunnels).await)?;
            judge(&app, Some("URI=spiffe://weft.local/ns/shop/sa/web"), tunnels)?;
        }
        Ok(())
    });
}

#[test]
fn nothing_hides_behind_a_request_in_plaintext() {
    story("takeover-plain", |mesh| {
        for tunnels in [false, true] {
            let trap = Trap::new(mesh, inbound("permissive", tunnels))?;
            trap.mallory.run(async || attack(trap.to, tunnels).await)?;
            judge(&trap.app, None, tunnels)?;
        }
        Ok(())
    });
}

/// One request after another over one link, whose streams share the application's connections.
async fn over_a_link(trap: &Trap) -> Result<()> {
    let mut link = Speaker::connect(trap.to, &trap.config).await?;
    let body = format!("{FORTY}{HIDDEN}");
    let length = FORTY.len();
    let next = || head("POST /b", &format!("host: a|content-length: {}", body.len()));
    let refused = [
        ("POST /a", format!("host: a|weft-upgrade: websocket|content-length: {length}"), 400, "bad-request"),
        (
            "POST /a",
            format!("host: a|weft-upgrade: websocket|content-length: {length}|expect: 100-continue"),
            400,
            "bad-request",
        ),
        ("CONNECT a:1", format!("content-length: {length}"), 400, "bad-request"),
        ("CONNECT a:1", String::new(), 405, "method-not-allowed"),
        ("CONNECT a:1", "weft-wire: 2".to_owned(), 405, "method-not-allowed"),
        ("GET /status/101", "host: a|weft-upgrade: websocket".to_owned(), 502, "upstream-protocol"),
        ("GET /status/h2c", "host: a|weft-upgrade: websocket".to_owned(), 502, "upstream-protocol"),
        ("GET /status/101", "host: a".to_owned(), 502, "upstream-protocol"),
    ];
    for (line, headers, status, code) in refused {
        let got = link.say(head(line, &headers)?, FORTY, true).await?;
        ensure!(got.is_error(status, code), "{line} {headers}: {got:?}");
        let got = link.say(next()?, &body, false).await?;
        ensure!(got.status() == 200, "after {line} {headers}: {got:?}");
    }
    // An upgrade that the application does not want, and bytes that come all the same.
    for headers in ["host: a|weft-upgrade: websocket", "host: a|weft-upgrade: websocket|trailer: host"] {
        let got = link.say(head("POST /a", headers)?, &body, true).await?;
        ensure!(got == Got::Answer(200, String::new(), "ok\n".to_owned()), "{headers}: {got:?}");
        let got = link.say(next()?, &body, false).await?;
        ensure!(got.status() == 200, "after {headers}: {got:?}");
    }
    let got = link.say(head("GET /switch", "host: a|weft-upgrade: made-up/1")?, "through\n\n", true).await?;
    ensure!(got == Got::Answer(200, String::new(), "through\n\n".to_owned()), "{got:?}");
    Ok(())
}

#[test]
fn nothing_hides_behind_a_request_of_a_peer() {
    story("takeover-link", |mesh| {
        let trap = Trap::new(mesh, serde_json::json!({ "mode": "strict" }))?;
        trap.mallory.run(async || over_a_link(&trap).await)?;
        let seen = trap.app.saw_only(Some(MALLORY), &ATTACKS[..7])?;
        ensure!(seen.iter().filter(|head| head.starts_with("POST /b ")).count() == 10, "{seen:?}");
        Ok(())
    });
}

/// CONNECT reaches an application that is named, and no other, and its answer is a tunnel only if it is one.
#[test]
fn connect_goes_where_it_is_configured_to() {
    story("connect-ports", |mesh| {
        let mut trap = Trap::new(mesh, serde_json::json!({ "mode": "strict", "connectPorts": [8080] }))?;
        trap.mallory.run(async || {
            let mut link = Speaker::connect(trap.to, &trap.config).await?;
            for target in ["plain.example:1", "chunks.example:1"] {
                let got = link.say(head(&format!("CONNECT {target}"), "")?, HIDDEN, true).await?;
                ensure!(got == Got::Answer(200, String::new(), "no proxy\n".to_owned()), "{target}: {got:?}");
            }
            let got = link.say(head("CONNECT tunnel.example:1", "")?, "through\n\n", true).await?;
            ensure!(got == Got::Answer(200, String::new(), "through\n\n".to_owned()), "{got:?}");
            Ok(())
        })?;
        let seen = trap.app.saw_only(Some(MALLORY), &ATTACKS[7..])?;
        ensure!(seen.len() >= 3, "{seen:?}");
        trap.sidecar.reconfigure(|yaml| yaml["inbound"]["connectPorts"] = serde_json::json!([9000]))?;
        eventually("CONNECT to be refused", SOON, || {
            let refused = refuses_connect(&trap.mallory, &trap)?;
            Ok(refused.then_some(()))
        })
    });
}

fn refuses_connect(mallory: &Pod, trap: &Trap) -> Result<bool> {
    mallory.run(async || {
        let mut link = Speaker::connect(trap.to, &trap.config).await?;
        let got = link.say(head("CONNECT plain.example:1", "")?, "", true).await?;
        Ok(got.is_error(405, "method-not-allowed"))
    })
}
