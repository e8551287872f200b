//! The keys that the cluster signs service account tokens with, and whether a token is signed with one of them.
//!
//! The API server publishes them (`/openid/v1/jwks`, RFC 7517), so a forged token is told from a genuine one here, in
//! microseconds, and costs the API server nothing. A genuine one is reviewed all the same: only the API server knows
//! whether its pod is still there. Where the keys cannot be had, everything goes on without this look.
//!
//! The list is a filter in front of the judge, and it must not be the one thing that can stop a mesh: it may be behind the
//! key that tokens are signed with (a rotation, API servers of different configuration). So a key that is not in it has
//! the list fetched again, and now and then one such token is passed on; if it turns out good, tokens of that key are
//! passed on from then on.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::Client;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::jwt::Jwt;
use crate::client::describe;

/// Where the API server has them, by default open to every service account.
pub(crate) const PATH: &str = "/openid/v1/jwks";
/// One fetch.
const LIMIT: Duration = Duration::from_secs(3);
/// Between two fetches, whatever tokens come: forged ones name any key they like.
const PAUSE: Duration = Duration::from_secs(10);
/// The same while there is no list.
const PAUSE_WITHOUT: Duration = Duration::from_secs(60);
/// Between two tokens that are passed on although their key is not in the list.
const DOUBT: Duration = Duration::from_secs(20);
/// A cluster has one key, or two during a rotation.
const MAX_KEYS: usize = 64;

/// What the keys say of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Signed by the cluster, or nobody here can tell: the API server is to be asked.
    Ask,
    /// Not signed by the key that it names.
    Forged,
    /// Signed with a key that the cluster does not publish.
    Unknown,
}

/// The cluster's keys, fetched when they are needed.
pub(super) struct ClusterKeys {
    client: Client,
    keys: ArcSwapOption<Keys>,
    fetching: tokio::sync::Mutex<Fetched>,
    doubts: Mutex<Doubts>,
}

#[derive(Default)]
struct Fetched {
    last: Option<Instant>,
    /// The last failure, so that it is told once.
    said: String,
}

#[derive(Default)]
struct Doubts {
    last: Option<Instant>,
    /// Keys that are in no list and were found to be the cluster's.
    good: HashSet<String>,
}

impl ClusterKeys {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            keys: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::default(),
            doubts: Mutex::default(),
        }
    }

    /// Whether the cluster signed the token.
    pub(super) async fn judge(&self, token: &Jwt<'_>) -> Verdict {
        if let Some(keys) = self.keys.load_full() {
            match keys.judge(token) {
                Verdict::Unknown => {}
                verdict => return verdict,
            }
        }
        self.fetch().await;
        match self.keys.load_full().map_or(Verdict::Ask, |keys| keys.judge(token)) {
            Verdict::Unknown if self.is_in_doubt(token) => Verdict::Ask,
            verdict => verdict,
        }
    }

    /// The API server has found the token good. Where its key is in no list, the list is not all there is.
    pub(super) fn found_good(&self, token: &Jwt<'_>) {
        let (Some(keys), Some(kid)) = (self.keys.load_full(), &token.header.kid) else { return };
        if keys.judge(token) != Verdict::Unknown {
            return;
        }
        let mut doubts = self.doubts();
        if doubts.good.len() < MAX_KEYS && doubts.good.insert(kid.clone()) {
            tracing::warn!(
                %kid,
                "the cluster signs tokens with a key that is not in {PATH}; its tokens are reviewed without a look at \
                 their signature: have all API servers publish the same keys"
            );
        }
    }

    fn is_in_doubt(&self, token: &Jwt<'_>) -> bool {
        let mut doubts = self.doubts();
        if token.header.kid.as_ref().is_some_and(|kid| doubts.good.contains(kid)) {
            return true;
        }
        let due = doubts.last.is_none_or(|last| last.elapsed() >= DOUBT);
        if due {
            doubts.last = Some(Instant::now());
        }
        due
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the list where the last fetch is long enough ago. Who comes meanwhile waits for the one that is under way.
    async fn fetch(&self) {
        let mut fetched = self.fetching.lock().await;
        let pause = if self.keys.load().is_some() { PAUSE } else { PAUSE_WITHOUT };
        if fetched.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        let answer = self.ask().await;
        fetched.last = Some(Instant::now());
        match answer {
            Ok(keys) => {
                tracing::debug!(keys = keys.0.len(), "the cluster's keys fetched");
                self.keys.store(Some(keys.into()));
                fetched.said.clear();
            }
            Err(error) if fetched.said == error => {}
            Err(error) => {
                let kept = self.keys.load().is_some();
                tracing::warn!(
                    error,
                    kept,
                    "the cluster's keys cannot be had from {PATH}; without them every token with the right claims is \
                     reviewed by the API server, forged ones too"
                );
                fetched.said = error;
            }
        }
    }

    async fn ask(&self) -> Result<Keys, String> {
        let request = http::Request::get(PATH).body(Vec::new()).map_err(|error| error.to_string())?;
        let answer = timeout(LIMIT, self.client.request_text(request)).await;
        let text = match answer {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return Err(describe(&error)),
            Err(_) => return Err(format!("no answer within {LIMIT:?}")),
        };
        Keys::parse(&text)
    }
}

/// The keys that can be used, of one list.
struct Keys(Vec<Key>);

struct Key {
    kid: Option<String>,
    public: Public,
}

enum Public {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// A point, uncompressed (SEC 1 section 2.3.3).
    Ec(&'static EcdsaVerificationAlgorithm, &'static str, Vec<u8>),
}

/// RFC 7517 section 5; members that are not looked at are left out.
#[derive(Deserialize)]
struct RawKeys {
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Those of a list that can be used. A list without any is none: the API server signs with something.
    fn parse(text: &str) -> Result<Self, String> {
        let raw: RawKeys = serde_json::from_str(text)
            .map_err(|_| "what is there is no set of keys (RFC 7517)".to_owned())?;
        let keys: Vec<Key> = raw.keys.into_iter().take(MAX_KEYS).filter_map(RawKey::read).collect();
        if keys.is_empty() { Err("there is no key of a known kind in it".to_owned()) } else { Ok(Self(keys)) }
    }

    fn judge(&self, token: &Jwt<'_>) -> Verdict {
        let named = token.header.kid.as_deref();
        // A token or a key without a name may belong to any (clusters older than key names, keys that were given by hand).
        let fits = |key: &&Key| named.is_none() || key.kid.is_none() || key.kid.as_deref() == named;
        if self.0.iter().filter(fits).any(|key| key.signed(token)) {
            return Verdict::Ask;
        }
        match named {
            Some(kid) if !self.0.iter().any(|key| key.kid.as_deref() == Some(kid)) => Verdict::Unknown,
            _ => Verdict::Forged,
        }
    }
}

impl RawKey {
    fn read(self) -> Option<Key> {
        let bytes =
            |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok().filter(|b| !b.is_empty());
        let public = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Public::Rsa(RsaPublicKeyComponents { n: bytes(&self.n)?, e: bytes(&self.e)? }),
            ("EC", Some(curve)) => {
                let (algorithm, name): (&'static EcdsaVerificationAlgorithm, _) = match curve {
                    "P-256" => (&ECDSA_P256_SHA256_FIXED, "ES256"),
                    "P-384" => (&ECDSA_P384_SHA384_FIXED, "ES384"),
                    "P-521" => (&ECDSA_P521_SHA512_FIXED, "ES512"),
                    _ => return None,
                };
                Public::Ec(algorithm, name, [vec![4], bytes(&self.x)?, bytes(&self.y)?].concat())
            }
            _ => return None,
        };
        Some(Key { kid: self.kid, public })
    }
}

impl Key {
    /// Whether this key signed the token. The algorithm has to fit the key: a token cannot choose another one for it
    /// (RFC 8725 section 3.1).
    fn signed(&self, token: &Jwt<'_>) -> bool {
        let message = token.signed.as_bytes();
        match &self.public {
            Public::Rsa(key) => {
                let parameters: &RsaParameters = match token.header.alg.as_str() {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    _ => return false,
                };
                key.verify(parameters, message, &token.signature).is_ok()
            }
            Public::Ec(algorithm, name, point) => {
                token.header.alg == *name
                    && UnparsedPublicKey::new(*algorithm, point).verify(message, &token.signature).is_ok()
            }
        }
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
