//! A browser at the gateway: headless Chromium, which opens a page over HTTP/2, asks another origin that allows some things and not
//! others, and talks over a WebSocket.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_testbed::{Gateway, Process, PublicCa, Teller, eventually};

use super::doors::{DOORS, backend};

const PAGE: &str = include_str!("../../pages/shop.html");

/// A browser is a large program, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A route of a host to a backend, with more of its rule.
fn route(name: &str, host: &str, rule: &str, backend: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: edge}}\nspec:\n  \
         parentRefs: [{{name: public, sectionName: shop}}]\n  hostnames: [{host}.shop.test]\n  rules:\n  \
         - {{{rule}backendRefs: [{{group: weft.dev, kind: Backend, name: {backend}}}]}}\n"
    )
}

fn cors(origin: &str) -> String {
    format!(
        "filters: [{{type: CORS, cors: {{allowOrigins: [\"{origin}\"], allowMethods: [PUT], allowHeaders: [x-custom], exposeHeaders: [x-shown], maxAge: 600}}}}, \
         {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-shown, value: \"1\"}}, {{name: x-hidden, value: \"2\"}}]}}}}], "
    )
}

fn start(page: &Teller, api: &Teller, socket: SocketAddr) -> Result<Gateway> {
    let dir = tempfile::tempdir()?;
    PublicCa::new(dir.path(), "ca")?.issue("shop", &["a.shop.test", "api.shop.test", "other.shop.test"])?;
    let resources = [
        DOORS.to_owned(),
        backend("page", page.addr, ""),
        backend("api", api.addr, ""),
        backend("socket", socket, ""),
        route("page", "a", "", "page"),
        route("socket", "a", "matches: [{path: {value: /ws}}], ", "socket"),
        route("api", "api", &cors("https://a.shop.test:8443"), "api"),
        route("other", "other", &cors("https://elsewhere.test"), "api"),
    ];
    Gateway::start(dir, &resources.concat())
}

fn chromium(gateway: &Gateway) -> Result<Process> {
    let names = format!("--host-resolver-rules=MAP *.shop.test {}", gateway.ip());
    let profile = format!("--user-data-dir={}", gateway.dir().join("profile").display());
    let args = [
        "--headless",
        // Its sandbox wants user namespaces, which a container or root has not.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        // The CA is the test's own.
        "--ignore-certificate-errors",
        // A pipe that stays open keeps it from ending with the page.
        "--remote-debugging-port=0",
        &names,
        &profile,
        "https://a.shop.test:8443/page",
    ];
    gateway.beside("chromium", "chromium", &args)
}

#[test]
fn a_browser_finds_what_it_was_promised() -> Result<()> {
    let (page, api) = (Teller::with_page("page", PAGE)?, Teller::start("api")?);
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let gateway = start(&page, &api, ([127, 0, 0, 1], port).into())?;
    let _server = gateway.python_server("websocket_server.py", &[&port.to_string()])?;
    let browser = chromium(&gateway)?;
    let seen: Value = eventually("the browser to tell", PATIENCE, || {
        ensure!(browser.is_running(), "it ended: {}", browser.log());
        let told = page.seen().into_iter().find(|seen| seen.starts_with("POST /result "));
        let body = told.as_deref().and_then(|told| told.split_once("\n\n"));
        Ok(body.map(|(_, body)| serde_json::from_str(body)).transpose()?)
    })?;
    ensure!(seen["page"] == "h2" && seen["same"] == 200, "{seen}");
    // The preflight is answered by the route's filter, and of the answer the page sees what the filter exposes.
    ensure!(seen["allowed"] == json!([200, "1", null, true]), "{seen}");
    for refused in ["method", "header", "origin"] {
        ensure!(seen[refused] == "refused: TypeError", "{refused}: {seen}");
    }
    ensure!(seen["socket"] == json!(["chat", [0, 5, 70_000], 4000, "enough"]), "{seen}");
    ensure!(seen["protocols"] == json!(["h2"]), "{seen}");
    // Of all that was asked there, one request was let through.
    let asked: Vec<String> = api.seen();
    ensure!(asked.len() == 1 && asked.iter().all(|seen| seen.starts_with("PUT /orders ")), "{asked:?}");
    Ok(())
}
