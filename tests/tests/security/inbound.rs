//! Clients that attack the inbound side of a sidecar.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_testbed::{Recorder, Request, Service, eventually, rest, story};

use crate::SOON;
use crate::certs::{Authority, Credential, bad_credentials, id};
use crate::peers::{Outcome, client, connect_late, hold, request, send_bytes, send_plain};
use crate::scene::Scene;

const HTTP: &str = "weft/http";
const TCP: &str = "weft/tcp";

/// What no story may find in the application.
const MARK: &str = "evil-7c1f";

impl Scene {
    /// Tries both kinds of link; both must be refused.
    fn refuses(&self, what: &str, credential: Option<&Credential>) -> Result<()> {
        let http = request(&self.mallory, self.to, &client(credential, &[HTTP])?, &[("x-mark", MARK)])?;
        ensure!(http.is_refused(), "{what}, weft/http: {http:?}");
        let tcp = send_bytes(&self.mallory, self.to, &client(credential, &[TCP])?, &head("tcp"))?;
        ensure!(tcp.is_refused(), "{what}, weft/tcp: {tcp:?}");
        self.untouched(what)
    }

    fn untouched(&self, what: &str) -> Result<()> {
        let (connections, bytes) = (self.app.connections(), self.app.text());
        ensure!(connections == 0 && bytes.is_empty(), "{what}: {connections} connections, {bytes:?}");
        Ok(())
    }

    /// A good client gets through, both ways.
    fn lets_in(&self, credential: &Credential) -> Result<()> {
        let http = request(&self.mallory, self.to, &client(Some(credential), &[HTTP])?, &[])?;
        ensure!(matches!(&http, Outcome::Answered { status: 200, .. }), "weft/http: {http:?}");
        let tcp = send_bytes(&self.mallory, self.to, &client(Some(credential), &[TCP])?, &head("tcp"))?;
        ensure!(matches!(&tcp, Outcome::Answered { .. }), "weft/tcp: {tcp:?}");
        Ok(())
    }

    fn handshakes(&self, outcome: &str) -> Result<f64> {
        let labels = [("direction", "inbound"), ("outcome", outcome)];
        Ok(self.sidecar.metrics()?.sum("weft_mtls_handshakes_total", &labels))
    }
}

fn head(path: &str) -> Vec<u8> {
    format!("GET /{path} HTTP/1.1\r\nhost: orders.shop\r\nx-mark: {MARK}\r\n\r\n").into_bytes()
}

#[test]
fn clients_without_a_good_certificate_reach_nothing() {
    story("bad-clients", |mesh| {
        let scene = Scene::new(mesh, "strict")?;
        let mut attempts = 2.0;
        scene.refuses("no certificate", None)?;
        for bad in bad_credentials(mesh.ca()?, "web")? {
            scene.refuses(bad.what, Some(&bad.credential))?;
            attempts += 2.0;
        }
        let refused = scene.handshakes("failed_tls")? + scene.handshakes("failed_identity")?;
        assert!(refused >= attempts, "{refused} of {attempts} refusals counted");
        assert!(scene.sidecar.log().contains("refused a mesh link"), "{}", scene.sidecar.log());
        // The same clients with the one right certificate.
        scene.lets_in(&Authority::of(mesh.ca()?)?.good("shop", "web")?)?;
        assert!(!scene.app.text().contains(MARK) || scene.app.text().contains("GET /tcp"));
        Ok(())
    });
}

#[test]
fn strict_takes_no_plaintext_and_no_other_tls() {
    story("strict", |mesh| {
        let scene = Scene::configured(mesh, |yaml| {
            yaml["inbound"]["mode"] = "strict".into();
            // How long a silent client is waited for.
            yaml["timeouts"]["handshake"] = "1s".into();
        })?;
        let before = scene.sidecar.metrics()?;
        let shapes: [(&str, &[u8]); 6] = [
            ("HTTP/1", &head("plain")),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
            ("bytes", b"PING\r\n"),
            ("half a ClientHello", &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]),
            ("an alert", &[21, 3, 3, 0, 2, 2, 40]),
            ("one byte", b"\x16"),
        ];
        for (what, bytes) in shapes {
            let answer = send_plain(&scene.mallory, scene.to, bytes)?;
            ensure!(answer.is_empty(), "{what}: {answer:?}");
            scene.untouched(what)?;
        }
        // Silence ends as well.
        let silent = scene.mallory.run(async || {
            let mut stream = tokio::net::TcpStream::connect(scene.to).await?;
            let mut byte = [0; 1];
            let read = tokio::time::timeout(SOON, stream.read(&mut byte));
            Ok(read.await.context("a silent connection stays open")?.unwrap_or(0))
        })?;
        assert_eq!(silent, 0);
        // TLS with the mesh's own certificate, but no mesh protocol: it would be the application's, and strict has none.
        let good = Authority::of(mesh.ca()?)?.good("shop", "web")?;
        for alpn in [&["h2", "http/1.1"][..], &[], &["weft/other"]] {
            let outcome = send_bytes(&scene.mallory, scene.to, &client(Some(&good), alpn)?, &head("tls"))?;
            ensure!(outcome.is_refused(), "{alpn:?}: {outcome:?}");
        }
        scene.untouched("TLS that is not the mesh's")?;
        let labels = [("direction", "inbound"), ("outcome", "refused_strict")];
        let change = scene.sidecar.metrics()?.since(&before);
        assert!(change.sum("weft_protocol_detections_total", &labels) >= 9.0, "{change:?}");
        scene.lets_in(&good)
    });
}

#[test]
fn permissive_takes_plaintext_and_mutual_tls_but_no_bad_link() {
    story("permissive", |mesh| {
        let scene = Scene::new(mesh, "permissive")?;
        let url = format!("http://{}/moving-in", scene.to);
        assert_eq!(scene.mallory.get(&url)?.status, 200);
        assert!(scene.app.text().contains("GET /moving-in"));
        scene.lets_in(&Authority::of(mesh.ca()?)?.good("shop", "web")?)?;
        // A link that fails is not taken for plaintext.
        scene.app.clear();
        scene.refuses("no certificate", None)?;
        for bad in bad_credentials(mesh.ca()?, "web")? {
            scene.refuses(bad.what, Some(&bad.credential))?;
        }
        Ok(())
    });
}

/// On a busy machine a mesh client's first word may come after `timeouts.detect`, when the application has been asked
/// whether it speaks first. It is still the mesh's word, and not for the application.
#[test]
fn permissive_takes_a_link_that_begins_late() {
    story("late-link", |mesh| {
        for (kind, ports) in [("bytes or HTTP", serde_json::json!([])), ("opaque", serde_json::json!([8080]))]
        {
            let scene = Scene::configured(mesh, |yaml| {
                yaml["inbound"] = serde_json::json!({ "mode": "permissive", "opaquePorts": ports });
            })?;
            let good = Authority::of(mesh.ca()?)?.good("shop", "web")?;
            let config = client(Some(&good), &[TCP])?;
            let asked = || scene.app.connections() > 0;
            let late = async || {
                let mut stream = connect_late(scene.to, &config, asked).await.context("the link")?;
                stream.write_all(&head("late")).await?;
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await.context("the answer")?;
                Ok(answer)
            };
            let answer = scene
                .mallory
                .run(async || tokio::time::timeout(SOON, late()).await.context("taken for plaintext")?)
                .context(kind)?;
            ensure!(&answer == b"HTTP/1.1 200", "{kind}: {:?}", String::from_utf8_lossy(&answer));
            let seen = scene.app.text();
            ensure!(seen.starts_with("GET /late"), "{kind}: {seen}");
            let metrics = scene.sidecar.metrics()?;
            ensure!(
                metrics.sum("weft_protocol_detections_total", &[("outcome", "mesh")]) == 1.0,
                "{metrics:?}"
            );
            ensure!(metrics.sum("weft_plaintext_connections_total", &[]) == 0.0, "{metrics:?}");
        }
        Ok(())
    });
}

#[test]
fn a_session_outlives_no_certificate() {
    story("resumed-client", |mesh| {
        let scene = Scene::new(mesh, "strict")?;
        let authority = Authority::of(mesh.ca()?)?;
        // Long enough to connect twice on a busy machine.
        let end = SystemTime::now() + Duration::from_secs(8);
        let short = authority.leaf(&[&id("shop", "web")], |leaf| leaf.not_after = end.into())?;
        let (http, tcp) = (client(Some(&short), &[HTTP])?, client(Some(&short), &[TCP])?);
        let attempts = || -> Result<[Outcome; 2]> {
            let first = request(&scene.mallory, scene.to, &http, &[])?;
            Ok([first, send_bytes(&scene.mallory, scene.to, &tcp, &head("tcp"))?])
        };
        for round in ["full", "resumed"] {
            let outcomes = attempts()?;
            ensure!(!outcomes.iter().any(Outcome::is_refused), "{round}: {outcomes:?}");
            eventually(&format!("two {round} handshakes to be counted"), SOON, || {
                Ok((scene.handshakes(round)? >= 2.0).then_some(()))
            })?;
        }
        while SystemTime::now() <= end + Duration::from_secs(1) {
            rest(Duration::from_millis(50));
        }
        scene.app.clear();
        let [http, tcp] = attempts()?;
        // TLS itself resumed the session; the sidecar looked at the certificate's end again.
        ensure!(matches!(http, Outcome::Refused { resumed: true }), "after the leaf's end: {http:?}");
        ensure!(tcp.is_refused(), "after the leaf's end: {tcp:?}");
        scene.untouched("after the leaf's end")?;
        // Counting comes a moment after the connection has ended.
        eventually("the refusals to be counted", SOON, || {
            Ok((scene.handshakes("failed_identity")? >= 2.0).then_some(()))
        })
    });
}

#[test]
fn nothing_is_readable_between_pods() {
    story("wire", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        orders.app_of("echo", 7000)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).port(7000, 7000).on(&[&orders]))?;
        let client = mesh.sidecar(&web)?.start()?;
        let server = mesh.sidecar(&orders)?.start()?;
        let captures = [web.capture("tcp and not port 15012")?, orders.capture("tcp and not port 15012")?];

        let secrets = ["secret-path", "secret-query", "secret-header", "secret-body", "secret-bytes"];
        for http2 in [false, true] {
            let mut request = Request::post("http://orders.shop/secret-path?secret-query", "secret-body")
                .header("x-hidden", "secret-header");
            if http2 {
                request = request.http2();
            }
            let answer = web.send(request)?;
            assert_eq!((answer.status.as_u16(), &answer.json()?["body"]), (200, &"secret-body".into()));
        }
        let to = SocketAddr::new(web.resolve("orders.shop")?[0], 7000);
        assert_eq!(send_plain(&web, to, b"secret-bytes")?, b"secret-bytes");

        for capture in captures {
            let packets = capture.stop()?;
            let flows: Vec<_> = packets.flows().iter().filter(|(_, flow)| !flow.bytes.is_empty()).collect();
            assert!(flows.len() >= 4, "two links, two directions: {:?}", packets.flows().keys());
            for ((from, to), flow) in flows {
                assert!(flow.is_tls(), "{from} to {to}: {:?}", &flow.bytes[..flow.bytes.len().min(64)]);
            }
            // Not even who is called: the mesh sends no server name. Certificates of TLS 1.3 are encrypted.
            for text in secrets.iter().chain(&["orders.shop", "spiffe://", "weft-ca"]) {
                assert!(!packets.contains(text.as_bytes()), "{text} is readable on the wire");
            }
        }
        let full = [("outcome", "full")];
        for sidecar in [&client, &server] {
            assert!(sidecar.metrics()?.sum("weft_mtls_handshakes_total", &full) >= 2.0);
        }
        Ok(())
    });
}

#[test]
fn a_peer_that_is_cut_off_by_a_bundle_is_out_at_once() {
    story("cut-off", |mesh| {
        let scene = Scene::new(mesh, "strict")?;
        // A root of which nobody was told: its leaves are strangers, until the bundle has it.
        let second = Authority::stranger("second root")?;
        let other = second.good("shop", "web")?;
        scene.refuses("a root that is not in the bundle", Some(&other))?;
        let bundle = mesh.ca()?.bundle()?;
        let first = std::fs::read_to_string(&bundle)?;
        let replace = |text: &str| -> Result<()> {
            let new = bundle.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::rename(new, &bundle)?;
            Ok(())
        };
        replace(&format!("{first}{}", second.pem()))?;
        eventually("the new root to be trusted", SOON, || {
            let config = client(Some(&other), &[HTTP])?;
            Ok((!request(&scene.mallory, scene.to, &config, &[])?.is_refused()).then_some(()))
        })?;
        // With a session that the client may want to resume after the root has gone again.
        let config = client(Some(&other), &[HTTP])?;
        ensure!(!request(&scene.mallory, scene.to, &config, &[])?.is_refused(), "trusted for now");
        replace(&first)?;
        eventually("the root to be forgotten, sessions included", SOON, || {
            Ok(request(&scene.mallory, scene.to, &config, &[])?.is_refused().then_some(()))
        })?;
        scene.app.clear();
        scene.refuses("a root that has left the bundle", Some(&other))
    });
}

/// A workload of the mesh that opens links and says nothing must not hold them for ever.
#[test]
fn a_silent_link_is_closed() {
    story("silent-link", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        let _app = Recorder::start(&orders, 8080)?;
        let sidecar = mesh.sidecar(&orders)?.config(|yaml| yaml["timeouts"]["idle"] = "1s".into()).start()?;
        let mallory = mesh.pod("mallory.shop").start()?;
        let good = Authority::of(mesh.ca()?)?.good("shop", "web")?;
        let to = SocketAddr::new(orders.ip(), 8080);
        for first in [&b""[..], b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            hold(&mallory, to, &client(Some(&good), &[HTTP])?, first)
                .with_context(|| format!("{first:?}"))?;
        }
        ensure!(sidecar.process().is_running());
        Ok(())
    });
}
