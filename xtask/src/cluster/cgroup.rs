//! The control groups of a cluster, which are also how its processes are known.
//!
//! Everything that a cluster starts is in `weft-cluster-<name>`: its daemons (and what they start: the shims) in
//! `daemons`, the containers of a node below `node-<n>`, because the kubelet is told to make its own groups there. A
//! child stays in its parent's group, so after any crash the list of processes to end is what the kernel says, not what
//! a file remembers. Works with version 1 (a tree for each controller) and version 2 (one tree).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plan;
use crate::process;

/// Where the kernel's trees are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How long killed processes may take to be gone.
const END: Duration = Duration::from_secs(30);

/// One mounted tree.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    mount: PathBuf,
    /// Version 2, as the only one.
    unified: bool,
    /// Version 2 beside the trees of version 1: nobody counts on it, but runc makes groups there too.
    beside: bool,
    /// Options such as `rw,relatime,pids`.
    options: String,
}

/// The control groups of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    name: String,
    trees: Vec<Tree>,
}

impl Groups {
    /// The groups of the cluster `name`, which need not exist.
    ///
    /// # Errors
    /// No tree is mounted.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
        let trees = trees(&mounts);
        if trees.is_empty() {
            bail!("no control groups are mounted below {ROOT}, and a kubelet needs them");
        }
        Ok(Self { name: format!("weft-cluster-{name}"), trees })
    }

    /// Makes the groups.
    pub(crate) fn make(&self, nodes: impl Iterator<Item = u8>) -> Result<()> {
        let nodes: Vec<String> = nodes.map(plan::node_name).collect();
        for tree in self.trees.iter().filter(|tree| !tree.beside) {
            let top = tree.mount.join(&self.name);
            for group in nodes.iter().map(String::as_str).chain(["daemons"]) {
                let path = top.join(group);
                fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            }
            if tree.unified {
                // What the kubelet wants to find in its root must be handed down to it.
                let all = fs::read_to_string(tree.mount.join("cgroup.controllers")).unwrap_or_default();
                for controller in all.split_whitespace() {
                    for level in [&tree.mount, &top] {
                        // One that cannot be handed down is missed by the kubelet, which says so better.
                        let _ = fs::write(level.join("cgroup.subtree_control"), format!("+{controller}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes and removes a group in each tree.
    ///
    /// # Errors
    /// One cannot be made.
    pub(crate) fn probe(&self) -> Result<()> {
        for tree in self.trees.iter().filter(|tree| !tree.beside) {
            let path = tree.mount.join(format!("{}-probe", self.name));
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            fs::remove_dir(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The group of a node's containers, as the kubelet names it.
    pub(crate) fn node(&self, number: u8) -> String {
        format!("/{}/{}", self.name, plan::node_name(number))
    }

    /// A shell command that moves the shell into the daemons' group.
    pub(crate) fn join_script(&self) -> String {
        let mut script = String::new();
        for tree in self.trees.iter().filter(|tree| !tree.beside) {
            let file = tree.mount.join(&self.name).join("daemons/cgroup.procs");
            let must = if tree == self.ledger() { "exit 1" } else { "true" };
            // A tree that is not the ledger may refuse, as a set of CPUs without any does.
            script.push_str(&format!("echo $$ 2>/dev/null >{} || {must}; ", file.display()));
        }
        script
    }

    /// The tree that says which processes are ours: one that every process can join.
    fn ledger(&self) -> &Tree {
        let pids = |tree: &&Tree| tree.unified || tree.options.split(',').any(|option| option == "pids");
        self.trees.iter().find(pids).unwrap_or(&self.trees[0])
    }

    /// The processes of the cluster.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        collect(&self.ledger().mount.join(&self.name), &mut found);
        found
    }

    /// Kills every process of the cluster and waits until they are gone.
    ///
    /// # Errors
    /// Some are still there after half a minute.
    pub(crate) fn kill(&self) -> Result<usize> {
        let start = Instant::now();
        let mut ended = std::collections::BTreeSet::new();
        loop {
            // Again and again: one may have been starting another.
            let left = self.processes();
            if left.is_empty() {
                return Ok(ended.len());
            }
            if start.elapsed() > END {
                bail!("{} processes of {} do not end: {left:?}", left.len(), self.name);
            }
            let words: Vec<String> = left.iter().map(u32::to_string).collect();
            // Fails for those that ended meanwhile.
            let _ = process::capture(Command::new("kill").arg("-KILL").args(&words));
            ended.extend(left);
            process::pause(Duration::from_millis(30));
        }
    }

    /// Removes the groups, in all trees; those that are not there are fine.
    ///
    /// # Errors
    /// A group cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        for tree in &self.trees {
            let top = tree.mount.join(&self.name);
            process::wait_until("the end of control groups", END, || Ok(remove(&top)))
                .with_context(|| format!("cannot remove {}", top.display()))?;
        }
        Ok(())
    }
}

/// Ids of a group and those below.
fn collect(group: &Path, found: &mut Vec<u32>) {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    for child in children(group) {
        collect(&child, found);
    }
}

fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Removes a group and those below; true when it is gone.
fn remove(group: &Path) -> bool {
    for child in children(group) {
        remove(&child);
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

/// The trees in a list of mounts.
fn trees(mounts: &str) -> Vec<Tree> {
    let mut all: Vec<Tree> = mounts
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, mount, kind, options, ..] = fields.as_slice() else { return None };
            let unified = *kind == "cgroup2" && *mount == ROOT;
            let beside = *kind == "cgroup2" && !unified;
            let ours = ["cgroup", "cgroup2"].contains(kind) && mount.starts_with(ROOT);
            ours.then(|| Tree { mount: mount.into(), unified, beside, options: (*options).to_owned() })
        })
        .collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
        cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";

    #[test]
    fn both_versions_are_told_apart() {
        let v1 = trees(V1);
        assert_eq!(v1.len(), 3, "{v1:?}");
        assert!(v1[2].beside && !v1[1].beside);
        let groups = Groups { name: "weft-cluster-x".into(), trees: v1 };
        assert_eq!(groups.ledger().mount, Path::new("/sys/fs/cgroup/pids"));
        let v2 = trees("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        assert!(v2.len() == 1 && v2[0].unified && !v2[0].beside);
        assert!(trees("proc /proc proc rw 0 0\nbroken\n").is_empty());
    }

    #[test]
    fn joining_must_work_where_processes_are_counted() {
        let groups = Groups { name: "weft-cluster-x".into(), trees: trees(V1) };
        let script = groups.join_script();
        assert!(script.contains("/pids/weft-cluster-x/daemons/cgroup.procs || exit 1"), "{script}");
        assert!(script.contains("/cpu/weft-cluster-x/daemons/cgroup.procs || true"), "{script}");
        assert!(!script.contains("/unified/"), "{script}");
    }

    #[test]
    fn processes_are_found_at_every_depth() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("weft-cluster-x/node-1/kubepods/pod1");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("cgroup.procs"), "7\n8\n").unwrap();
        fs::write(directory.path().join("weft-cluster-x/cgroup.procs"), "5\n").unwrap();
        let tree =
            Tree { mount: directory.path().into(), unified: true, beside: false, options: String::new() };
        let groups = Groups { name: "weft-cluster-x".into(), trees: vec![tree] };
        let mut found = groups.processes();
        found.sort_unstable();
        assert_eq!(found, [5, 7, 8]);
    }
}
