//! Header changes.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that are set, added and taken out, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

impl HeaderChanges {
    /// These changes.
    pub fn new(
        set: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        add: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        remove: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        Self {
            set: set.into_iter().collect(),
            add: add.into_iter().collect(),
            remove: remove.into_iter().collect(),
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// What takes the place of what there is.
    pub fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }

    /// What is added.
    pub fn add(&self) -> &[(HeaderName, HeaderValue)] {
        &self.add
    }

    /// What is taken out.
    pub fn remove(&self) -> &[HeaderName] {
        &self.remove
    }

    /// Changes headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}
