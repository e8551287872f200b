//! Clients that keep their endpoint (`sessionPersistence`): a cookie or a header says which it was.
//!
//! What the client is given names no address, but a number that the address comes to: whoever has the endpoints finds it among
//! them, on every worker and replica alike. It proves nothing, and need not: it can choose none but an endpoint of the route's
//! own backend.

use std::hash::{Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_core::EndpointAddr;
use weft_resource::http::{CookieLifetime, SessionPersistence, SessionType};

/// The cookie's name where the route has none.
const COOKIE_NAME: &str = "weft-session";
/// The header's. (Those that begin with `weft-` are the mesh's own, and taken out.)
const HEADER_NAME: &str = "x-weft-session";

/// What a client was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// What its endpoint's address comes to.
    mark: u64,
    /// When it began, and when it was last used, in seconds of the epoch.
    began: u64,
    used: u64,
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What an address comes to. The function is that of this version and may change with another: a session that is not found
/// begins anew.
pub(crate) fn mark(endpoint: EndpointAddr) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    endpoint.hash(&mut hasher);
    hasher.finish()
}

impl Session {
    /// The session that a request says it has, if that is still one.
    pub(crate) fn of(policy: &SessionPersistence, headers: &HeaderMap, now: SystemTime) -> Option<Self> {
        let name = name(policy);
        let text = match policy.kind {
            SessionType::Cookie => cookie(headers, name)?,
            SessionType::Header => headers.get(name)?.to_str().ok()?,
        };
        let session = Self::parse(text)?;
        let now = seconds(now);
        let within = |since: u64, limit: Option<Duration>| {
            limit.is_none_or(|limit| {
                since <= now.saturating_add(60) && now.saturating_sub(since) < limit.as_secs()
            })
        };
        let absolute = policy.absolute_timeout.and_then(|limit| limit.limit());
        let idle = policy.idle_timeout.and_then(|limit| limit.limit());
        (within(session.began, absolute) && within(session.used, idle)).then_some(session)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let session = Self { mark: parts.next()??, began: parts.next()??, used: parts.next()?? };
        parts.next().is_none().then_some(session)
    }

    /// What its endpoint's address comes to.
    pub(crate) fn mark(self) -> u64 {
        self.mark
    }
}

/// Tells a client which endpoint it had, where it does not know.
pub(crate) fn tell(
    policy: &SessionPersistence,
    session: Option<Session>,
    endpoint: EndpointAddr,
    secure: bool,
    now: SystemTime,
    headers: &mut HeaderMap,
) {
    let (mark, now) = (mark(endpoint), seconds(now));
    let kept = session.filter(|session| session.mark == mark);
    // Without a limit on idle time there is nothing new to say.
    if kept.is_some() && policy.idle_timeout.is_none() && policy.kind == SessionType::Cookie {
        return;
    }
    let began = kept.map_or(now, |session| session.began);
    let value = format!("{mark:x}.{began:x}.{now:x}");
    let name = name(policy);
    let (field, value) = match policy.kind {
        SessionType::Header => (HeaderName::from_bytes(name.as_bytes()).ok(), value),
        SessionType::Cookie => {
            let mut cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax");
            if secure {
                cookie.push_str("; Secure");
            }
            let permanent = policy.cookie_config.lifetime_type == CookieLifetime::Permanent;
            if let Some(limit) = policy.absolute_timeout.filter(|_| permanent) {
                let left = limit.get().as_secs().saturating_sub(now.saturating_sub(began));
                cookie.push_str(&format!("; Max-Age={left}"));
            }
            (Some(SET_COOKIE), cookie)
        }
    };
    if let (Some(field), Ok(value)) = (field, HeaderValue::from_str(&value)) {
        headers.append(field, value);
    }
}

fn name(policy: &SessionPersistence) -> &str {
    policy.session_name.as_deref().unwrap_or(match policy.kind {
        SessionType::Cookie => COOKIE_NAME,
        SessionType::Header => HEADER_NAME,
    })
}

/// The value of a cookie (RFC 6265 section 5.4).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> SessionPersistence {
        serde_json::from_str(text).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn endpoint(last: u8) -> EndpointAddr {
        EndpointAddr::new(([10, 0, 0, last], 80).into())
    }

    /// What the client sends with its next request.
    fn told(policy: &SessionPersistence, before: Option<Session>, last: u8, now: u64) -> Option<HeaderMap> {
        let mut answer = HeaderMap::new();
        tell(policy, before, endpoint(last), true, at(now), &mut answer);
        let mut next = HeaderMap::new();
        if let Some(cookie) = answer.get(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            next.insert(COOKIE, format!("other=1; {pair}").parse().unwrap());
        }
        if let Some(value) = answer.get(HEADER_NAME) {
            next.insert(HEADER_NAME, value.clone());
        }
        (!next.is_empty()).then_some(next)
    }

    #[test]
    fn a_client_comes_back_with_its_endpoint() {
        for text in ["{}", "{\"type\": \"Header\"}", "{\"idleTimeout\": \"10s\"}"] {
            let policy = policy(text);
            let sent = told(&policy, None, 1, 0).unwrap();
            let session = Session::of(&policy, &sent, at(1)).unwrap();
            assert_eq!(session.mark(), mark(endpoint(1)));
            assert_ne!(session.mark(), mark(endpoint(2)));
        }
        let policy = policy("{}");
        let session = Session::of(&policy, &told(&policy, None, 1, 0).unwrap(), at(1));
        assert_eq!(told(&policy, session, 1, 2), None, "it knows already");
        assert!(told(&policy, session, 2, 2).is_some(), "it has another now");
    }

    #[test]
    fn sessions_end() {
        let idle = policy("{\"idleTimeout\": \"10s\"}");
        let sent = told(&idle, None, 1, 0).unwrap();
        let session = Session::of(&idle, &sent, at(9));
        assert!(session.is_some());
        assert!(Session::of(&idle, &sent, at(10)).is_none());
        let sent = told(&idle, session, 1, 9).unwrap();
        assert!(Session::of(&idle, &sent, at(18)).is_some(), "it was used");
        let absolute = policy("{\"absoluteTimeout\": \"10s\", \"idleTimeout\": \"8s\"}");
        let first = Session::of(&absolute, &told(&absolute, None, 1, 0).unwrap(), at(5));
        let sent = told(&absolute, first, 1, 5).unwrap();
        assert!(Session::of(&absolute, &sent, at(9)).is_some());
        assert!(Session::of(&absolute, &sent, at(10)).is_none(), "however it is used");
    }

    #[test]
    fn nonsense_is_no_session() {
        let policy = policy("{}");
        for text in ["", "x", "1.2", "1.2.3.4", "g.1.1", "-1.1.1", "1.1.99999999999999999999"] {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("weft-session={text}").parse().unwrap());
            assert_eq!(Session::of(&policy, &headers, at(0)), None, "{text}");
        }
    }
}
