//! Our own kinds: what is outside a cluster.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use weft_core::ProxyProtocol;

use crate::reference::ObjectRef;
use crate::value::{BackendHost, Port, PreciseHost};

/// `spec` of a `Backend`: an upstream that is no service of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendSpec {
    /// Where it is: all of them serve alike.
    #[cfg_attr(test, schemars(length(min = 1, max = 64)))]
    pub endpoints: Vec<BackendEndpoint>,
    /// What is spoken to it.
    #[serde(default)]
    pub protocol: BackendProtocol,
    /// TLS towards it. Without it plaintext.
    pub tls: Option<BackendTlsSpec>,
    /// What each connection to it begins with; `None`: nothing.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// `proxyProtocol`: a header that says for whom a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ProxyProtocolVersion {
    /// A line of text.
    #[serde(rename = "v1")]
    V1,
    /// Binary.
    #[serde(rename = "v2")]
    V2,
}

impl From<ProxyProtocolVersion> for ProxyProtocol {
    fn from(version: ProxyProtocolVersion) -> Self {
        match version {
            ProxyProtocolVersion::V1 => Self::V1,
            ProxyProtocolVersion::V2 => Self::V2,
        }
    }
}

/// `endpoints[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendEndpoint {
    /// A host name, looked up in DNS, or an address.
    pub host: BackendHost,
    /// The port.
    pub port: Port,
}

/// `protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum BackendProtocol {
    /// HTTP/1.1; over TLS the version that ALPN agrees on.
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
    /// gRPC: HTTP/2.
    #[serde(rename = "grpc")]
    Grpc,
    /// Bytes.
    #[serde(rename = "tcp")]
    Tcp,
}

/// `tls` of a `Backend`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsSpec {
    /// The server name that is sent and that the certificate must have. Without it the endpoint's host.
    pub server_name: Option<PreciseHost>,
    /// ConfigMaps, Secrets or `Certificate`s with `ca.crt` that vouch for it. Without any the certificates of the machine.
    #[serde(default)]
    pub ca_certificate_refs: Vec<ObjectRef>,
    /// The certificate that is shown to it.
    pub client_certificate_ref: Option<ObjectRef>,
}

/// `spec` of a `Certificate`: PEM files, which are read again when they change. Paths are relative to the document's file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateSpec {
    /// The certificate chain, leaf first.
    pub certificate_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// Certificates of those who vouch for others (`ca.crt` of a ConfigMap).
    pub ca_file: Option<PathBuf>,
    /// What is in the files. Who reads resources from files fills it in; [`crate::parse`] alone does not.
    #[serde(skip)]
    pub content: CertificateContent,
}

/// What is in the files of a `Certificate`, all of it PEM: read, and found to be what it should be.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CertificateContent {
    /// The certificate chain, leaf first, with its key.
    pub pair: Option<Arc<CertificatePair>>,
    /// Certificates of those who vouch for others.
    pub roots: Option<Arc<[u8]>>,
}

/// A certificate chain and the key of its leaf.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificatePair {
    /// The chain, leaf first.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificatePair").finish_non_exhaustive()
    }
}

impl fmt::Debug for CertificateContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut content = f.debug_struct("CertificateContent");
        content.field("pair", &self.pair.is_some()).field("roots", &self.roots.is_some()).finish()
    }
}
