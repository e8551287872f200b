//! `--instructions`: what one request costs one sidecar, or a gateway, counted in instructions.
//!
//! Time is noisy on a shared machine; the number of user-space instructions is not. Each side of a Weft pair, or a gateway, runs
//! once under `valgrind --tool=callgrind` with N and once with 2N requests of the same load; the difference over N
//! is the price of a request, without what ends with the program. Two commits can be compared by it, two programs cannot: it knows
//! nothing of system calls, caches, or the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::backend::Backend;
use crate::bench::certs::{Certificates, Side};
use crate::bench::gateway;
use crate::bench::load;
use crate::bench::peers::{PROXY_USER, Pair, Peer as _, Weft};
use crate::bench::topology::{Bed, Core};
use crate::bench::work::{Listener, Protocol};
use crate::process::{self, Background};

/// N. A request takes about 50 times longer under callgrind.
const REQUESTS: u64 = 5000;

/// Requests before the count begins.
const WARM_UP: u64 = 500;

/// Where callgrind writes, in the bed's directory.
const COUNTS: &str = "counts/callgrind.out";

/// What is counted: a side of a pair, or a gateway.
enum Counted {
    Side(Weft, Side),
    Gateway(gateway::Weft),
}

impl Counted {
    /// For file names.
    fn name(&self) -> &'static str {
        match self {
            Self::Side(_, side) => side.name(),
            Self::Gateway(_) => "gateway",
        }
    }

    fn side(&self) -> Side {
        match self {
            Self::Side(_, side) => *side,
            Self::Gateway(_) => Side::Server,
        }
    }

    fn target(&self, how: Protocol) -> (Listener, String) {
        match self {
            Self::Side(weft, _) => {
                let listener = if how == Protocol::Http2 { Listener::Http2 } else { Listener::Http1 };
                (listener, weft.address(listener))
            }
            Self::Gateway(weft) => (Listener::Edge, weft.address(Listener::Edge)),
        }
    }

    /// Starts it, counted, with what belongs to it.
    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<(Background, Option<Background>)> {
        Ok(match self {
            Self::Side(weft, side) => {
                let Pair { client, server } = weft.pair(bed, certificates)?;
                if *side == Side::Client { (client, Some(server)) } else { (server, Some(client)) }
            }
            Self::Gateway(weft) => (weft.gateway(bed, certificates)?, None),
        })
    }
}

/// Counts for each kind of load, and prints the table. With `keep`, callgrind's files of the longer runs are copied there.
pub(crate) fn run(
    binary: PathBuf,
    gateway: bool,
    scratch: &Path,
    certificates: &Certificates,
    keep: Option<&Path>,
) -> Result<ExitCode> {
    let bed = Bed::new(scratch.join("instructions"))?;
    super::open_to_all(&bed.scratch)?;
    // callgrind writes as the proxy's user.
    let counts = bed.scratch.join("counts");
    fs::create_dir(&counts)?;
    std::os::unix::fs::chown(&counts, Some(PROXY_USER), Some(PROXY_USER))?;
    let file = bed.scratch.join(COUNTS);
    let _backend = Backend::start(&bed)?;
    let counted: Vec<Counted> = if gateway {
        println!("| instructions per request | gateway |\n|---|---|");
        let mut weft = gateway::Weft::new(binary, gateway::Routes::One);
        weft.program.under_callgrind(&file);
        vec![Counted::Gateway(weft)]
    } else {
        println!("| instructions per request | side A (client) | side B (server) |\n|---|---|---|");
        let side = |side| {
            let mut weft = Weft::new(binary.clone());
            weft.under_callgrind(side, &file);
            Counted::Side(weft, side)
        };
        vec![side(Side::Client), side(Side::Server)]
    };
    for (title, name, how) in [
        ("HTTP/1.1, tiny body", "http1", Protocol::Http1),
        ("HTTP/1.1, a connection per request", "close", Protocol::Close),
        ("HTTP/2, tiny body", "http2", Protocol::Http2),
    ] {
        let mut row = format!("| {title} |");
        for counted in &counted {
            let once = count(counted, &bed, certificates, how, REQUESTS)?;
            let twice = count(counted, &bed, certificates, how, 2 * REQUESTS)?;
            if let Some(directory) = keep {
                fs::create_dir_all(directory)?;
                let kept = directory.join(format!("{name}.{}.callgrind", counted.name()));
                fs::copy(&file, &kept).with_context(|| format!("cannot write {}", kept.display()))?;
            }
            row += &format!(" {} |", twice.saturating_sub(once) / REQUESTS);
        }
        println!("{row}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Instructions of a process for so many requests, and for its end.
fn count(
    counted: &Counted,
    bed: &Bed,
    certificates: &Certificates,
    how: Protocol,
    requests: u64,
) -> Result<u64> {
    let file = bed.scratch.join(COUNTS);
    let _ = fs::remove_file(&file);
    let (measured, _other) = counted.start(bed, certificates)?;
    let (listener, address) = counted.target(how);
    let send = |requests| load::fixed(bed, how, (listener, &address), requests, None);
    // Start-up is not counted: seeding the random numbers alone takes some hundred million instructions, and never the
    // same number. The warm-up leaves links up and buffers grown.
    send(WARM_UP)?;
    let id = measured.id().to_string();
    let switch_on = ["callgrind_control", "--instr=on", id.as_str()];
    let mut command = bed.namespace(counted.side()).program(Core::Load, Some(PROXY_USER), &switch_on);
    process::capture(&mut command).context("cannot switch callgrind on")?;
    send(requests)?;
    // callgrind writes its file when the program ends.
    measured.terminate(Duration::from_secs(60))?;
    let text = fs::read_to_string(&file).with_context(|| format!("callgrind wrote no {}", file.display()))?;
    total(&text).context("callgrind's file has no total")
}

/// The line `summary: 123` or `totals: 123` of callgrind's format.
fn total(text: &str) -> Option<u64> {
    let line = |name: &str| text.lines().rev().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line("totals:").or_else(|| line("summary:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("events: Ir\nsummary: 12\n\nfn=(1)\n1 2\n\ntotals: 345\n"), Some(345));
        assert_eq!(total("events: Ir\nsummary: 12\n"), Some(12));
        assert_eq!(total("events: Ir\n"), None);
    }
}
