//! What a workload of the mesh that is not Weft may write into its link: what an application may, and Weft's marks.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use http::{HeaderName, HeaderValue, Request, Version};
use rustls::ClientConfig;
use weft_testbed::{Mesh, Pod, story};

use crate::careless::Careless;
use crate::certs::Authority;
use crate::peers::client;
use crate::speaker::{Speaker, raw};

/// How the application knows the peer.
pub(crate) const MALLORY: &str = "URI=spiffe://weft.local/ns/dev/sa/mallory";

/// A careless application behind a strict sidecar, and a peer that has an identity of the mesh and means no good.
pub(crate) struct Trap {
    pub(crate) mallory: Pod,
    pub(crate) app: Careless,
    pub(crate) to: SocketAddr,
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) sidecar: weft_testbed::Sidecar,
}

impl Trap {
    pub(crate) fn new(mesh: &Mesh, inbound: serde_json::Value) -> Result<Self> {
        let orders = mesh.pod("orders.shop").start()?;
        let app = Careless::start(&orders, 8080)?;
        let sidecar = mesh.sidecar(&orders)?.config(|yaml| yaml["inbound"] = inbound).start()?;
        let mallory = mesh.pod("mallory.shop").start()?;
        let own = Authority::of(mesh.ca()?)?.good("dev", "mallory")?;
        let config = client(Some(&own), &["weft/http"])?;
        Ok(Self { mallory, app, to: SocketAddr::new(orders.ip(), 8080), config, sidecar })
    }
}

/// A request in a line or two: `METHOD target` and headers, as `name: value` with `|` between them.
pub(crate) fn head(line: &str, headers: &str) -> Result<Request<()>> {
    let (method, target) = line.split_once(' ').context("a method and a target")?;
    let mut request = Request::builder().method(method).uri(target).body(())?;
    // With HTTP/2 the h2 crate would insist on an authority.
    *request.version_mut() = Version::HTTP_11;
    for header in headers.split('|').filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").context("a header")?;
        let value = HeaderValue::from_bytes(value.as_bytes())?;
        request.headers_mut().append(HeaderName::from_bytes(name.as_bytes())?, value);
    }
    Ok(request)
}

#[test]
fn what_no_application_may_send_no_peer_may() {
    story("bad-links", |mesh| {
        let trap = Trap::new(mesh, serde_json::json!({ "mode": "strict" }))?;
        let bad = [
            ("GET /", "host: a|host: a"),
            ("GET /", "host: a|host: b"),
            ("GET /", ""),
            ("GET http://a/", "host: b"),
            ("GET http://a/", "host: a, a"),
            ("GET http://u@a/", ""),
            ("GET /", "host: h x"),
            ("GET /", "host: a,b"),
            ("GET /", "host: u@a"),
            ("GET /", "host: a/b"),
            ("GET /", "weft-wire: 2"),
            ("GET http://a/", "host: b|weft-wire: 2"),
            ("POST /", "host: a|content-length: 0|content-length: 0"),
            ("GET /", "host: a|http2-settings: AAMAAABk"),
            ("GET /", "host: a|weft-wire: 3"),
            ("GET /", "host: a|weft-wire: 2|weft-wire: 1.0"),
            ("GET /", "host: a|weft-upgrade: h2c"),
            ("GET /", "host: a|weft-upgrade: websocket, h2c"),
            ("GET /", "host: a|weft-upgrade: HTTP/1.1"),
            ("GET /", "host: a|weft-upgrade: a b"),
            ("GET /", "host: a|weft-upgrade: "),
            ("GET /", "host: a|weft-upgrade: x|weft-upgrade: x"),
            ("GET /", "host: a|weft-upgrade: x|weft-wire: 2"),
            ("CONNECT a", ""),
            ("CONNECT a:0", ""),
            ("CONNECT u@a:1", ""),
            ("CONNECT a:1", "host: b:1"),
        ];
        trap.mallory.run(async || {
            let mut link = Speaker::connect(trap.to, &trap.config).await?;
            for (line, headers) in bad {
                let got = link
                    .say(head(line, headers)?, "", false)
                    .await
                    .with_context(|| format!("{line} {headers}"))?;
                ensure!(got.is_error(400, "bad-request"), "{line} {headers}: {got:?}");
            }
            // The link is none the worse for it.
            for (line, headers) in [
                ("GET /good", "host: a"),
                ("GET http://a/good", ""),
                ("GET http://a/good", "host: A"),
                ("GET /good", "weft-wire: 1.0|host: a"),
                (
                    "GET /good",
                    "host: a|weft-new: 1|x-forwarded-client-cert: URI=spiffe://weft.local/ns/bank/sa/admin",
                ),
            ] {
                let got = link.say(head(line, headers)?, "", false).await?;
                ensure!(got.status() == 200, "{line} {headers}: {got:?}");
            }
            Ok(())
        })?;
        let seen = trap.app.saw_only(Some(MALLORY), &["GET /good", "GET http://a/good"])?;
        ensure!(seen.len() == 5, "{seen:?}");
        Ok(())
    });
}

/// RFC 9113 section 8.1.1: the stream ends with PROTOCOL_ERROR.
#[test]
fn what_is_malformed_by_its_form_is_reset() {
    const PROTOCOL_ERROR: u32 = 1;
    story("malformed-links", |mesh| {
        let trap = Trap::new(mesh, serde_json::json!({ "mode": "strict" }))?;
        let usual = [(":method", "POST"), (":scheme", "http"), (":path", "/"), ("host", "a")];
        let malformed: [&[(&str, &str)]; 7] = [
            &[("transfer-encoding", "chunked")],
            &[("connection", "upgrade")],
            &[("upgrade", "h2c")],
            &[("te", "chunked")],
            &[("content-length", "5")],
            &[("content-length", "0, 0")],
            &[(":authority", "late")],
        ];
        for fields in malformed {
            let fields = [&usual[..], fields].concat();
            let reset = trap.mallory.run(async || raw(trap.to, &trap.config, &fields).await);
            let reset = reset.with_context(|| format!("{fields:?}"))?;
            ensure!(reset == Some(PROTOCOL_ERROR), "{fields:?}: {reset:?}");
        }
        for fields in [&usual[1..], &[(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")][..]] {
            let reset = trap.mallory.run(async || raw(trap.to, &trap.config, fields).await)?;
            ensure!(reset == Some(PROTOCOL_ERROR), "{fields:?}: {reset:?}");
        }
        ensure!(trap.mallory.run(async || raw(trap.to, &trap.config, &usual).await)?.is_none(), "a good one");
        ensure!(trap.app.saw_only(Some(MALLORY), &["POST /"])?.len() == 1, "only the good one");
        Ok(())
    });
}
