//! Real clients against real servers of other makers: each operation of each client with each server, both ways.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_testbed::peers::Maker;
use weft_testbed::{Mesh, Process, eventually, story};

use crate::case::APP;
use crate::documented::settle_text;
use crate::scene::{Scene, Way, append_report};
use crate::view::diff;

/// The servers, their ports, and whether HTTP/2 is spoken to them as well.
const SERVERS: [(Maker, u16, bool); 6] = [
    (Maker::Python, 7001, false),
    (Maker::Node, 7002, false),
    (Maker::NodeH2, 7003, true),
    (Maker::Go, 7004, true),
    (Maker::Java, 7005, false),
    (Maker::Nginx, 7006, false),
];

const CLIENTS: [Maker; 5] = [Maker::Curl, Maker::Python, Maker::Node, Maker::Go, Maker::Java];

/// Operations that differ by a fault of issue 13: the client, the server ("" for all), the operation, the fault. At least one of those
/// that are meant has to differ.
const FAULTS: [(&str, &str, &str, u8); 1] = [
    // A `:path` with `<` or a backtick: the stream is reset.
    ("curl", "", "odd", 19),
];

/// Operations whose outcome is not always the same. The JDK's server ends the connection behind an early answer without saying so.
/// curl's client of HTTP/2 fails now and then, also directly, where a stream is reset behind an early answer. And `close` comes right
/// behind `early`: where the server says that it closes, the client finds out earlier or later.
const LOOSE: [(&str, &str, &str); 7] = [
    ("", "java", "early"),
    ("go", "java", "299"),
    ("", "", "close"),
    ("curl", "go-h2", "early"),
    ("curl", "go-h2", "early-expect"),
    ("curl", "nodeh2-h2", "early"),
    ("curl", "nodeh2-h2", "early-expect"),
];

/// Differences that the guide tells of and that only one operation shows: client, server, operation, the words. The JDK's server
/// does not understand trailers, and ends the connection; its 100 has a length.
const TOLD: [(&str, &str, &str, &str); 4] = [
    ("", "java", "trailers-up", "An application that ends the connection before it has answered"),
    ("curl", "java", "expect", "1xx and 204 lose a `content-length`"),
    ("curl", "java", "early-expect", "1xx and 204 lose a `content-length`"),
    ("curl", "java", "upload", "1xx and 204 lose a `content-length`"),
];

/// What was seen of each operation: `<server>.<client>.<operation>`.
type Seen = BTreeMap<String, Vec<String>>;

fn is(pattern: &str, name: &str) -> bool {
    pattern.is_empty() || pattern == name
}

fn matches(operation: &str, client: &str, server: &str, wanted: &str) -> bool {
    let parts: Vec<&str> = operation.split('.').collect();
    let [on, by, what] = parts.as_slice() else { return false };
    is(server, on) && is(client, by) && is(wanted, what)
}

/// Output in blocks, each behind a line `@<operation>`.
fn blocks(text: &str) -> Seen {
    let mut seen = Seen::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('@') {
            // A target that was put into another form may have something behind the name.
            current = Some(name.to_owned());
            seen.entry(name.to_owned()).or_default();
        } else if let Some(name) = &current {
            seen.entry(name.clone()).or_default().push(line.trim_end().to_owned());
        }
    }
    seen
}

/// Everything that all clients and servers saw one way.
fn hold(way: &Way, servers: &[(Maker, u16, bool)], clients: &[Maker]) -> Result<Seen> {
    let started: Vec<_> =
        servers.iter().map(|(maker, port, _)| maker.serve(&way.server, *port)).collect::<Result<_>>()?;
    let mut all = Seen::new();
    for client in clients {
        let mut targets: Vec<(String, u16)> = Vec::new();
        for (maker, port, newer) in servers {
            if *maker != Maker::NodeH2 {
                targets.push((maker.name().to_owned(), *port));
            }
            match client {
                Maker::Curl | Maker::Node | Maker::Go if *newer => {
                    targets.push((format!("{}-h2", maker.name()), *port));
                }
                Maker::Java if *maker == Maker::Go => targets.push((format!("{}-h2c", maker.name()), *port)),
                _ => {}
            }
        }
        let targets: Vec<(&str, u16)> = targets.iter().map(|(name, port)| (name.as_str(), *port)).collect();
        let output = client.ask(&way.client, APP, &targets).with_context(|| client.name())?;
        for (operation, lines) in blocks(&output) {
            let entry = all.entry(operation).or_default();
            entry.push("client saw".to_owned());
            entry.extend(lines);
        }
    }
    settled(&started)?;
    for (operation, lines) in started.iter().flat_map(|server| blocks(&server.log())) {
        let entry = all.entry(operation).or_default();
        entry.push("server saw".to_owned());
        entry.extend(lines);
    }
    Ok(all)
}

/// Servers write of a request that was broken off a moment later.
fn settled(servers: &[std::sync::Arc<Process>]) -> Result<()> {
    let size = || servers.iter().map(|server| server.log().len()).sum::<usize>();
    let mut last = size();
    eventually("the servers to have written it all", Duration::from_secs(10), || {
        weft_testbed::rest(Duration::from_millis(500));
        let now = size();
        Ok((std::mem::replace(&mut last, now) == now).then_some(()))
    })
}

#[expect(clippy::print_stderr, reason = "what is left out has to be seen beside the verdict")]
fn present(makers: impl Iterator<Item = Maker>) -> Vec<Maker> {
    let missing = |maker: &Maker| maker.missing();
    makers
        .filter(|maker| {
            if let Some(program) = missing(maker) {
                eprintln!("SKIPPED: {}, since {program} is not installed", maker.name());
            }
            missing(maker).is_none()
        })
        .collect()
}

#[test]
fn every_client_with_every_server() {
    story("same-real", |meshed| {
        let servers: Vec<_> =
            SERVERS.into_iter().filter(|(maker, ..)| !present([*maker].into_iter()).is_empty()).collect();
        let clients = present(CLIENTS.into_iter());
        let ports: Vec<u16> = servers.iter().map(|(_, port, _)| *port).collect();
        let plain = Mesh::start("same-real-direct")?;
        let scene = Scene::start(&plain, meshed, &ports)?;
        let direct = hold(&scene.direct, &servers, &clients).context("directly")?;
        let pair = hold(&scene.pair, &servers, &clients).context("through the pair")?;
        let problems = compare(&direct, &pair)?;
        ensure!(problems.is_empty(), "{} of {}:\n\n{}", problems.len(), direct.len(), problems.join("\n"));
        Ok(())
    });
}

fn compare(direct: &Seen, pair: &Seen) -> Result<Vec<String>> {
    let (mut problems, mut report) = (Vec::new(), String::new());
    let mut unseen = FAULTS.to_vec();
    for (operation, lines) in direct {
        let through = pair.get(operation).map(Vec::as_slice).unwrap_or_default();
        let Some(difference) = diff(&settle_text(lines), &settle_text(through)) else { continue };
        let meant = |client: &str, server: &str, what: &str| matches(operation, client, server, what);
        unseen.retain(|(client, server, what, _)| !meant(client, server, what));
        let known = FAULTS.iter().any(|(client, server, what, _)| meant(client, server, what))
            || LOOSE.iter().any(|(client, server, what)| meant(client, server, what))
            || TOLD.iter().any(|(client, server, what, _)| meant(client, server, what));
        report.push_str(&format!(
            "## real: {operation}{}\n{difference}\n",
            if known { " [known]" } else { "" }
        ));
        if !known {
            problems.push(format!("{operation}: not the same\n{difference}"));
        }
    }
    for (client, server, what, number) in unseen {
        problems.push(format!("{client}, {server}, {what}: passes now, remove the mark of fault {number}"));
    }
    append_report(&report)?;
    Ok(problems)
}

#[test]
fn what_is_told_is_in_the_guide() {
    let missing: Vec<_> = TOLD.iter().filter(|told| !crate::documented::page_has(told.3)).collect();
    assert!(missing.is_empty(), "not in docs/guide/protocols.md: {missing:#?}");
}

/// grpcio at both ends.
#[test]
fn grpc() {
    story("same-grpc", |meshed| {
        let plain = Mesh::start("same-grpc-direct")?;
        let scene = Scene::start(&plain, meshed, &[50051])?;
        let ask = |way: &Way| -> Result<Vec<String>> {
            let server = way.server.python_server("grpc_server.py", &["50051"])?;
            // The name in full: grpcio's resolver knows no search domains.
            let target = "dns:///app.shop.svc.cluster.local:50051";
            let mut seen = way.client.python_client("grpc_client.py", &[target])?;
            if let Some(seen) = seen.as_object_mut() {
                // Who calls is the mesh's own to say, and times are times.
                for name in ["peer", "remaining", "deadline_took"] {
                    seen.remove(name);
                }
            }
            let mut lines: Vec<String> =
                serde_json::to_string_pretty(&seen)?.lines().map(str::to_owned).collect();
            let ended = || {
                let log = server.log();
                let ended: Vec<String> =
                    log.lines().filter(|line| line.contains("ended")).map(str::to_owned).collect();
                Ok((ended.len() >= 3).then_some(ended))
            };
            let mut ended = eventually("the cancelled calls to end", Duration::from_secs(20), ended)?;
            ended.sort();
            lines.extend(ended);
            Ok(lines)
        };
        let (direct, pair) = (ask(&scene.direct)?, ask(&scene.pair)?);
        let difference = diff(&direct, &pair);
        append_report(&difference.as_ref().map(|text| format!("## grpc\n{text}\n")).unwrap_or_default())?;
        ensure!(difference.is_none(), "{}", difference.unwrap_or_default());
        Ok(())
    });
}
