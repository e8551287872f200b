//! What is to be said of resources, collected.

use weft_resource::Resource;

use super::{Note, Severity};

/// Notes as they come up.
#[derive(Default)]
pub(super) struct Notes {
    list: Vec<Note>,
}

impl Notes {
    /// Something does not work.
    pub(super) fn error(
        &mut self,
        resource: &Resource,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.add(Severity::Error, resource, field.into(), reason, message.into(), cure.into());
    }

    /// Something is odd.
    pub(super) fn warning(
        &mut self,
        resource: &Resource,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.add(Severity::Warning, resource, field.into(), reason, message.into(), cure.into());
    }

    fn add(
        &mut self,
        severity: Severity,
        resource: &Resource,
        field: String,
        reason: &'static str,
        message: String,
        cure: String,
    ) {
        self.list.push(Note { resource: resource.id.clone(), severity, field, reason, message, cure });
    }

    /// All of them by resource, each once: a route that hangs on two gateways is compiled for each.
    pub(super) fn into_list(self) -> Vec<Note> {
        let mut list = self.list;
        list.sort_by(|a, b| a.resource.cmp(&b.resource));
        let mut seen = std::collections::HashSet::new();
        list.retain(|note| seen.insert(note.clone()));
        list
    }
}
