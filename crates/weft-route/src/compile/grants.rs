//! Who may refer to what in another namespace.

use std::collections::HashMap;

use weft_resource::policy::ReferenceGrantSpec;
use weft_resource::{Resource, ResourceId, ResourceSet};

/// The grants by namespace.
pub(super) struct Grants<'a> {
    by_namespace: HashMap<&'a str, Vec<&'a ReferenceGrantSpec>>,
}

impl<'a> Grants<'a> {
    pub(super) fn new(set: &'a ResourceSet) -> Self {
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for (resource, spec) in set.grants() {
            by_namespace.entry(&resource.id.namespace).or_default().push(spec);
        }
        Self { by_namespace }
    }

    /// Whether a resource may refer to another: it is in its own namespace, or one in the other's namespace grants it.
    pub(super) fn allow(&self, from: &Resource, to: &ResourceId) -> bool {
        from.id.namespace == to.namespace
            || self.by_namespace.get(&*to.namespace).into_iter().flatten().any(|grant| {
                grant.from.iter().any(|granted| {
                    granted.group == from.id.kind.group()
                        && granted.kind == from.id.kind.as_str()
                        && *granted.namespace == *from.id.namespace
                }) && grant.to.iter().any(|granted| {
                    granted.group == to.kind.group()
                        && granted.kind == to.kind.as_str()
                        && granted.name.as_deref().is_none_or(|name| *name == *to.name)
                })
            })
    }
}

/// What to write so that a reference is granted.
pub(super) fn cure(from: &Resource, to: &ResourceId) -> String {
    let group = |group: &str| format!("group: \"{group}\"");
    format!(
        "add a ReferenceGrant to namespace {} with from: [{{{}, kind: {}, namespace: {}}}] and to: [{{{}, kind: {}, name: {}}}]",
        to.namespace,
        group(from.id.kind.group()),
        from.id.kind,
        from.id.namespace,
        group(to.kind.group()),
        to.kind,
        to.name
    )
}
