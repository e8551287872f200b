//! What happens in directories, by name.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// What happened since the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Names that changed: written to the end, moved here or away, deleted, linked.
    pub(super) changed: Vec<PathBuf>,
    /// Files that somebody began to write and has not closed since.
    pub(super) begun: Vec<PathBuf>,
    /// Events were lost, or a directory itself went: look at everything.
    pub(super) all: bool,
}

impl Seen {
    /// Takes in what happened after it.
    pub(super) fn then(&mut self, later: Self) {
        self.begun.retain(|path| !later.changed.contains(path));
        self.changed.extend(later.changed);
        self.begun.extend(later.begun);
        self.all |= later.all;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.begun.is_empty() && !self.all
    }
}

/// Watches directories.
pub(super) struct Events {
    fd: AsyncFd<OwnedFd>,
    /// The paths by which a directory is known here: several may lead to it.
    directories: HashMap<i32, Vec<PathBuf>>,
}

impl Events {
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, whose descriptor never changes; `register` is unsafe"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, directories: HashMap::new() })
    }

    /// Watches these directories and no others. Whether a directory was not watched before, so that something may have happened
    /// in it unseen.
    pub(super) fn set(&mut self, wanted: &[PathBuf]) -> bool {
        // No OPEN and ACCESS: our own reading must not wake us. MODIFY tells of a writer who has the file open: it is read when
        // that one has closed it.
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut directories: HashMap<i32, Vec<PathBuf>> = HashMap::new();
        for directory in wanted {
            match inotify::add_watch(self.fd.get_ref(), directory, flags) {
                Ok(watch) => {
                    let paths = directories.entry(watch).or_default();
                    if !paths.contains(directory) {
                        paths.push(directory.clone());
                    }
                }
                // It went while we looked; its parent is watched and will tell when it is back.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(error) => {
                    tracing::debug!(%error, path = %directory.display(), "cannot watch a directory of resources");
                }
            }
        }
        for watch in self.directories.keys().filter(|watch| !directories.contains_key(watch)) {
            // A directory that is gone took its watch along.
            let _ = inotify::remove_watch(self.fd.get_ref(), *watch);
        }
        let is_new = directories.iter().any(|(watch, paths)| self.directories.get(watch) != Some(paths));
        self.directories = directories;
        is_new
    }

    /// Waits until something happens.
    pub(super) async fn ready(&self) {
        match self.fd.readable().await {
            // The flag is cleared by the next look, which reads until there is nothing more.
            Ok(_) => {}
            // Only when the runtime shuts down.
            Err(_) => std::future::pending().await,
        }
    }

    /// What happened.
    pub(super) fn take(&self) -> Seen {
        let mut seen = Seen::default();
        let _ = self.fd.try_io(tokio::io::Interest::READABLE, |fd| Err::<(), _>(self.read(fd, &mut seen)));
        seen
    }

    /// The same for a thread that cannot wait until the runtime has seen that something is there.
    pub(super) fn late(&self) -> Seen {
        let mut seen = Seen::default();
        self.read(self.fd.get_ref(), &mut seen);
        seen
    }

    /// Reads until there is nothing more, or nothing can be read.
    fn read(&self, fd: &OwnedFd, seen: &mut Seen) -> io::Error {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => self.note(&event, seen),
                Err(error) => return error.into(),
            }
        }
    }

    fn note(&self, event: &inotify::Event<'_>, seen: &mut Seen) {
        let kind = event.events();
        if kind.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            seen.all = true;
        }
        let (Some(name), Some(directories)) = (event.file_name(), self.directories.get(&event.wd())) else {
            return;
        };
        for directory in directories {
            let path = directory.join(Path::new(OsStr::from_bytes(name.to_bytes())));
            seen.begun.retain(|begun| *begun != path);
            if kind.contains(ReadFlags::MODIFY) {
                seen.begun.push(path);
                continue;
            }
            if kind.contains(ReadFlags::CREATE) && !kind.contains(ReadFlags::ISDIR) {
                seen.begun.push(path.clone());
            }
            seen.changed.push(path);
        }
    }
}
