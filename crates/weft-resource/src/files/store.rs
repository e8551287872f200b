//! All files together: what is in force of them, and what is wrong with them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::certificates::Certificates;
use super::inotify::Seen;
use super::scan::{self, Listed, Stamp};
use super::text::{Given, TextFile, duplicate};
use crate::document::MAX_FILE;
use crate::error::{DocumentError, ErrorKind};
use crate::{Resource, ResourceId, ResourceSet, Source, Spec};

/// Why files are looked at.
#[derive(Debug)]
pub(super) enum Look {
    /// Something happened to these.
    Events(Seen),
    /// At the start: everything is read.
    Start,
    /// It is time: what is different and quiet is read.
    Poll,
}

/// The same, as it is for a file that nothing was said of.
#[derive(Clone, Copy, Debug)]
enum Reason {
    Event,
    Start,
    Different,
    Poll,
}

/// The files and what they give.
#[derive(Debug)]
pub(super) struct Store {
    paths: Vec<PathBuf>,
    files: HashMap<PathBuf, Known>,
    /// The files in the order in which they count.
    order: Vec<Listed>,
    /// Files that somebody began to write: they are read when they are closed.
    begun: HashSet<PathBuf>,
    /// What happened while files were read, for the next look.
    late: Seen,
    failed: Vec<DocumentError>,
    certificates: Certificates,
    set: Arc<ResourceSet>,
}

#[derive(Debug)]
struct Known {
    stamp: Option<Stamp>,
    text: TextFile,
    /// It was not there at the last look; it goes when it is not there at the next either.
    is_missing: bool,
}

impl Store {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            files: HashMap::new(),
            order: Vec::new(),
            begun: HashSet::new(),
            late: Seen::default(),
            failed: Vec::new(),
            certificates: Certificates::default(),
            set: Arc::default(),
        }
    }

    /// Looks at the files. Whether another look is due soon: one is missing that was there, as editors move a file away before they
    /// write it anew; or something happened meanwhile. `late` tells of that.
    pub(super) fn look(&mut self, look: Look, late: &dyn Fn() -> Seen) -> bool {
        let mut seen = std::mem::take(&mut self.late);
        let reason = match look {
            Look::Events(events) => {
                seen.then(events);
                if seen.all { Reason::Different } else { Reason::Event }
            }
            Look::Start => Reason::Start,
            Look::Poll => {
                // Whoever began to write and closed it, did so unseen.
                self.begun.retain(|path| Stamp::of(path).is_ok_and(|stamp| !stamp.is_settled()));
                Reason::Poll
            }
        };
        for path in &seen.changed {
            self.begun.remove(path);
        }
        self.begun.extend(seen.begun);
        let mut listing = scan::list(&self.paths);
        let changed = Names::of(seen.changed);
        let begun = Names::of(self.begun.iter().cloned());
        for file in &listing.files {
            if self.is_due(file, &changed, &begun, reason) {
                self.read(file, late);
            }
        }
        let is_gone_soon = self.forget(&mut listing);
        self.order = listing.files;
        self.failed =
            listing.failed.iter().map(|(path, kind, reason)| unreadable(path, *kind, reason)).collect();
        self.merge();
        is_gone_soon || !self.late.is_empty()
    }

    /// Whether a file is to be read now. One that somebody is writing is not: half of it would take the other half out of force.
    fn is_due(&self, file: &Listed, changed: &Names, begun: &Names, reason: Reason) -> bool {
        let known = self.files.get(&file.path);
        let then = known.and_then(|known| known.stamp);
        let is_changed = changed.have(file);
        // Only a link can lead elsewhere without an event that names it.
        if known.is_some()
            && then.is_some()
            && !is_changed
            && !file.is_link
            && matches!(reason, Reason::Event)
        {
            return false;
        }
        let Ok(now) = Stamp::of(&file.path) else { return true };
        // A new one that another name leads to was not just made.
        let is_known = then.is_some_and(|then| !now.is_other(&then));
        if begun.are_of(file) && (is_known || !now.is_linked()) {
            return false;
        }
        match (reason, then) {
            (Reason::Start, _) => true,
            _ if is_changed => true,
            (Reason::Different, then) => then != Some(now),
            (Reason::Event, Some(then)) => now.is_other(&then),
            (Reason::Poll, Some(then)) => now != then && (now.is_settled() || file.is_link),
            // New, or not to be read at the last look.
            (Reason::Event | Reason::Poll, None) => known.is_some() || file.is_link || now.is_settled(),
        }
    }

    fn read(&mut self, file: &Listed, late: &dyn Fn() -> Seen) {
        let path = &*file.path;
        let read = scan::read(path, MAX_FILE);
        self.late.then(late());
        // Somebody has opened it anew since it was closed, perhaps before it was read: half of it may have been there.
        if Names::of(self.late.begun.iter().cloned()).are_of(file) {
            return;
        }
        let known = self.files.entry(path.to_owned()).or_insert_with(|| Known {
            stamp: None,
            text: TextFile::new(path),
            is_missing: false,
        });
        match read {
            Ok(Some((stamp, content))) => {
                known.stamp = Some(stamp);
                known.text.update(Some(&content));
            }
            Ok(None) => {
                known.stamp = Stamp::of(path).ok();
                known.text.update(None);
            }
            // Between the listing and the reading: the next look will not list it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let reason = format!("the file cannot be read: {error}");
                let told =
                    known.text.told(ErrorKind::Unreadable, &reason, "what it gave before stays in force");
                known.text.fail(told);
                known.stamp = None;
            }
        }
    }

    /// Lets go of files that are not listed any more, except of those below what could not be listed (what the configuration names and
    /// is away was not deleted: a volume is lost, or a directory is about to be replaced), and of those that were there a moment
    /// ago: these are listed on.
    fn forget(&mut self, listing: &mut scan::Listing) -> bool {
        let listed: HashSet<&PathBuf> = listing.files.iter().map(|file| &file.path).collect();
        let stays = |path: &Path| listing.failed.iter().any(|(failed, ..)| path.starts_with(failed));
        let (mut kept, mut is_gone_soon) = (HashSet::new(), false);
        self.files.retain(|path, known| {
            if listed.contains(path) {
                known.is_missing = false;
                return true;
            }
            let first_time = !std::mem::replace(&mut known.is_missing, true);
            is_gone_soon |= first_time;
            let stays = stays(path);
            if first_time || stays {
                kept.insert(path.clone());
            }
            first_time || stays
        });
        drop(listed);
        // In the place that they had.
        let order = self.order.iter().enumerate().filter(|(_, file)| kept.contains(&file.path));
        for (place, file) in order {
            listing.files.insert(place.min(listing.files.len()), file.clone());
        }
        is_gone_soon
    }

    /// One set of what the files give: the first that gives a resource holds, and what a file says now holds before what it said.
    fn merge(&mut self) {
        let mut given: BTreeMap<&ResourceId, &Given> = BTreeMap::new();
        for fresh in [true, false] {
            for known in self.order.iter().filter_map(|file| self.files.get(&file.path)) {
                for (id, one) in known.text.given().filter(|(_, one)| one.fresh == fresh) {
                    given.entry(id).or_insert(one);
                }
            }
        }
        let mut certificates = std::mem::take(&mut self.certificates);
        certificates.retain(|id| given.contains_key(id));
        let set: ResourceSet = given
            .values()
            .map(|one| match &one.resource.spec {
                Spec::Certificate(spec) => {
                    certificates.resolve(&one.resource, spec, || self.source_in(&one.resource))
                }
                _ => one.resource.clone(),
            })
            .collect();
        self.certificates = certificates;
        if !same(&self.set, &set) {
            self.set = Arc::new(set);
        }
    }

    /// Where a resource is written now: lines above it may have come and gone since it changed itself.
    pub(super) fn source_in(&self, resource: &Resource) -> Source {
        let known = self.files.get(&*resource.source.path);
        let line = known.and_then(|known| known.text.line_of(&resource.id));
        Source { path: resource.source.path.clone(), line: line.unwrap_or(resource.source.line) }
    }

    /// What is in force.
    pub(super) fn set(&self) -> &Arc<ResourceSet> {
        &self.set
    }

    /// All that is wrong, in the order of the files.
    pub(super) fn errors(&self) -> Vec<DocumentError> {
        let mut errors = self.failed.clone();
        let mut seen: HashMap<&ResourceId, &Arc<Path>> = HashMap::new();
        for known in self.order.iter().filter_map(|file| self.files.get(&file.path)) {
            errors.extend(known.text.errors());
            for (id, given) in known.text.given().filter(|(_, given)| given.fresh) {
                match seen.get(id) {
                    None => {
                        seen.insert(id, &given.resource.source.path);
                    }
                    Some(first) => {
                        let line = self.files.get(&***first).and_then(|known| known.text.line_of(id));
                        let holds = Source { path: Arc::clone(first), line: line.unwrap_or(1) };
                        errors.push(duplicate(id, self.source_in(&given.resource), &holds));
                    }
                }
            }
        }
        errors.extend(self.certificates.errors());
        errors
    }

    /// The directories whose events tell of changes.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        // Of a file that is a symbolic link, the directory of what it leads to matters too.
        let links = self.order.iter().filter(|file| file.is_link);
        let files = links.map(|file| file.path.as_path()).chain(self.certificates.files());
        scan::directories(self.paths.iter().map(PathBuf::as_path).chain(files))
    }
}

/// Names that events have told.
struct Names {
    told: HashSet<PathBuf>,
    /// Where they lead: of a file behind a link events tell the name that it has itself. (Those of links are not in here: a link that
    /// was made says nothing of what it leads to.)
    real: HashSet<PathBuf>,
}

impl Names {
    fn of(told: impl IntoIterator<Item = PathBuf>) -> Self {
        let told: HashSet<PathBuf> = told.into_iter().collect();
        let real = told.iter().filter(|path| !path.is_symlink());
        let real = real.filter_map(|path| path.canonicalize().ok()).collect();
        Self { told, real }
    }

    /// Whether they have the name of a file, or that of what it leads to.
    fn have(&self, file: &Listed) -> bool {
        self.told.contains(&file.path) || self.are_of(file)
    }

    /// Whether they have the name of what would be read: a link itself is never half written.
    fn are_of(&self, file: &Listed) -> bool {
        match file.is_link {
            false => self.told.contains(&file.path),
            true if self.real.is_empty() => false,
            true => file.path.canonicalize().is_ok_and(|real| self.real.contains(&real)),
        }
    }
}

/// Whether two sets are made of the very same resources.
fn same(a: &ResourceSet, b: &ResourceSet) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn unreadable(path: &Path, kind: io::ErrorKind, reason: &str) -> DocumentError {
    let (reason, cure) = match kind {
        io::ErrorKind::NotFound => (
            "there is no such file or directory".to_owned(),
            "what was read of it before stays in force; it is read as soon as it is there",
        ),
        _ => (format!("it cannot be read: {reason}"), "what was read of it before stays in force"),
    };
    DocumentError {
        kind: ErrorKind::Unreadable,
        path: path.into(),
        line: 0,
        column: 0,
        resource: None,
        field: String::new(),
        reason,
        cure: cure.to_owned(),
    }
}
