//! `--instructions`: what one request costs one sidecar, counted in instructions.
//!
//! Time is noisy on a shared machine; the number of user-space instructions is not. Each side of a Weft pair runs
//! once under `valgrind --tool=callgrind` with N and once with 2N requests of the same load; the difference over N
//! is the price of a request, without what ends with the program. Two commits can be compared by it, two programs cannot: it knows
//! nothing of system calls, caches, or the clock.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::backend::Backend;
use crate::bench::certs::{Certificates, Side};
use crate::bench::load::{self, Fixed};
use crate::bench::peers::{PROXY_USER, Peer as _, Weft};
use crate::bench::topology::{Bed, Core};
use crate::bench::work::Listener;
use crate::process;

/// N. A request takes about 50 times longer under callgrind.
const REQUESTS: u64 = 5000;

/// Requests before the count begins.
const WARM_UP: u64 = 500;

/// Where callgrind writes, in the bed's directory.
const COUNTS: &str = "counts/callgrind.out";

/// Counts both sides for each kind of load, and prints the table. With `keep`, callgrind's files of the longer runs are
/// copied there.
pub(crate) fn run(
    weft: Weft,
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
    let _backend = Backend::start(&bed)?;
    println!("| instructions per request | side A (client) | side B (server) |\n|---|---|---|");
    let mut weft = weft;
    for (title, name, how) in [
        ("HTTP/1.1, tiny body", "http1", Fixed::Http1),
        ("HTTP/1.1, a connection per request", "close", Fixed::Close),
        ("HTTP/2, tiny body", "http2", Fixed::Http2),
    ] {
        let mut cells = Vec::new();
        for side in [Side::Client, Side::Server] {
            let once = count(&mut weft, &bed, certificates, side, how, REQUESTS)?;
            let twice = count(&mut weft, &bed, certificates, side, how, 2 * REQUESTS)?;
            if let Some(directory) = keep {
                fs::create_dir_all(directory)?;
                let file = directory.join(format!("{name}.{}.callgrind", side.name()));
                fs::copy(bed.scratch.join(COUNTS), &file)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            cells.push(twice.saturating_sub(once) / REQUESTS);
        }
        println!("| {title} | {} | {} |", cells[0], cells[1]);
    }
    Ok(ExitCode::SUCCESS)
}

/// Instructions of one side for so many requests, and for its end.
fn count(
    weft: &mut Weft,
    bed: &Bed,
    certificates: &Certificates,
    side: Side,
    how: Fixed,
    requests: u64,
) -> Result<u64> {
    let file = bed.scratch.join(COUNTS);
    let _ = fs::remove_file(&file);
    weft.under_callgrind(side, &file);
    let pair = weft.start(bed, certificates)?;
    let measured = if side == Side::Client { pair.client } else { pair.server };
    let listener = if how == Fixed::Http2 { Listener::Http2 } else { Listener::Http1 };
    let send = |requests| load::fixed(bed, how, &weft.address(listener), requests, None);
    // Start-up is not counted: seeding the random numbers alone takes some hundred million instructions, and never the
    // same number. The warm-up leaves links up and buffers grown.
    send(WARM_UP)?;
    let id = measured.id().to_string();
    let switch_on = ["callgrind_control", "--instr=on", id.as_str()];
    let mut command = bed.namespace(side).program(Core::Load, Some(PROXY_USER), &switch_on);
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
