//! The PEM files that `Certificate`s name.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::scan::{self, Stamp};
use crate::error::{DocumentError, ErrorKind};
use crate::own::{CertificateContent, CertificatePair, CertificateSpec};
use crate::{Resource, ResourceId, Source, Spec, document, pem};

/// A chain of certificates is a few KiB, a bundle of the machine's authorities 250 KiB.
const MAX_PEM: u64 = 4 << 20;

/// What was read for the `Certificate`s that there are.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    read: BTreeMap<ResourceId, Read>,
}

#[derive(Debug)]
struct Read {
    /// The resource as its document has it.
    said: Arc<Resource>,
    /// Its files as they were.
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    /// The same with the content of the files; the last good one where they are broken.
    resource: Arc<Resource>,
    errors: Vec<DocumentError>,
}

impl Certificates {
    /// The resource with the content of its files.
    pub(super) fn resolve(
        &mut self,
        said: &Arc<Resource>,
        spec: &CertificateSpec,
        at: impl FnOnce() -> Source,
    ) -> Arc<Resource> {
        let files = files(&said.source.path, spec);
        let stamp = |path: &PathBuf| (path.clone(), Stamp::of(path).ok());
        let stamps: Vec<(PathBuf, Option<Stamp>)> = files.iter().map(stamp).collect();
        let before = self.read.remove(&said.id);
        if let Some(read) =
            before.as_ref().filter(|read| read.said.hash == said.hash && read.stamps == stamps)
        {
            let resource = read.resource.clone();
            self.read.extend(before.map(|read| (said.id.clone(), read)));
            return resource;
        }
        let (content, errors) = content(said, spec, &at());
        let last = before.map(|read| read.resource);
        let resource = match (errors.is_empty(), last) {
            (false, Some(last)) => last,
            (_, last) => filled(said, spec, content, last),
        };
        let read = Read { said: said.clone(), stamps, resource: resource.clone(), errors };
        self.read.insert(said.id.clone(), read);
        resource
    }

    /// Forgets those that are no more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&ResourceId) -> bool) {
        self.read.retain(|id, _| is_there(id));
    }

    /// The files to watch.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.read.values().flat_map(|read| read.stamps.iter().map(|(path, _)| path.as_path()))
    }

    /// All that is wrong with them.
    pub(super) fn errors(&self) -> impl Iterator<Item = DocumentError> {
        self.read.values().flat_map(|read| read.errors.iter().cloned())
    }
}

/// The resource with this content; the one of before where it is the same.
fn filled(
    said: &Arc<Resource>,
    spec: &CertificateSpec,
    content: CertificateContent,
    last: Option<Arc<Resource>>,
) -> Arc<Resource> {
    let spec = Spec::Certificate(CertificateSpec { content, ..spec.clone() });
    if let Some(last) = last
        && last.spec == spec
        && last.meta == said.meta
        && last.source.path == said.source.path
    {
        return last;
    }
    let mut hasher = document::hasher();
    said.hash.hash(&mut hasher);
    if let Spec::Certificate(CertificateSpec { content, .. }) = &spec {
        content.pair.as_ref().map(|pair| (&pair.chain, &pair.key)).hash(&mut hasher);
        content.roots.hash(&mut hasher);
    }
    let hash = hasher.finish();
    Arc::new(Resource { hash, spec, ..Resource::clone(said) })
}

/// The files that it names, relative to that of its document.
fn files(document: &Path, spec: &CertificateSpec) -> Vec<PathBuf> {
    let named = [&spec.certificate_file, &spec.key_file, &spec.ca_file];
    named.into_iter().flatten().map(|file| beside(document, file)).collect()
}

fn beside(document: &Path, file: &Path) -> PathBuf {
    document.parent().unwrap_or(Path::new("")).join(file)
}

/// What the files of a `Certificate` have, and what is wrong with them; a part that is wrong is left out.
fn content(said: &Resource, spec: &CertificateSpec, at: &Source) -> (CertificateContent, Vec<DocumentError>) {
    let (mut content, mut errors) = (CertificateContent::default(), Vec::new());
    let mut tell = |field: &str, file: &Path, reason: String| {
        errors.push(DocumentError {
            kind: ErrorKind::Certificate,
            path: at.path.clone(),
            line: at.line,
            column: 1,
            resource: Some(said.id.clone()),
            field: format!("spec.{field}"),
            reason: format!("{}: {reason}", file.display()),
            cure: String::new(),
        });
    };
    let mut read = |field: &str, file: &Option<PathBuf>| {
        let file = beside(&said.source.path, file.as_ref()?);
        match scan::read(&file, MAX_PEM) {
            Ok(Some((_, octets))) => Some((file, octets)),
            Ok(None) => {
                tell(field, &file, format!("the file has more than {} MiB", MAX_PEM >> 20));
                None
            }
            Err(error) => {
                tell(field, &file, format!("the file cannot be read: {error}"));
                None
            }
        }
    };
    let chain = read("certificateFile", &spec.certificate_file);
    let key = read("keyFile", &spec.key_file);
    let roots = read("caFile", &spec.ca_file);
    if let (Some((file, chain)), Some((_, key))) = (chain, key) {
        match pem::check_pair(&chain, &key) {
            Ok(()) => content.pair = Some(Arc::new(CertificatePair { chain, key })),
            Err(reason) => tell("certificateFile", &file, reason),
        }
    }
    if let Some((file, roots)) = roots {
        match pem::check_roots(&roots) {
            Ok(()) => content.roots = Some(roots.into()),
            Err(reason) => tell("caFile", &file, reason),
        }
    }
    (content, errors)
}
