//! One mapping with `apiVersion` and `kind`, to a resource or to what is wrong with it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use weft_config::nearest;
use weft_config::tree::{Node, Scalar, Value};

use super::fault::Inner;
use super::reader::{Hidden, Reader};
use super::{place, position, push_key};
use crate::core_kinds::{ConfigMap, NamespaceSpec, RawConfigMap, RawSecret, Secret};
use crate::error::{ErrorKind, Mistake};
use crate::{Kind, ObjectMeta, ResourceId, Spec, check};

/// What was found under one `kind`.
#[derive(Debug)]
pub(crate) struct Item {
    /// The line on which it begins, from 1, within its document.
    pub(crate) line: u32,
    /// Which it is, as far as that could be read.
    pub(crate) id: Option<ResourceId>,
    /// What it says, or what is wrong with it.
    pub(crate) body: Result<Body, Vec<Mistake>>,
}

/// A resource without its place.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) id: ResourceId,
    pub(crate) meta: ObjectMeta,
    pub(crate) hash: u64,
    pub(crate) spec: Spec,
}

/// So many mistakes of one resource are told; who sees them will look at the rest all the same.
const MAX_MISTAKES: usize = 20;

/// The resources of a document.
pub(crate) fn items(root: &Node) -> Vec<Item> {
    nodes(root).into_iter().map(|(node, path)| item(node, &path)).collect()
}

/// The nodes that are resources, each with its path: the document's root, or what its `List` has.
pub(crate) fn nodes(root: &Node) -> Vec<(&Node, String)> {
    let is_list = text(root, "kind") == Some("List") && text(root, "apiVersion") == Some("v1");
    match entry(root, "items").map(|items| &items.value) {
        Some(Value::List(items)) if is_list => {
            items.iter().enumerate().map(|(index, node)| (node, format!("items[{index}]"))).collect()
        }
        None | Some(Value::Scalar(Scalar::Null)) if is_list => Vec::new(),
        _ => vec![(root, String::new())],
    }
}

/// Which resource a node is; it may be wrong in all else.
pub(crate) fn id(node: &Node) -> Option<ResourceId> {
    let kind = Kind::of(text(node, "apiVersion")?, text(node, "kind")?)?;
    let meta = entry(node, "metadata")?;
    let namespace = match kind {
        Kind::Namespace => "",
        _ => text(meta, "namespace").unwrap_or(DEFAULT_NAMESPACE),
    };
    Some(ResourceId::new(kind, namespace, text(meta, "name")?))
}

/// What Kubernetes takes for a namespace that is not written.
const DEFAULT_NAMESPACE: &str = "default";

fn item(node: &Node, path: &str) -> Item {
    let (line, _) = place(&node.origin);
    let id = id(node);
    let mut mistakes = Mistakes { root: node, path, list: Vec::new() };
    let body = body(node, id.as_ref(), &mut mistakes);
    let mut list = mistakes.list;
    let body = match body {
        Some(body) if list.is_empty() => Ok(body),
        _ => {
            list.sort_by_key(|mistake| (mistake.line, mistake.column));
            Err(list)
        }
    };
    Item { line, id, body }
}

/// `None`: a mistake was told.
fn body(node: &Node, id: Option<&ResourceId>, mistakes: &mut Mistakes<'_>) -> Option<Body> {
    let kind = kind(node, mistakes)?;
    let (meta, spec) = whole(kind, node, mistakes)?;
    let id = id.cloned()?;
    let api_version = text(node, "apiVersion").unwrap_or_default();
    let version = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
    for finding in check::meta(&id, &meta).into_iter().chain(check::spec(&spec, version)) {
        mistakes.found(finding);
    }
    let hash = hash(&id, &meta, node);
    Some(Body { id, meta, hash, spec })
}

/// The mistakes of one resource as they are found.
struct Mistakes<'n> {
    root: &'n Node,
    /// The path of the root in its document.
    path: &'n str,
    list: Vec<Mistake>,
}

impl Mistakes<'_> {
    fn at_node(&mut self, kind: ErrorKind, node: &Node, field: &str, reason: String, cure: String) {
        let (line, column) = place(&node.origin);
        let mut path = self.path.to_owned();
        if !field.is_empty() {
            push_key(&mut path, field);
        }
        self.list.push(Mistake { kind, line, column, field: path, reason, cure });
    }

    fn found(&mut self, finding: check::Finding) {
        let (line, column) = position(self.root, &finding.field);
        let dot = if self.path.is_empty() || finding.field.is_empty() { "" } else { "." };
        let field = format!("{}{dot}{}", self.path, finding.field);
        let check::Finding { kind, reason, cure, .. } = finding;
        self.list.push(Mistake { kind, line, column, field, reason, cure });
    }

    fn fault(&mut self, fault: Inner) {
        let (line, column) = fault.place.map_or((1, 1), |place| (place.line, place.column));
        let field = fault.field(self.path);
        self.list.push(Mistake {
            kind: fault.kind,
            line,
            column,
            field,
            reason: fault.reason,
            cure: fault.cure,
        });
    }
}

/// The kind, or what is wrong with `apiVersion` and `kind`.
fn kind(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Kind> {
    if !matches!(node.value, Value::Map(_)) {
        let reason = format!("this is {}, not a resource", node.value.kind());
        let cure = "a document is a mapping with `apiVersion`, `kind` and `metadata`";
        mistakes.at_node(ErrorKind::WrongType, node, "", reason, cure.to_owned());
        return None;
    }
    let mut texts = ["apiVersion", "kind"].into_iter().map(|field| match entry(node, field) {
        Some(Node { value: Value::Scalar(Scalar::Str(text)), .. }) => Some(text.as_str()),
        Some(Node { value: Value::Scalar(Scalar::Null), .. }) | None => {
            let cure = "every document names its apiVersion and its kind".to_owned();
            mistakes.at_node(ErrorKind::Missing, node, field, "this field is missing".to_owned(), cure);
            None
        }
        Some(other) => {
            let reason = format!("this is {}, not a text", other.value.kind());
            mistakes.at_node(ErrorKind::WrongType, other, field, reason, "write it in quotes".to_owned());
            None
        }
    });
    let (version, name) = (texts.next().flatten(), texts.next().flatten());
    let (version, name) = (version?, name?);
    if let Some(kind) = Kind::of(version, name) {
        return Some(kind);
    }
    let same_kind = Kind::ALL.iter().find(|known| known.as_str() == name);
    let (field, reason, cure) = match same_kind {
        Some(known) => {
            ("apiVersion", format!("`{version}` has no {known} that is read here"), versions(*known))
        }
        None => {
            let names: Vec<&str> = Kind::ALL.iter().map(|known| known.as_str()).collect();
            let cure = match nearest(name, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the kinds are {}", names.join(", ")),
            };
            ("kind", format!("there is no kind `{name}` here"), cure)
        }
    };
    let at = entry(node, field).unwrap_or(node);
    mistakes.at_node(ErrorKind::UnknownKind, at, field, reason, cure);
    None
}

fn versions(kind: Kind) -> String {
    let group = if kind.group().is_empty() { String::new() } else { format!("{}/", kind.group()) };
    let all: Vec<String> = kind.versions().iter().map(|version| format!("`{group}{version}`")).collect();
    format!("write {}", all.join(" or "))
}

/// A resource with its `spec`, whole. What Kubernetes adds (`status`) is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "S: DeserializeOwned")]
struct Whole<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: ObjectMeta,
    spec: S,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// The same for a kind whose fields stand beside `metadata`.
macro_rules! flat {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct $name {
            #[serde(rename = "apiVersion")]
            _api_version: IgnoredAny,
            #[serde(rename = "kind")]
            _kind: IgnoredAny,
            metadata: ObjectMeta,
            $($(#[$attribute])* $field: $type,)*
            #[serde(rename = "status")]
            _status: Option<IgnoredAny>,
        }
    };
}

flat!(WholeSecret {
    #[serde(rename = "type")]
    kind: Option<String>,
    data: Option<RawSecret>,
    string_data: Option<crate::core_kinds::SecretTexts>,
    #[serde(rename = "immutable")]
    _immutable: Option<bool>,
});
flat!(WholeConfigMap {
    data: Option<std::collections::BTreeMap<String, String>>,
    binary_data: Option<RawConfigMap>,
    #[serde(rename = "immutable")]
    _immutable: Option<bool>,
});
flat!(WholeNamespace {
    #[serde(rename = "spec")]
    _spec: Option<IgnoredAny>,
});

fn whole(kind: Kind, node: &Node, mistakes: &mut Mistakes<'_>) -> Option<(ObjectMeta, Spec)> {
    fn of<S: DeserializeOwned>(
        node: &Node,
        mistakes: &mut Mistakes<'_>,
        spec: fn(S) -> Spec,
    ) -> Option<(ObjectMeta, Spec)> {
        read::<Whole<S>>(node, mistakes).map(|whole| (whole.metadata, spec(whole.spec)))
    }
    match kind {
        Kind::Gateway => of(node, mistakes, Spec::Gateway),
        Kind::HttpRoute => of(node, mistakes, Spec::HttpRoute),
        Kind::GrpcRoute => of(node, mistakes, Spec::GrpcRoute),
        Kind::TlsRoute => of(node, mistakes, Spec::TlsRoute),
        Kind::TcpRoute => of(node, mistakes, Spec::TcpRoute),
        Kind::ReferenceGrant => of(node, mistakes, Spec::ReferenceGrant),
        Kind::BackendTlsPolicy => of(node, mistakes, Spec::BackendTlsPolicy),
        Kind::Service => of(node, mistakes, Spec::Service),
        Kind::Backend => of(node, mistakes, Spec::Backend),
        Kind::Certificate => of(node, mistakes, Spec::Certificate),
        Kind::Secret => {
            let raw: WholeSecret = read(node, mistakes)?;
            Some((raw.metadata, Spec::Secret(Secret::of(raw.kind, raw.data, raw.string_data))))
        }
        Kind::ConfigMap => {
            let raw: WholeConfigMap = read(node, mistakes)?;
            Some((raw.metadata, Spec::ConfigMap(ConfigMap::of(raw.data, raw.binary_data))))
        }
        Kind::Namespace => {
            let raw: WholeNamespace = read(node, mistakes)?;
            Some((raw.metadata, Spec::Namespace(NamespaceSpec)))
        }
    }
}

/// Reads a type, and where it cannot be read tells all that is wrong: the node that is refused is hidden, and the rest read again.
fn read<T: DeserializeOwned>(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<T> {
    let mut hidden = Hidden::new();
    loop {
        let fault = match T::deserialize(Reader { node, hidden: &hidden }) {
            Ok(value) => return hidden.is_empty().then_some(value),
            Err(fault) => fault.inner(),
        };
        let at = fault.place.map_or(super::address(node), |place| place.node);
        // What is missing, or does not fit together, only because a part of it was hidden is no mistake of its own.
        let follows = find(node, at).is_some_and(|refused| has_hidden(refused, &hidden));
        if !follows {
            mistakes.fault(fault);
        }
        let is_end = at == super::address(node) || !hidden.insert(at);
        // Each hidden node may bring its parents along, once.
        if is_end || mistakes.list.len() >= MAX_MISTAKES || hidden.len() > 4 * MAX_MISTAKES {
            return None;
        }
    }
}

fn find(node: &Node, address: usize) -> Option<&Node> {
    if super::address(node) == address {
        return Some(node);
    }
    children(node).find_map(|child| find(child, address))
}

fn has_hidden(node: &Node, hidden: &Hidden) -> bool {
    children(node).any(|child| hidden.contains(&super::address(child)) || has_hidden(child, hidden))
}

fn children(node: &Node) -> impl Iterator<Item = &Node> {
    let (items, entries) = match &node.value {
        Value::List(items) => (items.as_slice(), [].as_slice()),
        Value::Map(entries) => ([].as_slice(), entries.as_slice()),
        Value::Scalar(_) => ([].as_slice(), [].as_slice()),
    };
    items.iter().chain(entries.iter().map(|(.., value)| value))
}

fn entry<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, ..)| key == name).map(|(.., value)| value)
}

fn text<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    match &entry(node, name)?.value {
        Value::Scalar(Scalar::Str(text)) => Some(text),
        _ => None,
    }
}

/// Of this process: a hash of a secret must not be one that others can compute.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A hasher whose results compare within this process.
pub(crate) fn hasher() -> impl Hasher {
    HASHER.build_hasher()
}

/// Of what a resource says. Position, order of fields, comments, the version of the API, `status` and what else Kubernetes notes in
/// `metadata` are not part of it.
fn hash(id: &ResourceId, meta: &ObjectMeta, node: &Node) -> u64 {
    let mut hasher = hasher();
    id.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    meta.annotations.hash(&mut hasher);
    meta.creation_timestamp.hash(&mut hasher);
    if let Value::Map(entries) = &node.value {
        let said = entries
            .iter()
            .filter(|(key, ..)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        hash_entries(said.map(|(key, _, value)| (key.as_str(), value)).collect(), &mut hasher);
    }
    hasher.finish()
}

fn hash_entries(mut entries: Vec<(&str, &Node)>, hasher: &mut impl Hasher) {
    entries.retain(|(_, value)| !matches!(value.value, Value::Scalar(Scalar::Null)));
    entries.sort_by_key(|(key, _)| *key);
    hasher.write_usize(entries.len());
    for (key, value) in entries {
        key.hash(hasher);
        hash_node(value, hasher);
    }
}

fn hash_node(node: &Node, hasher: &mut impl Hasher) {
    match &node.value {
        Value::Scalar(Scalar::Null) => hasher.write_u8(0),
        Value::Scalar(Scalar::Bool(value)) => (1, value).hash(hasher),
        Value::Scalar(Scalar::Int(value)) => (2, value).hash(hasher),
        Value::Scalar(Scalar::Float(value)) => (3, value.to_bits()).hash(hasher),
        Value::Scalar(Scalar::Str(text) | Scalar::Text(text)) => (4, text).hash(hasher),
        Value::List(items) => {
            (5, items.len()).hash(hasher);
            items.iter().for_each(|item| hash_node(item, hasher));
        }
        Value::Map(entries) => {
            hasher.write_u8(6);
            hash_entries(entries.iter().map(|(key, _, value)| (key.as_str(), value)).collect(), hasher);
        }
    }
}
