//! Logins that belong to a connection and not to a request: NTLM, and Negotiate where servers make it so (RFC 4559 section 6).
//!
//! Whoever used such a connection next would be taken for the one who logged in. So from the first sign of it on, a client's
//! connection has connections to the application of its own: its requests carry a secret name of it, over a link as a mark
//! ([`crate::wire::WEFT_LOGIN`]), and the pool gives a connection that has carried that name to nobody else.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use http::header::{PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

/// The secret name of a client's connection on which a login was seen that belongs to it. Whoever knows it has that login.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login(Arc<[u8; DIGITS]>);

/// 128 bits: nobody guesses one.
const DIGITS: usize = 32;

impl Login {
    pub(super) fn new() -> Self {
        // Keyed with random numbers of the system, which nobody else has, and never twice with the same.
        let random = || RandomState::new().hash_one(());
        let digits = format!("{:016x}{:016x}", random(), random());
        let mut name = [b'0'; DIGITS];
        name.iter_mut().zip(digits.bytes()).for_each(|(to, digit)| *to = digit);
        Self(Arc::new(name))
    }

    /// Reads what a mesh link tells.
    pub(crate) fn from_wire(value: &HeaderValue) -> Option<Self> {
        let name: [u8; DIGITS] = value.as_bytes().try_into().ok()?;
        name.iter().all(u8::is_ascii_hexdigit).then(|| Self(Arc::new(name)))
    }

    pub(crate) fn to_wire(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(&*self.0).ok()?;
        // Not into the link's table of fields.
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// Whether a challenge, or credentials, are of a scheme whose logins belong to their connection. As HAProxy tells them: there
/// is `Nego2` as well, and what follows the name is not always behind a space.
pub(super) fn binds(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|challenge| {
        let scheme = challenge.trim_ascii_start().get(..4);
        scheme.is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"nego")
        })
    })
}

/// Whether an answer asks for such a login.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let of = |name| headers.get_all(name).iter().any(|value| binds(value.as_bytes()));
    of(WWW_AUTHENTICATE) || of(PROXY_AUTHENTICATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_schemes_that_bind_a_login_to_a_connection_are_told() {
        for value in ["NTLM", "ntlm TlRMTVNTUAAB", "Negotiate", "Basic realm=\"a\", NEGOTIATE abc", "Nego2"] {
            assert!(binds(value.as_bytes()), "{value}");
        }
        for value in ["", "Basic TlRMTQ==", "Bearer ntlm", "Digest qop=\"auth,nonce\"", "NTL"] {
            assert!(!binds(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn a_name_is_of_one_connection_and_travels_as_it_is() {
        let name = Login::new();
        assert_ne!(name, Login::new());
        let value = name.to_wire().unwrap();
        assert!(value.is_sensitive());
        assert_eq!(Login::from_wire(&value), Some(name));
        for other in ["", "1", "0123456789abcdef0123456789abcdeg", "0123456789abcdef0123456789abcdef0"] {
            assert_eq!(Login::from_wire(&HeaderValue::from_static(other)), None, "{other}");
        }
    }
}
