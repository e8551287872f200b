//! One file: its documents, and what of them is in force.
//!
//! A document that did not change is not parsed again, so that one change among 5,000 routes in a file costs one document.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher as _;
use std::path::Path;
use std::sync::Arc;

use crate::document::{self, Item, MAX_FILE};
use crate::error::{DocumentError, ErrorKind, Mistake};
use crate::{Resource, ResourceId, Source};

/// A file as it was read last.
#[derive(Debug)]
pub(super) struct TextFile {
    path: Arc<Path>,
    documents: Vec<Document>,
    /// What is wrong with the file as a whole; its documents are then those of before.
    failed: Option<DocumentError>,
    /// What it gives, by id.
    in_force: BTreeMap<ResourceId, Given>,
}

/// A resource that a file gives.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) resource: Arc<Resource>,
    /// Whether it is what the file says now; otherwise it is the last good version.
    pub(super) fresh: bool,
}

#[derive(Debug)]
struct Document {
    /// Of its text.
    hash: u64,
    first_line: u32,
    outcomes: Arc<[Outcome]>,
}

#[derive(Debug)]
enum Outcome {
    Good { line: u32, resource: Arc<Resource> },
    Bad { id: Option<ResourceId>, mistakes: Vec<Mistake> },
}

impl TextFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into(), documents: Vec::new(), failed: None, in_force: BTreeMap::new() }
    }

    /// What it gives.
    pub(super) fn given(&self) -> impl Iterator<Item = (&ResourceId, &Given)> {
        self.in_force.iter()
    }

    /// Takes in what the file has now.
    pub(super) fn update(&mut self, content: Option<&[u8]>) {
        let Some(content) = content else { return self.fail(document::too_large(&self.path)) };
        let text = match std::str::from_utf8(content) {
            Ok(text) => text,
            Err(error) => {
                let before = content.get(..error.valid_up_to()).unwrap_or_default();
                let line = 1 + before.iter().filter(|b| **b == b'\n').count();
                let mut told = self.told(ErrorKind::Syntax, "the file is not UTF-8", "save it as UTF-8");
                told.line = u32::try_from(line).unwrap_or(u32::MAX);
                told.column = 1;
                return self.fail(told);
            }
        };
        debug_assert!(text.len() as u64 <= MAX_FILE);
        self.failed = None;
        let known: HashMap<u64, Arc<[Outcome]>> =
            self.documents.drain(..).map(|document| (document.hash, document.outcomes)).collect();
        self.documents = document::split(text)
            .map(|chunk| {
                let hash = hash(chunk.text);
                let outcomes = match known.get(&hash) {
                    Some(outcomes) => outcomes.clone(),
                    None => self.outcomes(chunk.text, chunk.first_line),
                };
                Document { hash, first_line: chunk.first_line, outcomes }
            })
            .collect();
        self.settle();
    }

    /// The file cannot be read: what it gave stays.
    pub(super) fn fail(&mut self, error: DocumentError) {
        self.failed = Some(error);
        self.in_force.values_mut().for_each(|given| given.fresh = false);
        // What it said before is no longer known to be what it says: the next look reads it all.
        self.documents.clear();
    }

    /// A mistake of the file as a whole.
    pub(super) fn told(&self, kind: ErrorKind, reason: &str, cure: &str) -> DocumentError {
        DocumentError {
            kind,
            path: self.path.clone(),
            line: 0,
            column: 0,
            resource: None,
            field: String::new(),
            reason: reason.to_owned(),
            cure: cure.to_owned(),
        }
    }

    fn outcomes(&self, text: &str, first_line: u32) -> Arc<[Outcome]> {
        document::items(text).into_iter().map(|item| self.outcome(item, first_line)).collect()
    }

    fn outcome(&self, item: Item, first_line: u32) -> Outcome {
        match item.body {
            Err(mistakes) => Outcome::Bad { id: item.id, mistakes },
            Ok(body) => {
                let before = self.in_force.get(&body.id).map(|given| &given.resource);
                let resource = match before {
                    // Written otherwise, but saying the same.
                    Some(before) if before.hash == body.hash => before.clone(),
                    _ => Arc::new(body.resource(&self.path, first_line + item.line - 1)),
                };
                Outcome::Good { line: item.line, resource }
            }
        }
    }

    /// What is in force now: what is good, and of what is broken the last good version.
    fn settle(&mut self) {
        let before = std::mem::take(&mut self.in_force);
        let mut is_unknown = false;
        for outcome in self.documents.iter().flat_map(|document| document.outcomes.iter()) {
            match outcome {
                Outcome::Good { resource, .. } => {
                    let given = Given { resource: resource.clone(), fresh: true };
                    let at = self.in_force.entry(resource.id.clone());
                    at.or_insert(given);
                }
                Outcome::Bad { id: None, .. } => is_unknown = true,
                Outcome::Bad { id: Some(_), .. } => {}
            }
        }
        let broken = |id: &ResourceId| {
            let outcomes = self.documents.iter().flat_map(|document| document.outcomes.iter());
            outcomes
                .into_iter()
                .any(|outcome| matches!(outcome, Outcome::Bad { id: Some(bad), .. } if bad == id))
        };
        for (id, given) in before {
            // A document that cannot be told from another may be any of those that are missing.
            if !self.in_force.contains_key(&id) && (is_unknown || broken(&id)) {
                self.in_force.insert(id, Given { resource: given.resource, fresh: false });
            }
        }
    }

    /// All that is wrong with it.
    pub(super) fn errors(&self) -> impl Iterator<Item = DocumentError> {
        let mut seen: HashMap<&ResourceId, u32> = HashMap::new();
        let mut errors: Vec<DocumentError> = self.failed.iter().cloned().collect();
        for document in &self.documents {
            for outcome in document.outcomes.iter() {
                match outcome {
                    Outcome::Bad { id, mistakes } => {
                        let told =
                            |mistake: &Mistake| mistake.within(&self.path, document.first_line, id.as_ref());
                        errors.extend(mistakes.iter().map(told));
                    }
                    Outcome::Good { line, resource } => {
                        let line = document.first_line + line - 1;
                        if let Some(first) = seen.get(&resource.id) {
                            let holds = Source { path: self.path.clone(), line: *first };
                            errors.push(duplicate(
                                &resource.id,
                                Source { path: self.path.clone(), line },
                                &holds,
                            ));
                        } else {
                            seen.insert(&resource.id, line);
                        }
                    }
                }
            }
        }
        errors.into_iter()
    }

    /// Where it says this resource now.
    pub(super) fn line_of(&self, id: &ResourceId) -> Option<u32> {
        self.documents.iter().find_map(|document| {
            document.outcomes.iter().find_map(|outcome| match outcome {
                Outcome::Good { line, resource } if resource.id == *id => {
                    Some(document.first_line + line - 1)
                }
                _ => None,
            })
        })
    }
}

/// A resource that is there twice.
pub(super) fn duplicate(id: &ResourceId, at: Source, holds: &Source) -> DocumentError {
    DocumentError {
        kind: ErrorKind::Duplicate,
        path: at.path,
        line: at.line,
        column: 1,
        resource: Some(id.clone()),
        field: String::new(),
        reason: format!("this resource is defined at {holds} already, and that one holds"),
        cure: "keep one".to_owned(),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = document::hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}
