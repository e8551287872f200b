//! Clients for pods of a cluster, where a test cannot send from its own process.
//!
//! | command | what it does |
//! |---|---|
//! | `load --url U [--rate N] [--connections N] [--fresh] [--http2] [--report FILE]` | steady traffic until SIGTERM; the report is a file, written anew twice a second and at the end |
//! | `get URL [--header NAME:VALUE]... [--post TEXT] [--http2]` | one request; prints status, headers and body as JSON; exit code 0 for any answer |

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::http::map;
use crate::http::{Client, Request};
use crate::load::{Lanes, Report};

/// How often the report is written.
const PERIOD: Duration = Duration::from_millis(500);

/// Steady traffic until SIGTERM.
pub(super) async fn load(mut words: impl Iterator<Item = String>) -> Result<()> {
    let (mut url, mut rate, mut connections) = (None, 20, 4);
    let (mut keep, mut http2, mut file) = (true, false, None::<PathBuf>);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--fresh" => keep = false,
            "--http2" => http2 = true,
            _ => {
                let value = words.next().with_context(|| format!("{word} needs a value"))?;
                match word.as_str() {
                    "--url" => url = Some(value),
                    "--rate" => rate = value.parse().context("--rate")?,
                    "--connections" => connections = value.parse().context("--connections")?,
                    "--report" => file = Some(value.into()),
                    _ => bail!("{word} is not an option"),
                }
            }
        }
    }
    let mut request = Request::get(&url.context("no --url")?);
    if http2 {
        request = request.http2();
    }
    let lanes = Lanes::new(Client::of_this_process(), request, rate, connections, keep);
    let (stop, report) = (lanes.stop(), lanes.report());
    let mut asked = signal(SignalKind::terminate()).context("a handler for SIGTERM")?;
    let mut running = std::pin::pin!(lanes.run());
    loop {
        tokio::select! {
            () = running.as_mut() => break,
            _ = asked.recv() => stop.store(true, Ordering::Relaxed),
            () = tokio::time::sleep(PERIOD) => write(file.as_deref(), &report)?,
        }
    }
    write(file.as_deref(), &report)?;
    let report = report.lock().unwrap_or_else(PoisonError::into_inner);
    super::report(&serde_json::to_string(&*report).context("the report as JSON")?);
    Ok(())
}

/// In one step: who reads it never sees half of it.
fn write(file: Option<&Path>, report: &Mutex<Report>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_vec(&*report.lock().unwrap_or_else(PoisonError::into_inner));
    let partial = file.with_extension("new");
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    std::fs::write(&partial, text.context("the report as JSON")?).context("writing the report")?;
    std::fs::rename(&partial, file).context("writing the report")
}

/// One request.
#[expect(clippy::print_stdout, reason = "the answer is what it was called for")]
pub(super) async fn get(mut words: impl Iterator<Item = String>) -> Result<()> {
    let mut request = Request::get(&words.next().context("no URL")?);
    while let Some(word) = words.next() {
        if word == "--http2" {
            request = request.http2();
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        request = match word.as_str() {
            "--header" => {
                let (name, value) = value.split_once(':').context("a header is NAME:VALUE")?;
                request.header(name, value.trim())
            }
            "--post" => request.method("POST").body(value),
            _ => bail!("{word} is not an option"),
        };
    }
    let answer = Client::of_this_process().send(request).await?;
    let json = serde_json::json!({
        "status": answer.status.as_u16(),
        "headers": map(&answer.headers),
        "body": answer.text(),
    });
    println!("{json}");
    Ok(())
}
