//! Names and labels.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::Values;
// Who removes an object; on the namespace, that Weft made it.
use crate::names::INJECT_LABEL;
pub(super) use crate::names::{CONTROL, MANAGED_BY, WEFT};

/// The version of the program, and of the image unless a tag is given.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Uid and gid of the control part.
pub(super) const USER: i64 = 2102;

/// What is installed, and where.
#[derive(Clone, Copy)]
pub(super) struct Install<'a> {
    pub(super) values: &'a Values,
    pub(super) namespace: &'a str,
}

/// A map of texts.
pub(super) fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Labels that select the pods of `weft control`; they never change.
pub(super) fn selector_labels() -> BTreeMap<String, String> {
    texts([("app.kubernetes.io/name", "weft"), ("app.kubernetes.io/component", "control")])
}

/// The same as a selector.
pub(super) fn selector() -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels()), match_expressions: None }
}

impl Install<'_> {
    /// Metadata of an object without a namespace.
    pub(super) fn cluster_meta(&self, name: &str) -> ObjectMeta {
        let mut labels = selector_labels();
        labels.extend(texts([
            ("app.kubernetes.io/part-of", "weft"),
            ("app.kubernetes.io/version", VERSION),
            (MANAGED_BY, WEFT),
        ]));
        ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() }
    }

    /// Metadata of an object in Weft's namespace.
    pub(super) fn meta(&self, name: &str) -> ObjectMeta {
        ObjectMeta { namespace: Some(self.namespace.to_owned()), ..self.cluster_meta(name) }
    }

    /// Weft's own namespace: never injected, and as restricted as there is.
    pub(super) fn own_namespace(&self) -> Namespace {
        let mut meta = self.cluster_meta(self.namespace);
        let labels = meta.labels.get_or_insert_default();
        labels.remove("app.kubernetes.io/component");
        labels.extend(texts([
            (INJECT_LABEL, "disabled"),
            ("pod-security.kubernetes.io/enforce", "restricted"),
        ]));
        Namespace { metadata: meta, ..Default::default() }
    }

    /// The image: a digest wins over the tag.
    pub(super) fn image(&self) -> String {
        let image = &self.values.image;
        match (image.digest.as_str(), image.tag.as_str()) {
            ("", "") => format!("{}:{VERSION}", image.repository),
            ("", tag) => format!("{}:{tag}", image.repository),
            (digest, _) => format!("{}@{digest}", image.repository),
        }
    }
}
