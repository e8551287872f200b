//! The directory of one run, and what is left of runs that crashed.
//!
//! Namespaces here have no names: they live as long as a file descriptor or a process holds them, so a crash of the
//! test process frees them by itself. What can survive a `SIGKILL` of the test process is a grandchild (its parent's
//! death signal reaches only direct children) and this directory. Both carry the owner's pid and start time, and the
//! next run removes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Every process of a run has this variable, with the name of the run directory as its value.
pub(crate) const RUN_VARIABLE: &str = "TESTBED_RUN";

const PREFIX: &str = "weft-testbed-";

/// The directory of one mesh: configuration files, process output, captures.
///
/// It is removed on drop, unless the story failed: then it stays for reading, and a later run removes it after a day.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    name: String,
}

impl RunDir {
    /// Makes the directory; the first call of a process also removes what crashed runs left behind.
    pub(crate) fn create(label: &str) -> Result<Self> {
        static CLEAN: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        CLEAN.call_once(|| {
            clean_stale();
        });
        let pid = std::process::id();
        let started = start_time(pid).context("reading the start time of this process")?;
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{pid}-{started}-{count}-{label}");
        let path = std::env::temp_dir().join(&name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path, name })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Marks the run as failed, so that the directory stays.
    pub(crate) fn keep(&self) {
        let _ = fs::write(self.path.join("failed"), "");
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        end_marked(&self.name);
        if !self.path.join("failed").exists() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Ends the processes and removes the directories of runs whose owner is gone. Returns how many runs were found.
pub fn clean_stale() -> usize {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return 0 };
    let mut found = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, started)) = owner(&name) else { continue };
        if start_time(pid) == Some(started) {
            continue;
        }
        end_marked(&name);
        let failed = entry.path().join("failed");
        if failed.exists() && younger_than_a_day(&failed) {
            continue;
        }
        found += 1;
        let _ = fs::remove_dir_all(entry.path());
    }
    found
}

/// The pids of living processes that belong to the run of this name.
pub fn processes_of(run: &str) -> Vec<u32> {
    let mark = format!("{RUN_VARIABLE}={run}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|b| *b == 0).any(|var| var == mark.as_bytes()))
        })
        .collect()
}

fn end_marked(run: &str) {
    for pid in processes_of(run) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)): with the pid it names a process for good, even when pids are used again.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name (field 2) may hold spaces and parentheses: count from the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn younger_than_a_day(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|time| time.elapsed_or_zero().as_secs() < 86_400)
}

trait ElapsedOrZero {
    fn elapsed_or_zero(self) -> std::time::Duration;
}

impl ElapsedOrZero for std::time::SystemTime {
    /// How long ago, by the wall clock (file times have no other); a time in the future counts as now.
    fn elapsed_or_zero(self) -> std::time::Duration {
        std::time::SystemTime::now().duration_since(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_back_from_the_name() {
        let dir = RunDir::create("name").unwrap();
        let pid = std::process::id();
        assert_eq!(owner(dir.name()), Some((pid, start_time(pid).unwrap())));
        assert_eq!(owner("weft-testbed-x-1-0-a"), None);
        assert_eq!(owner("something-else"), None);
    }

    #[test]
    fn a_living_run_is_left_alone() {
        let dir = RunDir::create("alive").unwrap();
        clean_stale();
        assert!(dir.path().exists());
    }
}
