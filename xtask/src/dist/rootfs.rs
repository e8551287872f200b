//! The files of an image: one tree in memory that becomes a layer or a directory.
//!
//! Everything in it is in one order, belongs to root and has one time, whatever the machine that made it: the same
//! files give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { bytes: Vec<u8>, mode: u32 },
    Symlink { target: String },
}

/// A tree of files, by their absolute paths. Missing parent directories appear by themselves, with mode 755.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rootfs {
    /// By the path without its leading slash. A parent sorts before what is in it.
    entries: BTreeMap<String, Entry>,
}

impl Rootfs {
    /// Puts a file at `path`, replacing what was there.
    pub(crate) fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.put(path, Entry::File { bytes: bytes.into(), mode })
    }

    /// Puts a symbolic link at `path` whose text is `target`.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(path, Entry::Symlink { target: target.to_owned() })
    }

    /// Puts an empty directory at `path`, for a mode other than 755 or for a place to mount on.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.put(path, Entry::Directory { mode })
    }

    /// Bytes of all files.
    pub(crate) fn size(&self) -> usize {
        let bytes = |entry: &Entry| if let Entry::File { bytes, .. } = entry { bytes.len() } else { 0 };
        self.entries.values().map(bytes).sum()
    }

    fn put(&mut self, path: &str, entry: Entry) -> &mut Self {
        self.entries.insert(key(path).to_owned(), entry);
        self
    }

    /// The entries with every parent directory.
    ///
    /// # Errors
    /// A path that is empty or has an empty part, `.` or `..` in it, or that has a file above it.
    fn complete(&self) -> Result<BTreeMap<&str, Entry>> {
        let mut all: BTreeMap<&str, Entry> = BTreeMap::new();
        for (path, entry) in &self.entries {
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                bail!("`{path}` is no path for a file of an image");
            }
            for (end, _) in path.match_indices('/') {
                let parent = &path[..end];
                match self.entries.get(parent) {
                    None => all.insert(parent, Entry::Directory { mode: 0o755 }),
                    Some(Entry::Directory { .. }) => None,
                    Some(_) => bail!("`{parent}` is no directory, but `{path}` is in it"),
                };
            }
            all.insert(path, entry.clone());
        }
        Ok(all)
    }

    /// The tree as an uncompressed tar archive. `mtime` is in seconds since 1970.
    ///
    /// # Errors
    /// See [`Rootfs::lay_out`].
    pub(crate) fn tar(&self, mtime: u64) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in self.complete()? {
            let mut header = header(mtime);
            match &entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { bytes, mode } => append(&mut archive, path, bytes, *mode, mtime)?,
                Entry::Symlink { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(archive.into_inner()?)
    }

    /// Writes the tree into `directory`, which is made if need be.
    ///
    /// # Errors
    /// A path that no image can have, or the file system's own.
    pub(crate) fn lay_out(&self, directory: &Path) -> Result<()> {
        let mode = |file: &Path, mode| fs::set_permissions(file, fs::Permissions::from_mode(mode));
        fs::create_dir_all(directory)?;
        mode(directory, 0o755)?;
        for (path, entry) in self.complete()? {
            let to = directory.join(path);
            let write = || match &entry {
                Entry::Directory { mode: bits } => {
                    fs::create_dir_all(&to)?;
                    mode(&to, *bits)
                }
                Entry::File { bytes, mode: bits } => {
                    fs::write(&to, bytes)?;
                    mode(&to, *bits)
                }
                Entry::Symlink { target } => std::os::unix::fs::symlink(target, &to),
            };
            write().with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }
}

/// The header that every entry shares: root's, of one time, without names of users.
fn header(mtime: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(0);
    header
}

/// Adds a file to an archive.
pub(crate) fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    bytes: &[u8],
    mode: u32,
    mtime: u64,
) -> Result<()> {
    let mut header = header(mtime);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn key(path: &str) -> &str {
    path.trim_matches('/')
}
