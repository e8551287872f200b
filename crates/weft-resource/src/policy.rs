//! `ReferenceGrant` and `BackendTLSPolicy`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::reference::ObjectRef;
use crate::value::{PreciseHost, SectionName};

/// `spec` of a `ReferenceGrant`: whoever of `from` may refer to whatever of `to` in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantSpec {
    /// Who.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// `from[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantFrom {
    /// Empty: the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
}

/// `to[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantTo {
    /// Empty: the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// `None`: all of the kind.
    pub name: Option<String>,
}

/// `spec` of a `BackendTLSPolicy`: how the gateway speaks TLS to a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsPolicySpec {
    /// The services it is for, of its own namespace.
    pub target_refs: Vec<PolicyTarget>,
    /// How their certificates are checked.
    pub validation: BackendValidation,
    /// Options of an implementation; ours are named `weft.dev/...`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// `targetRefs[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    /// Empty: the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// One port of the service, by name.
    pub section_name: Option<SectionName>,
}

/// `validation`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendValidation {
    /// ConfigMaps or Secrets with `ca.crt`; not together with `wellKnownCACertificates`.
    #[serde(default)]
    pub ca_certificate_refs: Vec<ObjectRef>,
    /// `System`: the certificates of the machine.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known: Option<WellKnown>,
    /// The server name that is sent, and without `subjectAltNames` the name that the certificate must have.
    pub hostname: PreciseHost,
    /// Names one of which the certificate must have.
    #[serde(default)]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// `wellKnownCACertificates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum WellKnown {
    /// Those of the machine.
    System,
}

/// `subjectAltNames[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RawSubjectAltName")]
pub enum SubjectAltName {
    /// A DNS name.
    Hostname(crate::value::HostPattern),
    /// A URI, such as a SPIFFE id.
    Uri(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSubjectAltName {
    #[serde(rename = "type")]
    kind: SubjectAltNameType,
    hostname: Option<crate::value::HostPattern>,
    uri: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum SubjectAltNameType {
    Hostname,
    #[serde(rename = "URI")]
    Uri,
}

impl TryFrom<RawSubjectAltName> for SubjectAltName {
    type Error = String;

    fn try_from(raw: RawSubjectAltName) -> Result<Self, String> {
        match (raw.kind, raw.hostname, raw.uri) {
            (SubjectAltNameType::Hostname, Some(name), None) => Ok(Self::Hostname(name)),
            (SubjectAltNameType::Uri, None, Some(uri)) if uri.contains("://") => Ok(Self::Uri(uri)),
            (SubjectAltNameType::Hostname, ..) => {
                Err("`type: Hostname` wants `hostname`, and no `uri`".to_owned())
            }
            (SubjectAltNameType::Uri, ..) => {
                Err("`type: URI` wants `uri` with a scheme, such as spiffe://, and no `hostname`".to_owned())
            }
        }
    }
}
