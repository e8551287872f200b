//! The head of a probe's request, octet for octet as the kubelet writes it.
//!
//! It is made from the probe's definition and from nothing else; what the one who asks for the check sends never reaches
//! the application. The order is that of Go's client: Host, User-Agent, the others by name, and `Connection: close` last.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use weft_config::{KUBELET_USER_AGENT, ProbeHeader};

use super::url::Url;

/// What Go's client writes by itself, or not at all in a request without a body.
const NOT_AMONG_THE_OTHERS: [&str; 5] =
    ["Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer"];

/// The headers of a definition, by their name in its canonical form, each with its values in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(BTreeMap<String, Vec<String>>);

impl Headers {
    /// What the definition says, and what the kubelet adds to that.
    pub(super) fn of_probe(written: &[ProbeHeader]) -> Self {
        let mut headers = Self::default();
        for header in written {
            headers.0.entry(canonical(&header.name)).or_default().push(header.value.clone());
        }
        headers.0.entry("User-Agent".to_owned()).or_insert_with(|| vec![KUBELET_USER_AGENT.to_owned()]);
        // Whoever writes an empty one wants none.
        match headers.first("Accept") {
            None => headers.set("Accept", "*/*".to_owned()),
            Some("") => drop(headers.0.remove("Accept")),
            Some(_) => {}
        }
        headers
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), vec![value]);
    }

    /// Whether `Connection` is the definition's own matter: it closes already, or asks for another protocol.
    fn say_how_it_ends(&self) -> bool {
        let named = |value: &str, token: &str| {
            value.split(',').any(|word| word.trim_ascii().eq_ignore_ascii_case(token))
        };
        let upgrades = || self.0.get("Connection").into_iter().flatten().any(|value| named(value, "upgrade"));
        self.first("Connection").is_some_and(|value| named(value, "close"))
            || (self.first("Upgrade").is_some_and(|value| !value.is_empty()) && upgrades())
    }
}

/// One request.
pub(super) struct Question<'a> {
    pub(super) url: &'a Url,
    /// The definition's own `Host`.
    pub(super) host: Option<&'a str>,
    pub(super) headers: &'a Headers,
    /// Where a redirect came from.
    pub(super) from: Option<&'a Url>,
}

impl Question<'_> {
    /// The head, with the empty line.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = [b"GET ", &self.url.target()[..], b" HTTP/1.1\r\n"].concat();
        let own_host = self.host.map(|host| if host.bytes().all(is_host) { host } else { "" });
        line(&mut head, "Host", own_host.map_or(&self.url.host[..], str::as_bytes));
        let user_agent = self.headers.first("User-Agent").unwrap_or_default();
        if !user_agent.is_empty() {
            line(&mut head, "User-Agent", user_agent.as_bytes());
        }
        let (authorization, referer) = (self.authorization(), self.referer());
        let mut others: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for (name, values) in &self.headers.0 {
            if !NOT_AMONG_THE_OTHERS.contains(&name.as_str()) {
                others.insert(name, values.iter().map(String::as_bytes).collect());
            }
        }
        if let Some(value) = &authorization {
            others.insert("Authorization", vec![value]);
        }
        if let Some(value) = &referer {
            others.insert("Referer", vec![value]);
        }
        for (name, values) in others {
            values.into_iter().for_each(|value| line(&mut head, name, value));
        }
        if !self.headers.say_how_it_ends() {
            line(&mut head, "Connection", b"close");
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// A user in the URL, where the definition has no credentials of its own (RFC 7617 section 2).
    fn authorization(&self) -> Option<Vec<u8>> {
        let user = self.url.user.as_ref()?;
        if self.headers.first("Authorization").is_some_and(|value| !value.is_empty()) {
            return None;
        }
        let pair = [&user.name[..], b":", &user.password].concat();
        Some(format!("Basic {}", STANDARD.encode(pair)).into_bytes())
    }

    /// The page before, unless the definition has another, and never out of TLS (RFC 9110 section 10.1.3).
    fn referer(&self) -> Option<Vec<u8>> {
        let from = self.from?;
        let leaves_tls = from.scheme == b"https" && self.url.scheme == b"http";
        let own = self.headers.first("Referer").is_some_and(|value| !value.is_empty());
        (!leaves_tls && !own).then(|| from.referer())
    }
}

fn line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.trim_ascii());
    head.extend_from_slice(b"\r\n");
}

/// `X-Custom-Name`: upper case at the beginning and behind each `-`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    let letter = |c: char| {
        let written = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        upper = c == '-';
        written
    };
    name.chars().map(letter).collect()
}

/// What Go takes in a `Host`; one with anything else it sends empty.
fn is_host(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&octet)
}
