//! CORS (the Fetch standard, "CORS protocol"): what browsers ask, and what they are told.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use weft_resource::value::CorsOrigin;

/// Who may call from a page of theirs, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Origins.
    pub origins: Vec<CorsOrigin>,
    /// Whether cookies may be sent along.
    pub credentials: bool,
    /// Methods, or `*`.
    pub methods: Vec<String>,
    /// Headers, or `*`.
    pub headers: Vec<String>,
    /// Headers that pages may read, or `*`.
    pub expose: Vec<String>,
    /// How long a browser may keep the answer, in seconds.
    pub max_age: u32,
}

impl Cors {
    /// The answer to a preflight. `None`: the request is none, and goes its way.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Response<()>> {
        let asked = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = request.get(ORIGIN)?;
        if method != Method::OPTIONS {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.allow(origin, headers);
        if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return Some(response);
        }
        let wanted = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        put(headers, ACCESS_CONTROL_ALLOW_METHODS, self.list(&self.methods, Some(asked)));
        put(headers, ACCESS_CONTROL_ALLOW_HEADERS, self.list(&self.headers, wanted));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        Some(response)
    }

    /// Tells a browser whether the page may read an answer. What the backend says of it is replaced: there is one who decides.
    pub fn decorate(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ] {
            answer.remove(name);
        }
        let Some(origin) = origin else {
            self.vary(answer);
            return;
        };
        self.allow(origin, answer);
        if answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            put(answer, ACCESS_CONTROL_EXPOSE_HEADERS, self.list(&self.expose, None));
        }
    }

    /// Whether answers differ by origin, so that caches must keep them apart.
    fn depends_on_origin(&self) -> bool {
        self.credentials || !self.origins.contains(&CorsOrigin::Any)
    }

    /// Tells caches, unless the backend has told them.
    fn vary(&self, answer: &mut HeaderMap) {
        let says = |value: &HeaderValue| {
            let names = value.to_str().unwrap_or_default().split(',').map(str::trim);
            names.into_iter().any(|name| name == "*" || name.eq_ignore_ascii_case("origin"))
        };
        if self.depends_on_origin() && !answer.get_all(VARY).iter().any(says) {
            answer.append(VARY, HeaderValue::from_static("origin"));
        }
    }

    fn allow(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        self.vary(answer);
        let allowed =
            origin.to_str().is_ok_and(|origin| self.origins.iter().any(|known| known.matches(origin)));
        if !allowed {
            return;
        }
        // With credentials `*` is not allowed to be said (the Fetch standard, "CORS protocol and credentials").
        let said = if self.depends_on_origin() { origin.clone() } else { HeaderValue::from_static("*") };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, said);
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// A list as a header has it. With credentials `*` means nothing but itself, and what was asked for is said in its place.
    fn list(&self, list: &[String], asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match list.iter().any(|item| item == "*") {
            true if !self.credentials => Some(HeaderValue::from_static("*")),
            true => asked.cloned(),
            false => HeaderValue::from_str(&list.join(", ")).ok().filter(|value| !value.is_empty()),
        }
    }
}

fn put(headers: &mut HeaderMap, name: http::HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}
