//! The join tokens: a YAML file that says which secret proves which identity, and until when.

use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use serde_saphyr::Spanned;
use weft_core::{SpiffeId, TrustDomain};

use crate::CaError;
use crate::auth::Refusal;
use crate::yaml::{invalid, parse, value};

/// A shorter secret can be guessed. `openssl rand -hex 32` makes a good one.
const MIN_TOKEN: usize = 16;
const HASH_LEN: usize = 32;

/// The valid entries of a tokens file. Holds hashes only.
#[derive(Debug, Default)]
pub(crate) struct TokenTable(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    hash: [u8; HASH_LEN],
    id: SpiffeId,
    expires: SystemTime,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    tokens: Vec<RawToken>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawToken {
    token: Option<Spanned<String>>,
    token_sha256: Option<Spanned<String>>,
    identity: RawIdentity,
    expires: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawIdentity {
    namespace: Spanned<String>,
    service_account: Spanned<String>,
}

impl TokenTable {
    /// Reads a tokens file.
    pub(crate) fn load(path: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CaError::file(path, format!("cannot be read: {error}")))?;
        Self::from_yaml(path, &text, trust_domain)
    }

    pub(crate) fn from_yaml(path: &Path, text: &str, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let raw: Raw = parse(path, text)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(raw.tokens.len());
        for token in &raw.tokens {
            let hash = token.hash(path)?;
            if entries.iter().any(|entry| entry.hash == hash) {
                let at = token.expires.defined;
                return Err(invalid(path, at, "tokens", "the same token is there twice"));
            }
            entries.push(Entry {
                hash,
                id: SpiffeId {
                    trust_domain: trust_domain.clone(),
                    namespace: value(path, "namespace", &token.identity.namespace)?,
                    service_account: value(path, "serviceAccount", &token.identity.service_account)?,
                },
                expires: humantime::parse_rfc3339(&token.expires.value).map_err(|_| {
                    let reason = "is not a time in UTC such as 2030-01-31T12:00:00Z (RFC 3339)";
                    invalid(path, token.expires.defined, "expires", reason)
                })?,
            });
        }
        Ok(Self(entries))
    }

    /// The identity that a token proves at `now`.
    ///
    /// The presented token is hashed, so that lengths and prefixes do not show, and compared with every entry in
    /// constant time, so that the position of a match does not show either.
    pub(crate) fn identity(&self, token: &str, now: SystemTime) -> Result<SpiffeId, Refusal> {
        let presented = digest(&SHA256, token.as_bytes());
        let mut found = None;
        for entry in &self.0 {
            if verify_slices_are_equal(presented.as_ref(), &entry.hash).is_ok() {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Refusal::Unknown)?;
        if now >= entry.expires {
            return Err(Refusal::Expired { id: entry.id.clone(), at: entry.expires });
        }
        Ok(entry.id.clone())
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl RawToken {
    fn hash(&self, path: &Path) -> Result<[u8; HASH_LEN], CaError> {
        match (&self.token, &self.token_sha256) {
            (Some(token), None) => {
                if token.value.len() < MIN_TOKEN {
                    let reason = format!("is shorter than {MIN_TOKEN} characters and could be guessed");
                    return Err(invalid(path, token.defined, "token", reason));
                }
                if !token.value.bytes().all(|byte| byte.is_ascii_graphic()) {
                    let reason = "has characters other than visible ASCII, which cannot be sent";
                    return Err(invalid(path, token.defined, "token", reason));
                }
                let mut hash = [0; HASH_LEN];
                hash.copy_from_slice(digest(&SHA256, token.value.as_bytes()).as_ref());
                Ok(hash)
            }
            (None, Some(hash)) => from_hex(&hash.value).ok_or_else(|| {
                let reason = "is not a SHA-256 as 64 hexadecimal digits";
                invalid(path, hash.defined, "tokenSha256", reason)
            }),
            _ => {
                let at = self.expires.defined;
                Err(invalid(path, at, "token", "each entry has either token or tokenSha256"))
            }
        }
    }
}

fn from_hex(text: &str) -> Option<[u8; HASH_LEN]> {
    if text.len() != 2 * HASH_LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; HASH_LEN];
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TOKEN: &str = "a-token-of-decent-length";

    fn table(text: &str) -> Result<TokenTable, CaError> {
        TokenTable::from_yaml(Path::new("tokens.yaml"), text, &"weft.local".parse().unwrap())
    }

    fn entry(credential: &str) -> String {
        format!(
            "tokens:\n  - {credential}\n    identity:\n      namespace: shop\n      serviceAccount: web\n    \
             expires: 2030-01-01T00:00:00Z\n"
        )
    }

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn a_token_and_its_hash_prove_the_same_identity() {
        let now = at("2029-12-31T23:59:59Z");
        let hash: String =
            digest(&SHA256, TOKEN.as_bytes()).as_ref().iter().map(|b| format!("{b:02X}")).collect();
        for credential in [format!("token: {TOKEN}"), format!("tokenSha256: {hash}")] {
            let table = table(&entry(&credential)).unwrap();
            assert_eq!(table.identity(TOKEN, now).unwrap().to_string(), "spiffe://weft.local/ns/shop/sa/web");
            assert!(matches!(table.identity("another-token-of-some-length", now), Err(Refusal::Unknown)));
            assert!(matches!(table.identity("", now), Err(Refusal::Unknown)));
        }
    }

    #[test]
    fn a_token_ends_with_its_last_second() {
        let table = table(&entry(&format!("token: {TOKEN}"))).unwrap();
        let end = at("2030-01-01T00:00:00Z");
        assert!(table.identity(TOKEN, end - Duration::from_secs(1)).is_ok());
        assert!(matches!(table.identity(TOKEN, end), Err(Refusal::Expired { .. })));
    }

    #[test]
    fn mistakes_are_named_with_line_and_field_and_no_secret() {
        let cases = [
            (entry("token: short"), "tokens.yaml:2: token: is shorter"),
            (entry("tokenSha256: abc"), "tokens.yaml:2: tokenSha256: is not a SHA-256"),
            (entry(&format!("token: {TOKEN}")).replace("shop", "Shop"), "tokens.yaml:4: namespace: "),
            (entry(&format!("token: {TOKEN}")).replace("2030-01-01T", "soon"), "tokens.yaml:6: expires: "),
            (
                entry(&format!("token: {TOKEN}\n    tokenSha256: {}", "ab".repeat(32))),
                "either token or tokenSha256",
            ),
            (entry(&format!("token: [{TOKEN}]")), "tokens.yaml:2: token: "),
            (entry(&format!("tokem: {TOKEN}")), "tokens.yaml:2: tokem: "),
            (
                format!("{0}{1}", entry(&format!("token: {TOKEN}")), &entry(&format!("token: {TOKEN}"))[8..]),
                "twice",
            ),
        ];
        for (text, expected) in cases {
            let error = table(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
            assert!(!error.contains(TOKEN), "{error:?}");
        }
    }
}
