//! `ca.yaml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;
use weft_core::{SpiffeId, TrustDomain};
use weft_identity::IdentityError;

use crate::yaml::{invalid, parse, required, value};
use crate::{CaError, Limits};

/// A leaf's life by default: with renewal at half of it, the CA may be away for most of a working day.
const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Beyond this a leaf is no longer short-lived, and nothing revokes it: 31 days.
const LONGEST_LEAF: Duration = Duration::from_secs(31 * 24 * 3600);
/// A root's life by default, 10 years of 365.25 days; it is meant to be rotated long before.
const ROOT_LIFETIME: Duration = Duration::from_secs(3652 * 24 * 3600 + 12 * 3600);
/// The longest that still encodes: RFC 5280 section 4.1.2.5 ends with the year 9999.
const LONGEST_ROOT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long certificates last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// A workload's certificate; 24 h by default.
    pub leaf: Duration,
    /// A root that is made; 10 years by default.
    pub root: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { leaf: LEAF_LIFETIME, root: ROOT_LIFETIME }
    }
}

impl Lifetimes {
    /// Whether they can be used.
    ///
    /// # Errors
    /// The field that is wrong, `leafLifetime` or `rootLifetime`, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, length, longest) in
            [("leafLifetime", self.leaf, LONGEST_LEAF), ("rootLifetime", self.root, LONGEST_ROOT)]
        {
            // Certificates count in whole seconds.
            if length < Duration::from_secs(1) || length > longest {
                let longest = humantime::format_duration(longest);
                return Err((field, format!("must be between 1s and {longest}")));
            }
        }
        if self.leaf > self.root {
            return Err(("leafLifetime", "is longer than rootLifetime".to_owned()));
        }
        Ok(())
    }
}

/// How the CA runs.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// `trustDomain`: the mesh it vouches for.
    pub trust_domain: TrustDomain,
    /// `listen`: where it serves, `ip:port`.
    pub listen: SocketAddr,
    /// `dataDir` or `root`: the certificate and key it signs with.
    pub root: RootSource,
    /// `leafLifetime`, default 24h.
    pub leaf_lifetime: Duration,
    /// `rootLifetime` of a root that is made on the first start, default 10y.
    pub root_lifetime: Duration,
    /// `tokensFile`: the join tokens.
    pub tokens_file: PathBuf,
    /// `serverId`: the identity it serves with, default `spiffe://<trustDomain>/ns/weft-system/sa/weft-ca`.
    pub server_id: SpiffeId,
    /// `identityConnections`, default 16,384, among all that a caller may take.
    pub limits: Limits,
}

/// Where the root comes from.
#[derive(Debug, Clone)]
pub enum RootSource {
    /// `dataDir`: made there on the first start, used from there afterwards.
    DataDir(PathBuf),
    /// `root`: PEM files that something else made.
    Files {
        /// The certificate to sign with, an own root or an intermediate.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The roots that the mesh trusts; the certificate itself by default.
        bundle: Option<PathBuf>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    trust_domain: Option<Spanned<String>>,
    listen: Option<Spanned<String>>,
    data_dir: Option<Spanned<String>>,
    root: Option<Spanned<RawRoot>>,
    leaf_lifetime: Option<Spanned<String>>,
    root_lifetime: Option<Spanned<String>>,
    tokens_file: Option<Spanned<String>>,
    server_id: Option<Spanned<String>>,
    identity_connections: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRoot {
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    bundle: Option<Spanned<String>>,
}

impl CaConfig {
    /// Reads and checks `ca.yaml`. Relative paths in it are relative to the working directory.
    ///
    /// # Errors
    /// [`CaError::File`] where it cannot be read, [`CaError::Yaml`] naming file, line and field.
    pub fn load(path: &Path) -> Result<Self, CaError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CaError::file(path, format!("cannot be read: {error}")))?;
        Self::from_yaml(path, &text)
    }

    /// The same from text; `path` is only for error messages.
    ///
    /// # Errors
    /// [`CaError::Yaml`].
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self, CaError> {
        let raw: Raw = parse(path, text)?;
        let trust_domain: TrustDomain =
            value(path, "trustDomain", required(path, "trustDomain", raw.trust_domain.as_ref())?)?;
        let defaults = Lifetimes::default();
        let lifetimes = Lifetimes {
            leaf: duration(path, "leafLifetime", raw.leaf_lifetime.as_ref(), defaults.leaf)?,
            root: duration(path, "rootLifetime", raw.root_lifetime.as_ref(), defaults.root)?,
        };
        lifetimes.check().map_err(|(field, reason)| {
            let named = match field {
                "leafLifetime" => &raw.leaf_lifetime,
                _ => &raw.root_lifetime,
            };
            let line = named.as_ref().map(|raw| raw.defined.line());
            CaError::Yaml { path: path.to_owned(), line, field: field.to_owned(), reason }
        })?;
        Ok(Self {
            listen: value(path, "listen", required(path, "listen", raw.listen.as_ref())?)?,
            root: root(path, &raw)?,
            leaf_lifetime: lifetimes.leaf,
            root_lifetime: lifetimes.root,
            tokens_file: required(path, "tokensFile", raw.tokens_file.as_ref())?.value.clone().into(),
            server_id: server_id(path, raw.server_id.as_ref(), &trust_domain)?,
            limits: limits(path, raw.identity_connections.as_ref())?,
            trust_domain,
        })
    }
}

fn root(path: &Path, raw: &Raw) -> Result<RootSource, CaError> {
    match (&raw.data_dir, &raw.root) {
        (Some(directory), None) => Ok(RootSource::DataDir(directory.value.clone().into())),
        (None, Some(root)) => Ok(RootSource::Files {
            certificate: required(path, "root.certificate", root.value.certificate.as_ref())?
                .value
                .clone()
                .into(),
            key: required(path, "root.key", root.value.key.as_ref())?.value.clone().into(),
            bundle: root.value.bundle.as_ref().map(|bundle| bundle.value.clone().into()),
        }),
        (Some(_), Some(root)) => {
            Err(invalid(path, root.defined, "root", "cannot stand beside dataDir: name one of them"))
        }
        (None, None) => Err(CaError::Yaml {
            path: path.to_owned(),
            line: None,
            field: "dataDir".to_owned(),
            reason:
                "is missing: name a directory for the root, or its files as root.certificate and root.key"
                    .to_owned(),
        }),
    }
}

fn server_id(
    path: &Path,
    raw: Option<&Spanned<String>>,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, CaError> {
    let Some(raw) = raw else {
        let id = format!("spiffe://{trust_domain}/ns/weft-system/sa/weft-ca");
        return id.parse().map_err(|error| CaError::Identity(IdentityError::SpiffeId(error)));
    };
    let id: SpiffeId = value(path, "serverId", raw)?;
    if id.trust_domain != *trust_domain {
        return Err(invalid(path, raw.defined, "serverId", format!("is not of trust domain {trust_domain}")));
    }
    Ok(id)
}

fn limits(path: &Path, raw: Option<&Spanned<usize>>) -> Result<Limits, CaError> {
    let Some(raw) = raw else { return Ok(Limits::default()) };
    Limits::with_identity_connections(raw.value)
        .map_err(|reason| invalid(path, raw.defined, "identityConnections", reason))
}

fn duration(
    path: &Path,
    field: &str,
    raw: Option<&Spanned<String>>,
    default: Duration,
) -> Result<Duration, CaError> {
    let Some(raw) = raw else { return Ok(default) };
    humantime::parse_duration(&raw.value)
        .map_err(|error| invalid(path, raw.defined, field, format!("{error}; write it as 24h or 30m")))
}
