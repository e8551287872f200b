//! What can be told of a token without asking anybody.
//!
//! Anyone in the cluster can reach the CA, and each token that it passes on costs the API server a signature check and a
//! lookup. So what cannot be good is refused here: nothing of it is *believed* until the API server says so. The claims are
//! read first, because that costs least; whether the cluster signed them is the next question ([`super::jwks`]).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::review::USER_PREFIX;

/// Projected tokens have about a kilobyte.
const MAX_TOKEN: usize = 16 * 1024;
/// A clock that is ahead or behind must not refuse what the API server still takes; it decides to the second.
const LEEWAY: Duration = Duration::from_secs(60);

/// Why a token is not worth a question. Texts never quote the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Hopeless {
    #[error("the token has more than 16 KiB")]
    TooLarge,
    #[error("the token is not a JWT")]
    NoJwt,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has no issuer")]
    Issuer,
    #[error("the token is of no service account")]
    Subject,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet; is a clock wrong?")]
    NotYet,
}

/// A token taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Jwt<'a> {
    pub(super) header: Header,
    /// What the signature is over: header and claims as they were sent (RFC 7515 section 5.2).
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
}

/// How it is signed (RFC 7515 section 4.1).
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    /// Which key, where the issuer numbers its keys.
    pub(super) kid: Option<String>,
}

/// The claims that are looked at (RFC 7519 section 4.1).
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Audiences,
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// Whether it is worth going on with `token` at `now`: it has the shape of a signed JWT, is a service account's for
/// `audience`, and this is its time. Which issuer it may have is left to the API server: it may take several, and tells
/// only the first.
pub(super) fn look<'a>(token: &'a str, audience: &str, now: SystemTime) -> Result<Jwt<'a>, Hopeless> {
    if token.len() > MAX_TOKEN {
        return Err(Hopeless::TooLarge);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Hopeless::NoJwt)?;
    let (header, payload) = signed.split_once('.').ok_or(Hopeless::NoJwt)?;
    let decoded = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok();
        bytes.filter(|bytes| !bytes.is_empty()).ok_or(Hopeless::NoJwt)
    };
    let header = serde_json::from_slice(&decoded(header)?).map_err(|_| Hopeless::NoJwt)?;
    let claims: Claims = serde_json::from_slice(&decoded(payload)?).map_err(|_| Hopeless::NoJwt)?;
    let signature = decoded(signature)?;
    if !claims.aud.contains(audience) {
        return Err(Hopeless::Audience);
    }
    if claims.iss.is_none_or(|issuer| issuer.is_empty()) {
        return Err(Hopeless::Issuer);
    }
    if !claims.sub.is_some_and(|subject| subject.starts_with(USER_PREFIX)) {
        return Err(Hopeless::Subject);
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if claims.exp + LEEWAY.as_secs_f64() < now {
        return Err(Hopeless::Expired);
    }
    if claims.nbf.is_some_and(|begins| begins - LEEWAY.as_secs_f64() > now) {
        return Err(Hopeless::NotYet);
    }
    Ok(Jwt { header, signed, signature })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn token(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{\"alg\":\"RS256\"}"), part(claims), part("signature"))
    }

    fn look_at(claims: &str) -> Result<(), Hopeless> {
        look(&token(claims), "weft-ca", now()).map(drop)
    }

    /// Claims of a service account with these besides.
    fn claims(more: &str) -> String {
        format!("{{\"iss\":\"https://a\",\"sub\":\"system:serviceaccount:shop:web\",{more}}}")
    }

    #[test]
    fn a_token_for_us_in_its_time_is_worth_a_question() {
        for more in [
            format!("\"aud\":[\"weft-ca\"],\"exp\":{}", NOW + 1),
            format!("\"aud\":\"weft-ca\",\"exp\":{},\"kubernetes.io\":{{}}", NOW + 3600),
            format!("\"exp\":{}.5,\"aud\":[\"other\",\"weft-ca\"]", NOW),
            // The API server decides about the last minute, and about the first.
            format!("\"aud\":[\"weft-ca\"],\"exp\":{}", NOW - 59),
            format!("\"aud\":[\"weft-ca\"],\"exp\":{},\"nbf\":{}", NOW + 600, NOW + 59),
        ] {
            assert_eq!(look_at(&claims(&more)), Ok(()), "{more}");
        }
    }

    #[test]
    fn it_is_taken_apart_as_it_was_sent() {
        let token = token(&claims(&format!("\"aud\":[\"weft-ca\"],\"exp\":{}", NOW + 1)));
        let jwt = look(&token, "weft-ca", now()).unwrap();
        assert_eq!(jwt.header, Header { alg: "RS256".to_owned(), kid: None });
        assert_eq!(format!("{}.{}", jwt.signed, URL_SAFE_NO_PAD.encode(&jwt.signature)), token);
    }

    #[test]
    fn others_are_not() {
        let ours = format!("\"aud\":[\"weft-ca\"],\"exp\":{}", NOW + 1);
        let cases = [
            (claims(&format!("\"aud\":[\"weft-ca\"],\"exp\":{}", NOW - 61)), Hopeless::Expired),
            (claims(&format!("\"aud\":[\"weft-ca2\"],\"exp\":{}", NOW + 1)), Hopeless::Audience),
            (claims(&format!("\"aud\":[],\"exp\":{}", NOW + 1)), Hopeless::Audience),
            (claims(&format!("{ours},\"nbf\":{}", NOW + 61)), Hopeless::NotYet),
            (format!("{{\"sub\":\"system:serviceaccount:shop:web\",{ours}}}"), Hopeless::Issuer),
            (format!("{{\"iss\":\"a\",\"sub\":\"system:node:a\",{ours}}}"), Hopeless::Subject),
            (format!("{{\"iss\":\"a\",{ours}}}"), Hopeless::Subject),
            (format!("{{\"exp\":{}}}", NOW + 1), Hopeless::NoJwt),
            ("{\"aud\":[\"weft-ca\"]}".to_owned(), Hopeless::NoJwt),
            ("{\"aud\":[\"weft-ca\"],\"exp\":\"never\"}".to_owned(), Hopeless::NoJwt),
            ("[]".to_owned(), Hopeless::NoJwt),
            ("not json".to_owned(), Hopeless::NoJwt),
        ];
        for (claims, expected) in cases {
            assert_eq!(look_at(&claims), Err(expected), "{claims}");
        }
        let good = token(&claims(&ours));
        let look = |token: &str| look(token, "weft-ca", now()).map(drop);
        assert_eq!(look(&good), Ok(()));
        assert_eq!(look(&format!("{good}.x")), Err(Hopeless::NoJwt));
        assert_eq!(look(good.rsplit_once('.').unwrap().0), Err(Hopeless::NoJwt));
        assert_eq!(look(&format!("{}.", good.rsplit_once('.').unwrap().0)), Err(Hopeless::NoJwt), "unsigned");
        assert_eq!(look(&"a".repeat(MAX_TOKEN + 1)), Err(Hopeless::TooLarge));
        assert_eq!(look(""), Err(Hopeless::NoJwt));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(token in "\\PC{0,200}", claims in "\\PC{0,200}") {
            let _ = look(&token, "weft-ca", now());
            let _ = look_at(&claims);
        }
    }
}
