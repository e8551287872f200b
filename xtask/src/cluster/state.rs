//! What is known of a cluster that runs: one JSON file, rewritten after every step of `up`.
//!
//! So that a crash at any point leaves a true record, and nobody else's process is ever taken for ours: a process is
//! its id together with its start time and the boot it was started in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// A process that cannot be mistaken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its id.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub(crate) start: u64,
}

/// A program that belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Daemon {
    /// Such as `kubelet`.
    pub(crate) name: String,
    /// The node it is part of; 0 for the wire between nodes.
    pub(crate) node: u8,
    /// The process.
    pub(crate) process: Identity,
    /// Its output.
    pub(crate) log: PathBuf,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The boot during which it was started.
    pub(crate) boot: String,
    /// Its addresses.
    pub(crate) plan: Plan,
    /// What was started, in order.
    pub(crate) daemons: Vec<Daemon>,
    /// Whether `up` came to its end.
    pub(crate) complete: bool,
}

impl Identity {
    /// The process that has this id now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start: parse_stat(&stat)?.1 })
    }

    /// Whether it still runs: the same id, the same start, and not merely waiting to be reaped.
    pub(crate) fn runs(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        parse_stat(&stat).is_some_and(|(state, start)| start == self.start && state != 'Z' && state != 'X')
    }
}

/// State and start time of a line of `/proc/<pid>/stat` (fields 3 and 22). The name before them may hold anything,
/// blanks and brackets too, so they are counted from the last bracket.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The id of the machine's current boot.
pub(crate) fn boot() -> Result<String> {
    let text =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the id of this boot")?;
    Ok(text.trim().to_owned())
}

impl State {
    /// A cluster of which nothing runs yet.
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        Ok(Self { boot: boot()?, plan, daemons: Vec::new(), complete: false })
    }

    /// What the file says; `None` when there is no cluster.
    ///
    /// # Errors
    /// The file is there and is not one of ours.
    pub(crate) fn load(file: &Path) -> Result<Option<Self>> {
        match fs::read(file) {
            Ok(bytes) => {
                let state = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is not a cluster's state", file.display()))?;
                Ok(Some(state))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Writes the file in one step.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let partial = file.with_extension("new");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&partial, file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The daemons that run now.
    pub(crate) fn running(&self) -> Vec<&Daemon> {
        if boot().is_ok_and(|boot| boot == self.boot) {
            self.daemons.iter().filter(|daemon| daemon.process.runs()).collect()
        } else {
            Vec::new()
        }
    }

    /// A daemon by name and node.
    pub(crate) fn daemon(&self, name: &str, node: u8) -> Result<&Daemon> {
        let found = self.daemons.iter().find(|daemon| daemon.name == name && daemon.node == node);
        found.with_context(|| format!("the cluster has no {name} of node {node}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_id_and_its_start() {
        let mine = Identity::of(std::process::id()).unwrap();
        assert!(mine.runs());
        assert!(!Identity { start: mine.start + 1, ..mine }.runs(), "the id was given to another process");
        assert_eq!(Identity::of(u32::MAX), None);
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_does_not_run() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id());
        crate::process::wait_until("the end of true", std::time::Duration::from_secs(10), || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
            Ok(parse_stat(&stat).is_some_and(|(state, _)| state == 'Z'))
        })
        .unwrap();
        assert!(!identity.unwrap().runs());
        child.wait().unwrap();
    }

    #[test]
    fn names_with_blanks_and_brackets_do_not_confuse() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(parse_stat(&format!("12 (a) b (c) {tail}")), Some(('S', 777)));
        assert_eq!(parse_stat("12 (short) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_file_comes_back_as_it_went() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        assert_eq!(State::load(&file).unwrap(), None);
        let mut state = State::new(Plan::new("x", 2, true, "").unwrap()).unwrap();
        let process = Identity::of(std::process::id()).unwrap();
        let log = directory.path().join("etcd.log");
        state.daemons.push(Daemon { name: "etcd".into(), node: 1, process, log });
        state.save(&file).unwrap();
        let read = State::load(&file).unwrap().unwrap();
        assert_eq!(read, state);
        assert_eq!(read.running().len(), 1);
        let earlier = State { boot: "another".into(), ..read };
        assert!(earlier.running().is_empty(), "processes of another boot are not ours");
        fs::write(&file, "{").unwrap();
        assert!(State::load(&file).is_err());
    }
}
