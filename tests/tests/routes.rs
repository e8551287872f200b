//! Routes of a gateway, as clients and backends see them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_testbed::{Gateway, PublicCa, Teller, eventually};

#[path = "routes/mirrors.rs"]
mod mirrors;
#[path = "routes/retries.rs"]
mod retries;

const PATIENCE: Duration = Duration::from_secs(20);

/// A Gateway with a plaintext listener on 8080 and one of TLS for `*.shop.test` and `other.test` on 8443 each.
const DOORS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft
  addresses: [{value: "{ip}"}]
  listeners:
    - {name: web, port: 8080, protocol: HTTP}
    - {name: shop, port: 8443, protocol: HTTPS, hostname: "*.shop.test", tls: {certificateRefs: [{group: weft.dev, kind: Certificate, name: shop}]}}
    - {name: other, port: 8443, protocol: HTTPS, hostname: "other.test", tls: {certificateRefs: [{group: weft.dev, kind: Certificate, name: shop}]}}
---
apiVersion: weft.dev/v1alpha1
kind: Certificate
metadata: {name: shop, namespace: edge}
spec: {certificateFile: "{dir}/shop.pem", keyFile: "{dir}/shop.key"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: edge}
data:
  ca.crt: |
"#;

/// A gateway with these backends, and one route with these rules.
fn gateway(backends: &[(&str, &Teller)], rules: &str) -> Result<Gateway> {
    let backends: Vec<_> = backends.iter().map(|(name, teller)| (*name, teller.addr)).collect();
    gateway_of(&backends, rules, &[])
}

/// The same with backends of any kind, and these fields of `weft.yaml`.
fn gateway_of(backends: &[(&str, SocketAddr)], rules: &str, fields: &[(&str, &str)]) -> Result<Gateway> {
    let dir = tempfile::tempdir()?;
    let ca = PublicCa::new(dir.path(), "ca")?;
    ca.issue("shop", &["a.shop.test", "b.shop.test", "other.test"])?;
    let mut resources = DOORS.to_owned();
    for line in std::fs::read_to_string(dir.path().join("ca.pem"))?.lines() {
        resources.push_str(&format!("    {line}\n"));
    }
    for (name, addr) in backends {
        let (ip, port) = (addr.ip(), addr.port());
        resources.push_str(&format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\n\
             spec: {{endpoints: [{{host: \"{ip}\", port: {port}}}]}}\n"
        ));
    }
    resources.push_str(&route(rules));
    Gateway::start_with(dir, &resources, fields)
}

fn route(rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all, namespace: edge}}\n\
         spec:\n  parentRefs: [{{name: public}}]\n  rules:\n{rules}"
    )
}

/// A backendRef.
fn to(name: &str) -> String {
    format!("{{group: weft.dev, kind: Backend, name: {name}}}")
}

/// What curl gets from the plaintext listener, head and body.
fn curl(gateway: &Gateway, path: &str, args: &[&str]) -> Result<String> {
    let url = format!("http://{}{path}", gateway.at(8080));
    let output = gateway.run("curl", &[&["-s", "-i", "--path-as-is", url.as_str()], args].concat())?;
    ensure!(output.status.success(), "curl {path}: {}", output.stderr);
    Ok(output.stdout.replace('\r', ""))
}

/// The same over TLS, for a host of its certificate.
fn curl_tls(gateway: &Gateway, host: &str, path: &str, args: &[&str]) -> Result<String> {
    let (url, resolve) = (format!("https://{host}:8443{path}"), format!("{host}:8443:{}", gateway.ip()));
    let fixed = ["-s", "-i", "--cacert", "ca.pem", "--resolve", &resolve, &url];
    let output = gateway.run("curl", &[&fixed, args].concat())?;
    ensure!(output.status.success(), "curl {url}: {}", output.stderr);
    Ok(output.stdout.replace('\r', ""))
}

#[test]
fn requests_are_changed_on_their_way() -> Result<()> {
    let (a, b) = (Teller::start("a")?, Teller::start("b")?);
    let rules = format!(
        "    - matches: [{{path: {{value: /b}}}}]\n      filters:\n        \
         - {{type: URLRewrite, urlRewrite: {{hostname: b.internal, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}\n        \
         - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-who, value: gateway}}], remove: [x-secret]}}}}\n        \
         - {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-served-by, value: weft}}]}}}}\n      \
         backendRefs: [{}]\n    \
         - matches: [{{path: {{value: /a, type: Exact}}, method: POST, headers: [{{name: x-kind, value: wanted}}], queryParams: [{{name: q, value: \"1\"}}]}}]\n      \
         backendRefs: [{}]\n",
        to("b"),
        to("a")
    );
    let gateway = gateway(&[("a", &a), ("b", &b)], &rules)?;
    let said = curl(&gateway, "/b/c/d?e=%20f", &["-d", "body", "-H", "x-secret: 1", "-H", "x-who: me"])?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
    for wanted in ["x-served-by: weft", "\nPOST /c/d?e=%20f HTTP/1.1\n", "x-who: gateway\n", "\n\nbody"] {
        ensure!(said.to_lowercase().contains(&wanted.to_lowercase()), "no {wanted:?}: {said}");
    }
    ensure!(said.to_lowercase().contains("host: b.internal\n"), "{said}");
    ensure!(!said.contains("x-secret") && !said.contains("x-who: me"), "{said}");

    let post = ["-X", "POST", "-H", "x-kind: wanted"];
    ensure!(curl(&gateway, "/a?q=1", &post)?.contains("\n\na\nPOST /a?q=1"));
    for (path, args) in [
        ("/a?q=2", &post[..]),
        ("/a/?q=1", &post),
        ("/A?q=1", &post),
        ("/a?q=1", &["-H", "x-kind: wanted"]),
        ("/a?q=1", &["-X", "POST", "-H", "x-kind: other"]),
        ("/bb", &[]),
    ] {
        let said = curl(&gateway, path, args)?;
        let told = said.to_lowercase().contains("weft-error: no-route");
        ensure!(said.starts_with("HTTP/1.1 404") && told, "{path}: {said}");
    }
    // What routes see is what the backend gets.
    for path in ["/x/../b/c", "/%62/c", "//b//c", "/b/./c"] {
        ensure!(curl(&gateway, path, &[])?.contains("\nGET /c HTTP/1.1\n"), "{path}");
    }
    for path in ["/a%00", "/b/..%2f..%2fa", "/b\\a", "/../a", "/b/%zz"] {
        let said = curl(&gateway, path, &[])?;
        ensure!(said.starts_with("HTTP/1.1 400"), "{path}: {said}");
    }
    let said = curl(&gateway, "/b", &["--request-target", "/b#x"])?;
    ensure!(said.starts_with("HTTP/1.1 400"), "{said}");
    Ok(())
}

#[test]
fn a_client_is_not_believed_about_itself() -> Result<()> {
    let a = Teller::start("a")?;
    let gateway = gateway(&[("a", &a)], &format!("    - backendRefs: [{}]\n", to("a")))?;
    let claims = [
        "-H",
        "x-forwarded-for: 6.6.6.6",
        "-H",
        "x-forwarded-proto: https",
        "-H",
        "forwarded: for=6.6.6.6",
        "-H",
        "x-forwarded-host: evil.test",
        "-H",
        "x-forwarded-client-cert: URI=spiffe://x",
        "-H",
        "weft-wire: 2",
        "-H",
        "x-request-id: mine",
        "-H",
        "x_forwarded_for: 6.6.6.6",
        "-H",
        "X~Forwarded.Host: evil.test",
    ];
    let said = curl(&gateway, "/", &claims)?.to_lowercase();
    for gone in ["6.6.6.6", "evil.test", "spiffe://x", "weft-wire", "x-request-id: mine"] {
        ensure!(!said.contains(gone), "{gone}: {said}");
    }
    ensure!(said.contains("x-forwarded-proto: http\n") && said.contains("x-forwarded-for: 127."), "{said}");
    let said = curl_tls(&gateway, "a.shop.test", "/", &[])?.to_lowercase();
    ensure!(
        said.contains("x-forwarded-proto: https\n") && said.contains("x-forwarded-host: a.shop.test:8443\n"),
        "{said}"
    );
    Ok(())
}

#[test]
fn redirects_go_where_the_route_says() -> Result<()> {
    let a = Teller::start("a")?;
    let rules = "    - matches: [{path: {value: /old}}]\n      filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]\n    \
                 - matches: [{path: {value: /host}}]\n      filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.test, port: 9000}}]\n";
    let gateway = gateway(&[("a", &a)], rules)?;
    let said = curl(&gateway, "/old/x?y=1", &["-H", "host: Shop.Test:8080"])?;
    ensure!(
        said.starts_with("HTTP/1.1 308") && said.contains("Location: https://shop.test/new/x?y=1\n"),
        "{said}"
    );
    let said = curl(&gateway, "/host/x", &["-H", "host: shop.test", "-H", "x-forwarded-host: evil.test"])?;
    ensure!(
        said.starts_with("HTTP/1.1 302") && said.contains("Location: http://elsewhere.test:9000/host/x\n"),
        "{said}"
    );
    ensure!(a.seen().is_empty());
    Ok(())
}

#[test]
fn backends_have_their_shares_and_one_that_is_not_there_answers_500() -> Result<()> {
    let (a, b) = (Teller::start("a")?, Teller::start("b")?);
    let rules = format!(
        "    - matches: [{{path: {{value: /shares}}}}]\n      backendRefs: [{}, {}, {}]\n    - matches: [{{path: {{value: /none}}}}]\n      backendRefs: [{}]\n",
        to("a").replace('}', ", weight: 30}"),
        to("b").replace('}', ", weight: 0}"),
        to("nobody").replace('}', ", weight: 30}"),
        to("nobody")
    );
    let gateway = gateway(&[("a", &a), ("b", &b)], &rules)?;
    let (mut served, mut failed) = (0, 0);
    for _ in 0..40 {
        match curl(&gateway, "/shares", &[])? {
            said if said.starts_with("HTTP/1.1 200") => served += 1,
            said if said.starts_with("HTTP/1.1 500") && said.contains("backend-invalid") => failed += 1,
            said => anyhow::bail!("{said}"),
        }
    }
    ensure!(served > 4 && failed > 4, "{served} and {failed} of forty");
    ensure!(b.seen().is_empty() && a.seen().len() == served, "{served}");
    ensure!(curl(&gateway, "/none", &[])?.starts_with("HTTP/1.1 500"));
    Ok(())
}

#[test]
fn a_mirror_gets_a_copy_and_changes_nothing() -> Result<()> {
    let (a, b) = (Teller::start("a")?, Teller::start("b")?);
    let mirror = |name: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {}}}}}", to(name));
    let rules =
        format!("    - filters: [{}, {}]\n      backendRefs: [{}]\n", mirror("b"), mirror("gone"), to("a"));
    let gone = "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {name: gone, namespace: edge}\nspec: {endpoints: [{host: 127.0.0.1, port: 1}]}\n";
    let gateway = gateway(&[("a", &a), ("b", &b)], &format!("{rules}{gone}"))?;
    let body = "x".repeat(100_000);
    std::fs::write(gateway.dir().join("body"), &body)?;
    for path in ["/one", "/close/and/say/nothing"] {
        let said = curl(&gateway, path, &["--data-binary", "@body"])?;
        let fine = said.starts_with("HTTP/1.1 200") && said.contains(&body);
        ensure!(fine || path.starts_with("/close"), "{path}: {}", said.get(..200).unwrap_or(&said));
    }
    eventually("the copy", PATIENCE, || {
        let copied = b.seen().iter().any(|seen| seen.starts_with("POST /one ") && seen.ends_with(&body));
        Ok(copied.then_some(()))
    })?;
    ensure!(a.seen().iter().filter(|seen| seen.starts_with("POST /one ")).count() == 1);
    eventually("the copies to be counted", PATIENCE, || {
        let count =
            |outcome: &str| gateway.metric(&format!("weft_route_mirrored_total{{outcome=\"{outcome}\"}}"));
        Ok((count("answered")? >= 1.0 && count("failed")? >= 2.0).then_some(()))
    })
}

#[test]
fn a_client_keeps_its_endpoint() -> Result<()> {
    let (a, b) = (Teller::start("a")?, Teller::start("b")?);
    let two = format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: two, namespace: edge}}\nspec: {{endpoints: [{{host: 127.0.0.1, port: {}}}, {{host: 127.0.0.1, port: {}}}]}}\n",
        a.addr.port(),
        b.addr.port()
    );
    let rules = format!(
        "    - matches: [{{path: {{value: /two}}}}]\n      sessionPersistence: {{sessionName: where}}\n      backendRefs: [{}]\n    \
         - sessionPersistence: {{sessionName: where}}\n      backendRefs: [{}, {}]\n",
        to("two"),
        to("a"),
        to("b")
    );
    let gateway = gateway(&[("a", &a), ("b", &b)], &format!("{rules}{two}"))?;
    for path in ["/two", "/two", "/split", "/split"] {
        let first = curl(&gateway, path, &[])?;
        let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).context("no cookie")?;
        ensure!(cookie.starts_with("where=") && cookie.contains("HttpOnly"), "{cookie}");
        let pair = cookie.split(';').next().unwrap_or_default();
        let who = first.split("\n\n").nth(1).and_then(|body| body.lines().next()).context("no body")?;
        for _ in 0..10 {
            let said = curl(&gateway, path, &["-H", &format!("cookie: x=1; {pair}")])?;
            ensure!(said.contains(&format!("\n\n{who}\n")) && !said.contains("set-cookie"), "{who}: {said}");
        }
    }
    Ok(())
}

#[test]
fn http2_clients_reach_http1_backends_and_only_their_own_hosts() -> Result<()> {
    let a = Teller::start("a")?;
    let gateway = gateway(&[("a", &a)], &format!("    - backendRefs: [{}]\n", to("a")))?;
    let said =
        curl_tls(&gateway, "a.shop.test", "/x?y", &["-d", "body", "-H", "cookie: a=1", "-H", "cookie: b=2"])?;
    ensure!(said.starts_with("HTTP/2 200") && said.contains("\na\nPOST /x?y HTTP/1.1\n"), "{said}");
    ensure!(said.to_lowercase().contains("host: a.shop.test:8443\n") && said.ends_with("\n\nbody"), "{said}");
    // Another name of the same listener, one of another listener, and nobody's.
    for (host, status) in [("b.shop.test", "200"), ("other.test", "421"), ("nobody.example", "404")] {
        for version in ["--http2", "--http1.1"] {
            let said = curl_tls(&gateway, "a.shop.test", "/", &[version, "-H", &format!("host: {host}")])?;
            let line = said.lines().next().unwrap_or_default();
            ensure!(line.contains(status), "{host} {version}: {said}");
        }
    }
    let said = curl(&gateway, "/", &["--http2-prior-knowledge"])?;
    ensure!(said.starts_with("HTTP/2 200"), "{said}");
    Ok(())
}

#[test]
fn an_upgraded_connection_passes() -> Result<()> {
    let a = Teller::start("a")?;
    let gateway = gateway(&[("a", &a)], &format!("    - backendRefs: [{}]\n", to("a")))?;
    let mut stream = TcpStream::connect(gateway.at(8080))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly",
    )?;
    let mut said = Vec::new();
    let mut some = [0; 1024];
    while !String::from_utf8_lossy(&said).ends_with("early and late") {
        if String::from_utf8_lossy(&said).ends_with("early") {
            stream.write_all(b" and late")?;
        }
        let read = stream.read(&mut some)?;
        ensure!(read > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(some.get(..read).unwrap_or_default());
    }
    ensure!(said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

#[test]
fn what_the_route_wants_tried_again_is_tried_again_with_its_body() -> Result<()> {
    let a = Teller::start("a")?;
    let rules = format!(
        "    - matches: [{{path: {{value: /flaky}}}}]\n      retry: {{codes: [503], attempts: 2, backoff: 5ms}}\n      backendRefs: [{0}]\n    - backendRefs: [{0}]\n",
        to("a")
    );
    let gateway = gateway(&[("a", &a)], &rules)?;
    let said = curl(&gateway, "/flaky", &["-d", "the body"])?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
    let seen = a.seen();
    ensure!(seen.len() == 2 && seen.iter().all(|seen| seen.ends_with("\n\nthe body")), "{seen:?}");
    Ok(())
}

#[test]
fn a_backend_is_reached_over_tls_by_its_name_alone() -> Result<()> {
    let a = Teller::start("a")?;
    let tls = |name: &str, server: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\nspec:\n  endpoints: [{{host: \"{{ip}}\", port: 8443}}]\n  tls: {{serverName: {server}, caCertificateRefs: [{{kind: ConfigMap, name: ca}}]}}\n"
        )
    };
    // The gateway's own TLS listener is the backend: it takes two rounds.
    let rules = format!(
        "    - matches: [{{path: {{value: /good}}}}]\n      filters: [{{type: URLRewrite, urlRewrite: {{hostname: a.shop.test, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]\n      backendRefs: [{}]\n    - matches: [{{path: {{value: /bad}}}}]\n      backendRefs: [{}]\n    - backendRefs: [{}]\n",
        to("good"),
        to("bad"),
        to("a")
    );
    let more = format!("{}{}", tls("good", "a.shop.test"), tls("bad", "c.shop.test"));
    let gateway = gateway(&[("a", &a)], &format!("{rules}{more}"))?;
    let said = curl(&gateway, "/good/x", &["-d", "body"]).with_context(|| gateway.process().log())?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said}{}", gateway.process().log());
    ensure!(said.contains("\na\nPOST /x HTTP/1.1\n"), "{said}");
    ensure!(said.to_lowercase().contains("x-forwarded-proto: https\n"), "{said}");
    // Both versions were offered, and the better one taken, for the first request as for the next.
    let said = curl(&gateway, "/good/y", &[])?;
    ensure!(said.contains("\na\nGET /y HTTP/1.1\n"), "{said}");
    let opened = |protocol: &str| {
        let application = gateway.at(8443);
        gateway.metric(&format!(
            "weft_application_connections_opened_total{{application=\"{application}\",protocol=\"{protocol}\"}}"
        ))
    };
    let (http2, http1) = (opened("http/2")?, opened("http/1")?);
    ensure!(http2 >= 1.0 && http1 == 0.0, "{http2} {http1}");
    let said = curl(&gateway, "/bad/x", &[])?;
    ensure!(
        said.starts_with("HTTP/1.1 502") && said.to_lowercase().contains("weft-error: tls-failed"),
        "{said}"
    );
    Ok(())
}

#[test]
fn routes_change_under_load_without_a_failed_request() -> Result<()> {
    let (a, b) = (Teller::start("a")?, Teller::start("b")?);
    let one = |name: &str| format!("    - backendRefs: [{}]\n", to(name));
    let gateway = gateway(&[("a", &a), ("b", &b)], &one("a"))?;
    // The route moves to a file of its own.
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let at = gateway.at(8080);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || -> Result<()> {
                let mut stream = TcpStream::connect(at)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
                    let mut said = Vec::new();
                    let mut some = [0; 4096];
                    while !said.ends_with(b"\n\n") && !said.ends_with(b"\r\n\r\n\n") {
                        let read = stream.read(&mut some)?;
                        ensure!(read > 0, "closed: {}", String::from_utf8_lossy(&said));
                        said.extend_from_slice(some.get(..read).unwrap_or_default());
                    }
                    ensure!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let other = |name: &str| {
        route(&one(name))
            .replace("name: all,", "name: first,")
            .replace("rules:\n    -", "rules:\n    - matches: [{path: {value: /, type: Exact}}]\n     ")
    };
    for round in 0..30 {
        let name = if round % 2 == 0 { "b" } else { "a" };
        let before = if name == "a" { a.seen().len() } else { b.seen().len() };
        gateway.change("more.yaml", &other(name))?;
        eventually("requests to follow the change", PATIENCE, || {
            let now = if name == "a" { a.seen().len() } else { b.seen().len() };
            Ok((now > before).then_some(()))
        })?;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().ok().context("a client panicked")??;
    }
    ensure!(sent.load(Ordering::Relaxed) > 30, "{sent:?}");
    Ok(())
}

#[test]
fn a_running_gateway_explains_what_it_does() -> Result<()> {
    let a = Teller::start("a")?;
    let rules = format!("    - matches: [{{path: {{value: /a}}}}]\n      backendRefs: [{}]\n", to("a"));
    let gateway = gateway(&[("a", &a)], &rules)?;
    let admin = gateway.at(15_000).to_string();
    let explain = |more: &[&str]| gateway.weft(&[&["explain", "--admin", &admin], more].concat());
    let url = "http://any.test:8080/a/b";
    let told = explain(&["GET", url])?.ok()?.stdout;
    ensure!(
        told.contains("belongs to HTTPRoute edge/all rule 0") && told.contains("=> sent to edge/a"),
        "{told}"
    );
    // The same as of its files.
    let of_files = gateway.weft(&["explain", "GET", url, "resources"])?.ok()?.stdout;
    ensure!(told == of_files, "{told}\n{of_files}");
    // What it has in force, and no longer what it had.
    gateway.change(
        "more.yaml",
        &route(&format!("    - backendRefs: [{}]\n", to("a"))).replace("name: all,", "name: rest,"),
    )?;
    let told = explain(&["GET", "http://any.test:8080/other", "-o", "json"])?.ok()?.stdout;
    ensure!(told.contains("HTTPRoute edge/rest"), "{told}");
    let output = explain(&["GET", "no url"])?;
    ensure!(output.status.code() == Some(2) && output.stderr.contains("no url"), "{}", output.stderr);
    let output = gateway.weft(&["explain", "--admin", &gateway.at(1).to_string(), "GET", url])?;
    ensure!(output.status.code() == Some(1) && output.stderr.contains("bind.admin"), "{}", output.stderr);
    ensure!(a.seen().is_empty(), "explaining sends nothing");
    Ok(())
}
