//! What the kernel says about a process: time on a processor, and memory.

use std::fs;

use anyhow::{Context, Result};

/// Time that all threads of these processes have run on a processor, in nanoseconds.
///
/// The first number of `/proc/<pid>/task/<tid>/schedstat` (Documentation/scheduler/sched-stats.rst). It is exact to
/// the context switch, unlike the ticks in `/proc/<pid>/stat`, and includes the work that the kernel does in these
/// threads, such as delivering a packet to the receiver on the same machine.
pub(crate) fn cpu_nanoseconds(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let tasks = fs::read_dir(format!("/proc/{process}/task"))
            .with_context(|| format!("process {process} is gone"))?;
        for task in tasks {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            sum += parse_schedstat(&text)?;
        }
    }
    Ok(sum)
}

fn parse_schedstat(text: &str) -> Result<u64> {
    let first = text
        .split_whitespace()
        .next()
        .context("an empty schedstat: the kernel is built without SCHED_INFO")?;
    first.parse().context("schedstat does not start with a number")
}

/// Proportional set size of a process in KiB: its own pages, and its share of those it shares.
pub(crate) fn pss_kib(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    parse(&text, "Pss:").with_context(|| format!("{file} has no Pss line"))
}

/// The anonymous part of [`pss_kib`]: heap, stacks, what was written to.
pub(crate) fn pss_anon_kib(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    parse(&text, "Pss_Anon:").with_context(|| format!("{file} has no Pss_Anon line"))
}

fn parse(text: &str, field: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_run_time_first() {
        assert_eq!(parse_schedstat("188502252 13716947 417\n").unwrap(), 188_502_252);
        assert!(parse_schedstat("").is_err());
        assert!(parse_schedstat("x 1 2").is_err());
    }

    #[test]
    fn pss_is_told_from_its_parts() {
        let text =
            "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  4200 kB\nPss:  1234 kB\nPss_Dirty:  99 kB\n";
        assert_eq!(parse(text, "Pss:"), Some(1234));
        assert_eq!(parse("Rss: 1 kB\n", "Pss:"), None);
    }

    #[test]
    fn our_own_process_can_be_measured() {
        let own = std::process::id();
        let before = cpu_nanoseconds(&[own]).unwrap();
        let mut sum = 0u64;
        while cpu_nanoseconds(&[own]).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(pss_kib(own).unwrap() > 100);
    }
}
