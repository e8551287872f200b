//! What the kernel says about the process, read at a scrape.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Encoder, Registry, families};

/// What is running.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// The release.
    pub version: &'static str,
    /// The commit, or empty where it is not known.
    pub revision: &'static str,
    /// The compiler, or empty.
    pub rustc: &'static str,
}

/// Adds the `process_*` families and `weft_build_info`. A value that `/proc` does not give is left out.
pub fn register_process(registry: &Registry, build: BuildInfo) {
    let started = start_time();
    registry.register_collector(Box::new(move |encoder| {
        encoder.family(&families::BUILD_INFO).value(&[build.version, build.revision, build.rustc], 1);
        if let Some(started) = started {
            encoder.family(&families::PROCESS_START).value(&[], started);
        }
        collect(encoder);
    }));
}

fn collect(encoder: &mut Encoder<'_>) {
    if let Some(stat) = Stat::read() {
        encoder.family(&families::PROCESS_CPU).value(&[], stat.cpu_seconds);
        encoder.family(&families::PROCESS_RSS).value(&[], stat.rss_bytes);
        encoder.family(&families::PROCESS_VIRTUAL).value(&[], stat.virtual_bytes);
        encoder.family(&families::PROCESS_THREADS).value(&[], stat.threads);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is read.
        encoder.family(&families::PROCESS_FDS).value(&[], entries.count().saturating_sub(1));
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        encoder.family(&families::PROCESS_MAX_FDS).value(&[], limit);
    }
}

/// The fields of `/proc/self/stat` (proc(5)) that are exposed.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    rss_bytes: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the command in parentheses and may hold anything; fields are counted from its end.
        let rest = text.rsplit_once(')')?.1;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc(5) numbers fields from 1 and the first after the command is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)?;
        Some(Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            rss_bytes: field(24)? * rustix::param::page_size() as u64,
        })
    }
}

/// Unix time at which the process started.
fn start_time() -> Option<u64> {
    let ticks = Stat::read()?.start_ticks;
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let since_boot = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some((now - uptime + since_boot).max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_whatever_the_command_is_called() {
        let line =
            "42 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 7 0 900 4096000 25 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        let hz = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, 200.0 / hz);
        assert_eq!((stat.threads, stat.start_ticks, stat.virtual_bytes), (7, 900, 4_096_000));
        assert_eq!(stat.rss_bytes, 25 * rustix::param::page_size() as u64);
        assert_eq!(Stat::parse("42 (a) R 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn exposes_this_process() {
        let registry = Registry::default();
        register_process(&registry, BuildInfo { version: "1.2.3", revision: "abc", rustc: "" });
        let mut text = String::new();
        registry.encode(&mut text);
        assert!(text.contains("weft_build_info{version=\"1.2.3\",revision=\"abc\"} 1\n"), "{text}");
        for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "] {
            assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
        }
        let start = start_time().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(start <= now && now - start < 3_600, "{start} {now}");
    }
}
