//! Which of two resources comes first: the older, then the first by name (the Gateway API's rule for conflicts).

use std::cmp::Ordering;
use std::time::SystemTime;

use weft_resource::{Resource, ResourceId};

/// When a resource was made. The older is the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// At this time.
    Since(SystemTime),
    /// It does not say: younger than every other.
    Unknown,
}

impl Age {
    /// Of a resource. What cannot be read as a time counts as nothing said.
    pub fn of(resource: &Resource) -> Self {
        resource.meta.creation_timestamp.as_deref().map_or(Self::Unknown, Self::read)
    }

    /// Of a time of RFC 3339 in UTC, as Kubernetes writes it.
    pub(crate) fn read(text: &str) -> Self {
        humantime::parse_rfc3339(text).map_or(Self::Unknown, Self::Since)
    }
}

/// The older first, then by name.
pub(crate) fn by_precedence(a: &Resource, b: &Resource) -> Ordering {
    Age::of(a).cmp(&Age::of(b)).then_with(|| by_name(&a.id, &b.id))
}

/// In alphabetical order of `{namespace}/{name}`, as one text: `a-b/x` comes before `a/x`. The kind decides last.
pub(crate) fn by_name(a: &ResourceId, b: &ResourceId) -> Ordering {
    let a_text = a.namespace.bytes().chain([b'/']).chain(a.name.bytes());
    let b_text = b.namespace.bytes().chain([b'/']).chain(b.name.bytes());
    a_text.cmp(b_text).then_with(|| a.kind.cmp(&b.kind))
}

#[cfg(test)]
mod tests {
    use weft_resource::Kind;

    use super::*;

    #[test]
    fn the_older_is_less_and_the_unknown_most() {
        let (old, young) = (Age::read("2024-01-01T00:00:00Z"), Age::read("2024-01-01T00:00:00.5Z"));
        assert!(old < young && young < Age::Unknown);
        assert_eq!(Age::read("yesterday"), Age::Unknown);
    }

    #[test]
    fn names_are_compared_as_one_text() {
        let id = |namespace: &str, name: &str| ResourceId::new(Kind::HttpRoute, namespace, name);
        assert_eq!(by_name(&id("a-b", "x"), &id("a", "x")), Ordering::Less);
        assert_eq!(by_name(&id("a", "x"), &id("a", "y")), Ordering::Less);
        assert_eq!(by_name(&id("a", "x"), &id("a", "x")), Ordering::Equal);
    }
}
