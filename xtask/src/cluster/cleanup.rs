//! Ending a cluster, however its start or its life ended.
//!
//! Nothing here trusts that an earlier step was reached. Processes are found by their control group; with the last of
//! them go the namespaces, and with those every mount, link, rule and address. What stays is directories.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cgroup::Groups;
use super::layout::Layout;
use super::net;
use super::state::State;
use crate::process;

/// How long the kernel may take to put namespaces away.
const END: Duration = Duration::from_secs(30);

/// What was found and ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// How many processes.
    pub(crate) processes: usize,
    /// Whether there was a directory.
    pub(crate) directory: bool,
}

/// Ends all processes of a cluster; its directory stays, for its logs.
pub(crate) fn stop(name: &str, layout: &Layout) -> Result<usize> {
    let groups = Groups::of(name)?;
    let mut ended = groups.kill()?;
    // One that could not join its group may be known from the file.
    if let Ok(Some(state)) = State::load(&layout.state()) {
        let left: Vec<String> = state.running().iter().map(|daemon| daemon.process.pid.to_string()).collect();
        if !left.is_empty() {
            process::capture(Command::new("kill").arg("-KILL").args(&left))?;
            process::wait_until("the end of the cluster's processes", END, || {
                Ok(state.running().is_empty())
            })?;
            ended += left.len();
        }
    }
    groups.remove()?;
    process::wait_until("the end of the cluster's network", END, || Ok(!net::linked(name)))?;
    Ok(ended)
}

/// Ends a cluster and removes all that is left of it.
pub(crate) fn down(name: &str, layout: &Layout) -> Result<Ended> {
    let processes = stop(name, layout)?;
    let directory = layout.top().exists();
    if directory {
        remove(layout.top())?;
    }
    Ok(Ended { processes, directory })
}

/// Removes a directory, but never what is mounted in it: nothing of ours is, in this namespace, and a mount that someone
/// else made there would lose its files.
fn remove(top: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    let prefix = format!("{}/", top.display());
    if let Some(mount) =
        mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).find(|m| m.starts_with(&prefix))
    {
        anyhow::bail!("{mount} is mounted inside {}, not by this program: please unmount it", top.display());
    }
    fs::remove_dir_all(top).with_context(|| format!("cannot remove {}", top.display()))
}
