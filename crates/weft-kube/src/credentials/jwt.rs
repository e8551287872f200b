//! What can be told of a token without asking anybody.
//!
//! Anyone in the cluster can reach the CA, and each token that it passes on costs the API server a signature check and a
//! lookup. So what cannot be good is refused here: nothing of it is *believed*, because nothing of it was verified.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Projected tokens have about a kilobyte.
const MAX_TOKEN: usize = 16 * 1024;
/// A clock that is ahead must not refuse what the API server still takes; it decides to the second.
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
    #[error("the token has expired")]
    Expired,
}

/// The claims that are looked at (RFC 7519 sections 4.1.3 and 4.1.4).
#[derive(Deserialize)]
struct Claims {
    aud: Audiences,
    exp: f64,
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

/// Whether it is worth asking about `token` at `now`: it has the shape of a signed JWT, is for `audience`, and its time
/// is not over.
pub(super) fn look(token: &str, audience: &str, now: SystemTime) -> Result<(), Hopeless> {
    if token.len() > MAX_TOKEN {
        return Err(Hopeless::TooLarge);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Hopeless::NoJwt);
    };
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty());
    let (Some(_), Some(payload), Some(_)) = (decoded(header), decoded(payload), decoded(signature)) else {
        return Err(Hopeless::NoJwt);
    };
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| Hopeless::NoJwt)?;
    if !claims.aud.contains(audience) {
        return Err(Hopeless::Audience);
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if claims.exp + LEEWAY.as_secs_f64() < now.as_secs_f64() {
        return Err(Hopeless::Expired);
    }
    Ok(())
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
        look(&token(claims), "weft-ca", now())
    }

    #[test]
    fn a_token_for_us_in_its_time_is_worth_a_question() {
        for claims in [
            format!("{{\"aud\":[\"weft-ca\"],\"exp\":{}}}", NOW + 1),
            format!("{{\"aud\":\"weft-ca\",\"exp\":{},\"kubernetes.io\":{{}}}}", NOW + 3600),
            format!("{{\"exp\":{}.5,\"aud\":[\"other\",\"weft-ca\"]}}", NOW),
            // The API server decides about the last minute.
            format!("{{\"aud\":[\"weft-ca\"],\"exp\":{}}}", NOW - 59),
        ] {
            assert_eq!(look_at(&claims), Ok(()), "{claims}");
        }
    }

    #[test]
    fn others_are_not() {
        let cases = [
            (format!("{{\"aud\":[\"weft-ca\"],\"exp\":{}}}", NOW - 61), Hopeless::Expired),
            (format!("{{\"aud\":[\"weft-ca2\"],\"exp\":{}}}", NOW + 1), Hopeless::Audience),
            (format!("{{\"aud\":[],\"exp\":{}}}", NOW + 1), Hopeless::Audience),
            (format!("{{\"exp\":{}}}", NOW + 1), Hopeless::NoJwt),
            ("{\"aud\":[\"weft-ca\"]}".to_owned(), Hopeless::NoJwt),
            ("{\"aud\":[\"weft-ca\"],\"exp\":\"never\"}".to_owned(), Hopeless::NoJwt),
            ("[]".to_owned(), Hopeless::NoJwt),
            ("not json".to_owned(), Hopeless::NoJwt),
        ];
        for (claims, expected) in cases {
            assert_eq!(look_at(&claims), Err(expected), "{claims}");
        }
        let good = token(&format!("{{\"aud\":[\"weft-ca\"],\"exp\":{}}}", NOW + 1));
        let look = |token: &str| look(token, "weft-ca", now());
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
