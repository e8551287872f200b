//! A `weft.yaml` that is wrong, at the start and while the proxy runs.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weft_testbed::{Sidecar, eventually, story};

use crate::{Pair, SOON, converse};

/// A file, and what must be told: line and column, field, and a word of the reason.
const WRONG: [(&str, &str, &str, &str); 9] = [
    ("identity: {ca: {address: \"ca:1\"}}\ninbund: {}\n", ":2:", "inbund", "inbound"),
    ("identity:\n  ca:\n    adress: \"ca:1\"\n", ":3:", "identity.ca.adress", "address"),
    ("identity: {ca: {address: \"ca:1\"}}\nmesh:\n  mode: relaxed\n", ":3:", "mesh.mode", "permissive"),
    ("identity: {ca: {address: \"ca:1\"}}\ntimeouts:\n  connect: 5\n", ":3:", "timeouts.connect", "5s"),
    ("identity: {ca: {address: \"ca:1\"}}\nbind:\n  admin: 99999\n", ":3:", "bind.admin", "65535"),
    (
        "identity: {ca: {address: \"ca:1\"}}\nlog: info\nlog: debug\n",
        ":3:",
        "log",
        "[config-duplicate-field]",
    ),
    ("identity: {ca: {address: \"ca:1\"}\nmesh: {}\n", ":2:", "", "[config-syntax]"),
    ("identity: [ca]\n", ":1:", "identity", "[config-wrong-type]"),
    ("log: info\n", "", "identity", "[config-missing]"),
];

#[test]
fn a_bad_file_is_told_with_line_and_field_and_code_2() {
    story("bad-config", |mesh| {
        let pod = mesh.pod("web.shop").start()?;
        let file = pod.dir().join("weft.yaml");
        let name = file.display().to_string();
        let run = || pod.exec(&["/run/weft", "proxy", "--config", &name]);
        for (text, at, field, word) in WRONG {
            fs::write(&file, text)?;
            let output = run()?;
            ensure!(output.status.code() == Some(2), "{text:?}: {}", output.status);
            ensure!(output.stderr.contains(&format!("{name}{at}")), "{text:?}: {}", output.stderr);
            for part in [field, word] {
                ensure!(output.stderr.contains(part), "{text:?}: no {part:?} in {}", output.stderr);
            }
        }
        // Two mistakes are told at once.
        fs::write(&file, "identity: {ca: {address: \"ca:1\"}}\nworkers: none\nmesh: {mode: no}\n")?;
        let output = run()?;
        ensure!(output.stderr.contains(":2:") && output.stderr.contains(":3:"), "{}", output.stderr);
        for args in [&["--config", "/does/not/exist"][..], &["--no-such-flag"]] {
            let output = pod.exec(&[&["/run/weft", "proxy"][..], args].concat())?;
            ensure!(output.status.code() == Some(2), "{args:?}: {}", output.status);
        }
        // The CA reads its file by the same rules.
        fs::write(&file, "trustDomain: weft.local\nlisten: nowhere\n")?;
        let output = pod.exec(&["/run/weft", "ca", "--config", &name])?;
        ensure!(output.status.code() == Some(2), "weft ca: {}", output.status);
        ensure!(output.stderr.contains("listen"), "{}", output.stderr);
        Ok(())
    });
}

fn reloads(sidecar: &Sidecar, outcome: &str) -> Result<f64> {
    Ok(sidecar.metrics()?.sum("weft_config_reloads_total", &[("outcome", outcome)]))
}

#[test]
fn a_mode_changes_while_it_runs_and_a_bad_edit_changes_nothing() {
    story("reload", |mesh| {
        let mut pair = Pair::start(mesh, |_| ())?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let to = SocketAddr::new(pair.orders.ip(), 8080);
        let plaintext = || -> Result<bool> {
            let request = b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
            let answer = outsider.run(async || converse(to, request).await)?;
            Ok(answer.is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200")))
        };
        ensure!(!plaintext()?, "strict at the start");
        pair.server.reconfigure(|yaml| yaml["inbound"]["mode"] = "permissive".into())?;
        eventually("permissive to be in force", SOON, || Ok(plaintext()?.then_some(())))?;
        ensure!(reloads(&pair.server, "ok")? >= 1.0);

        // Asks for strict, and has a mistake elsewhere: none of it is taken.
        pair.server.reconfigure(|yaml| {
            yaml["inbound"]["mode"] = "strict".into();
            yaml["inbound"]["opaqePorts"] = serde_json::json!([1]);
        })?;
        eventually("the bad file to be told", SOON, || {
            Ok((reloads(&pair.server, "invalid")? >= 1.0).then_some(()))
        })?;
        let log = pair.server.log();
        for part in ["config-refused", "inbound.opaqePorts", "opaquePorts", "weft.yaml:"] {
            ensure!(log.contains(part), "no {part:?} in the log: {log}");
        }
        ensure!(pair.server.admin("/config")?.json()?["stale"] == true, "not shown as stale");
        ensure!(plaintext()?, "the last good configuration is gone");
        pair.works()?;

        pair.server.reconfigure(|yaml| {
            yaml["inbound"] = serde_json::json!({ "mode": "strict" });
        })?;
        eventually("strict to be in force", SOON, || Ok((!plaintext()?).then_some(())))?;
        ensure!(pair.server.admin("/config")?.json()?["stale"] == false, "still shown as stale");
        pair.works()
    });
}
