//! Descriptors run out: accepting pauses, nothing spins, and everything goes on when they are back.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use weft_testbed::{PROXY_UID, eventually, rest, story};

use crate::{Pair, SOON};

/// How long the story watches the proxy without descriptors.
const WATCH: Duration = Duration::from_secs(3);

/// The most that pauses of 5 ms, doubled up to a second, can come to in that time on two listeners, with a wide margin
/// for the machine. A loop that spins makes tens of thousands.
const MOST_PAUSES: f64 = 60.0;

/// CPU time of a process so far: user and system, in clock ticks of 10 ms (proc(5), fields 14 and 15).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

#[test]
fn a_proxy_without_descriptors_waits_and_recovers() {
    story("emfile", |mesh| {
        // Silent connections are kept for longer than the story takes.
        let pair = Pair::start(mesh, |yaml| yaml["timeouts"]["handshake"] = "60s".into())?;
        pair.works()?;
        let pid = pair.server.process().pid();
        let limit = descriptors(pid)? + 16;
        let limits = format!("--nofile={limit}:{limit}");
        // As the proxy's own user: root of the pod may lack the capability to do it to others.
        let prlimit = ["prlimit", "--pid", &pid.to_string(), &limits];
        pair.web.exec_as(Some(PROXY_UID), &prlimit)?.ok().context("prlimit")?;

        let to = SocketAddr::new(pair.orders.ip(), 8080);
        let outsider = mesh.pod("outsider.shop").start()?;
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let holding = outsider.start(async move || {
            let mut held = Vec::new();
            for _ in 0..200 {
                // The kernel completes connections for the listener's backlog, whether they are accepted or not.
                held.push(TcpStream::connect(to).await?);
            }
            let _ = closed.await;
            Ok(held.len())
        })?;
        eventually("descriptors to run out", SOON, || Ok((descriptors(pid)? >= limit).then_some(())))?;
        pair.server.process().wait_for_log("accepting paused", SOON)?;
        let before = cpu_ticks(pid)?;
        rest(WATCH);
        let spent = cpu_ticks(pid)? - before;
        // A busy loop takes all it can get; half a core is what even a busy machine would leave it.
        ensure!(spent < 50 * WATCH.as_secs(), "{spent} ticks of CPU time while there was nothing to do");

        let _ = close.send(());
        ensure!(holding.join()? == 200, "connections were refused");
        eventually("the descriptors to be free again", SOON, || Ok(pair.works().is_ok().then_some(())))?;
        pair.works()?;
        let paused = [("listener", "inbound"), ("reason", "paused")];
        let pauses = pair.server.metrics()?.sum("weft_accept_errors_total", &paused);
        ensure!((1.0..=MOST_PAUSES).contains(&pauses), "{pauses} pauses");
        ensure!(pair.server.metrics()?.sum("process_max_fds", &[]) == limit as f64);
        Ok(())
    });
}

/// The limit on connections, which keeps descriptors for everything else.
#[test]
fn connections_beyond_the_limit_are_refused_and_counted() {
    story("max-connections", |mesh| {
        let pair = Pair::start(mesh, |yaml| {
            yaml["limits"]["maxConnections"] = 20.into();
            yaml["timeouts"]["handshake"] = "60s".into();
        })?;
        let to = SocketAddr::new(pair.orders.ip(), 8080);
        let outsider = mesh.pod("outsider.shop").start()?;
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let holding = outsider.start(async move || {
            let mut held = Vec::new();
            for _ in 0..60 {
                held.push(TcpStream::connect(to).await);
            }
            let _ = closed.await;
            Ok(held.len())
        })?;
        eventually("the limit to be reached", SOON, || {
            let labels = [("listener", "inbound"), ("reason", "limit")];
            let refused = pair.server.metrics()?.sum("weft_accept_errors_total", &labels);
            Ok((refused >= 40.0).then_some(()))
        })?;
        let _ = close.send(());
        holding.join()?;
        eventually("connections to be taken again", SOON, || Ok(pair.works().is_ok().then_some(())))
    });
}
