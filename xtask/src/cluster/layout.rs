//! Where the files of a cluster are: one directory below the cache, which `down` removes whole.
//!
//! ```text
//! <cache>/cluster/run/<name>/
//!   state.json  kubeconfig  images/  pki/  etcd/
//!   logs/<component>[-<node>].log
//!   node-<n>/   what the node has as /var/lib and /var/log, and its configuration files
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::plan::{check_name, node_name};
use crate::go;

/// Directories that a node has for itself, and in which its files therefore cannot come from the machine.
const HIDDEN: &[&str] = &["/run", "/var/run", "/var/lib", "/var/log"];

/// The files of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    top: PathBuf,
}

impl Layout {
    /// The place of the cluster `name`, which need not exist.
    ///
    /// # Errors
    /// There is no cache directory, or it is where a node could not see it.
    pub(crate) fn of(name: &str) -> Result<Self> {
        check_name(name)?;
        let cache = go::cache()?;
        if let Some(hidden) = HIDDEN.iter().find(|hidden| cache.starts_with(hidden)) {
            bail!(
                "the cache is {}, and the cluster's nodes have a {hidden} of their own: set WEFT_CACHE to another place",
                cache.display()
            );
        }
        let cache = std::path::absolute(&cache).context("cannot tell where the cache is")?;
        Ok(Self { top: cache.join("cluster/run").join(name) })
    }

    /// The names of all clusters that have a directory.
    pub(crate) fn names() -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(go::cache()?.join("cluster/run")) else { return Ok(Vec::new()) };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Held while a cluster is being changed: two commands at once would undo each other.
    pub(crate) fn lock(&self) -> Result<File> {
        let file = self.top.with_extension("lock");
        let parent = file.parent().context("a cluster's directory has a parent")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let lock = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        if lock.try_lock().is_err() {
            println!("waiting for another `cargo xtask cluster` that works on this cluster");
            lock.lock().context("cannot lock the cluster")?;
        }
        Ok(lock)
    }

    /// The directory of everything.
    pub(crate) fn top(&self) -> &Path {
        &self.top
    }

    /// A file or directory directly in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.top.join(name)
    }

    /// See `State`.
    pub(crate) fn state(&self) -> PathBuf {
        self.at("state.json")
    }

    /// What `kubectl` on this machine needs.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.at("kubeconfig")
    }

    /// The output of a component.
    pub(crate) fn log(&self, component: &str, node: u8) -> PathBuf {
        let node = if node == 0 { "wire".to_owned() } else { node_name(node) };
        self.top.join("logs").join(format!("{component}-{node}.log"))
    }

    /// A node's directory.
    pub(crate) fn node(&self, number: u8) -> PathBuf {
        self.top.join(node_name(number))
    }
}
