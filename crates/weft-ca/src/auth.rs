//! The token out of a call, and join tokens as one way to judge it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tonic::metadata::MetadataMap;
use weft_core::{SpiffeId, TrustDomain};
use weft_identity::FileWatch;

use crate::tokens::TokenTable;
use crate::{CaError, Credentials, Proof, Proving, Unproven};

/// Why a credential proves nothing. For the audit log only: a caller learns just that it was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no credential")]
    Missing,
    #[error("the credential is not one bearer token")]
    Malformed,
    #[error("unknown token")]
    Unknown,
    #[error("token of {id} expired at {}", humantime::format_rfc3339_seconds(*.at))]
    Expired { id: SpiffeId, at: SystemTime },
}

impl From<Refusal> for Unproven {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

/// The token of `authorization: Bearer <token>` (RFC 6750 section 2.1).
pub(crate) fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next().ok_or(Refusal::Missing)?;
    if values.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let text = value.to_str().map_err(|_| Refusal::Malformed)?;
    match text.split_once(' ') {
        // The scheme is compared without case (RFC 9110 section 11.1).
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => Ok(token),
        _ => Err(Refusal::Malformed),
    }
}

/// Join tokens from a file, read again when it changes; a bad edit keeps the last good table. Clones share the table.
#[derive(Debug, Clone)]
pub(crate) struct JoinTokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    trust_domain: TrustDomain,
    table: ArcSwap<TokenTable>,
}

impl JoinTokens {
    pub(crate) fn load(path: PathBuf, trust_domain: TrustDomain) -> Result<Self, CaError> {
        let table = TokenTable::load(&path, &trust_domain)?;
        tracing::info!(file = %path.display(), tokens = table.len(), "join tokens loaded");
        Ok(Self(Arc::new(Inner { table: ArcSwap::from_pointee(table), path, trust_domain })))
    }

    /// Follows the file, for ever.
    pub(crate) async fn keep_fresh(&self) {
        let Inner { path, trust_domain, table } = &*self.0;
        let mut watch = FileWatch::new([path]);
        loop {
            watch.changed().await;
            match TokenTable::load(path, trust_domain) {
                Ok(new) => {
                    let tokens = new.len();
                    table.store(new.into());
                    tracing::debug!(file = %path.display(), tokens, "join tokens read again");
                }
                Err(error) => tracing::error!(%error, "tokens file is not usable; the last good tokens stay"),
            }
        }
    }
}

impl Credentials for JoinTokens {
    fn prove<'a>(&'a self, token: &'a str) -> Proving<'a> {
        let proof = self.0.table.load().identity(token, SystemTime::now());
        Box::pin(std::future::ready(proof.map(Proof::of).map_err(Unproven::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_token_and_nothing_else() {
        let metadata = |values: &[&str]| {
            let mut map = MetadataMap::new();
            for value in values {
                map.append("authorization", value.parse().unwrap());
            }
            map
        };
        assert_eq!(bearer(&metadata(&["Bearer abc"])), Ok("abc"));
        assert_eq!(bearer(&metadata(&["bearer abc"])), Ok("abc"));
        assert_eq!(bearer(&metadata(&[])), Err(Refusal::Missing));
        for values in [&["Bearer "][..], &["Bearer"], &["abc"], &["Basic abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&metadata(values)), Err(Refusal::Malformed), "{values:?}");
        }
    }
}
