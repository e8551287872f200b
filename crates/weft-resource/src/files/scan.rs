//! Which files there are, and which directories tell of their changes.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What a file was when it was read: another value means other content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    links: u64,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::new(&fs::metadata(path)?))
    }

    fn new(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            links: meta.nlink(),
        }
    }

    /// Whether it is another file, not the same one with other content.
    pub(super) fn is_other(&self, other: &Self) -> bool {
        (self.device, self.inode) != (other.device, other.inode)
    }

    /// Whether another name leads to it: such a file was not just begun.
    pub(super) fn is_linked(&self) -> bool {
        self.links > 1
    }

    /// Whether nobody wrote into it within a second: it is probably whole.
    pub(super) fn is_settled(&self) -> bool {
        const QUIET: Duration = Duration::from_secs(1);
        let modified = u64::try_from(self.modified.0).unwrap_or(0);
        let quiet_at = SystemTime::UNIX_EPOCH + Duration::from_secs(modified) + QUIET;
        SystemTime::now() > quiet_at
    }
}

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The files, in the order in which they count: that of the list, and within a directory by name.
    pub(super) files: Vec<Listed>,
    /// Paths that cannot be read, with the reason; what they had stays, unless they are not there.
    pub(super) failed: Vec<(PathBuf, io::ErrorKind, String)>,
}

/// One file of a listing.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// Whether it is a symbolic link: these change without an event of their own.
    pub(super) is_link: bool,
}

/// The files behind these paths.
pub(super) fn list(paths: &[PathBuf]) -> Listing {
    let mut listing = Listing::default();
    // A file may be listed beside its directory.
    let mut known = HashSet::new();
    for path in paths {
        match entries(path) {
            Ok(files) => {
                listing.files.extend(files.into_iter().filter(|file| known.insert(file.path.clone())));
            }
            Err(error) => listing.failed.push((path.clone(), error.kind(), error.to_string())),
        }
    }
    listing
}

/// The files behind a path. Of a directory those whose names end in `.yaml`, `.yml` or `.json` and do not begin with a dot, and none
/// of the directories in it: as `kubectl apply -f` has it.
fn entries(path: &Path) -> io::Result<Vec<Listed>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![Listed { path: path.to_owned(), is_link: path.is_symlink() }]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if !is_document(&entry.file_name()) || kind.is_dir() {
            continue;
        }
        let listed = Listed { path: entry.path(), is_link: kind.is_symlink() };
        // A link to a directory is none of ours, and one that leads nowhere is a file that is not there.
        let leads = match listed.is_link.then(|| fs::metadata(&listed.path)).transpose() {
            Ok(None) => true,
            Ok(Some(meta)) => !meta.is_dir(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if leads {
            files.push(listed);
        }
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_document(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Reads a file of at most so many octets; `None`: it has more.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Option<(Stamp, Vec<u8>)>> {
    // A FIFO would wait for somebody to write.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= most).then_some((Stamp::new(&meta), content)))
}

/// The directories whose events tell of every change of these paths: those that hold them, those that they are, and those in which a
/// symbolic link on the way could be turned.
pub(super) fn directories<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for path in paths {
        follow(path, &mut found);
    }
    found.into_iter().collect()
}

/// As many links as Linux follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

fn follow(path: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut rest: Vec<PathBuf> = steps(path);
    let mut here = PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let mut links = 0;
    // What is written is watched as it is written, so that events carry the names that are known here.
    if let Some(parent) = path.parent() {
        found.insert(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() });
    }
    while let Some(step) = rest.pop() {
        if step.as_os_str() == "/" {
            here = PathBuf::from("/");
            continue;
        }
        let next = here.join(&step);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                found.insert(here.clone());
                links += 1;
                let Ok(target) = fs::read_link(&next) else { return };
                if links > MAX_LINKS {
                    return;
                }
                rest.extend(steps(&target));
            }
            Ok(_) => here = next,
            // It may come: then its name appears here.
            Err(_) => {
                found.insert(here);
                return;
            }
        }
    }
    if let Some(parent) = here.parent() {
        found.insert(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() });
    }
    if path.is_dir() {
        found.insert(path.to_owned());
    }
}

/// The steps of a path, the last one first.
fn steps(path: &Path) -> Vec<PathBuf> {
    let steps = path.components().filter(|component| *component != Component::CurDir);
    let mut steps: Vec<PathBuf> = steps.map(|component| PathBuf::from(component.as_os_str())).collect();
    steps.reverse();
    steps
}
