//! URLs as the kubelet reads and writes them.
//!
//! The kubelet is written in Go, and what it sends for a probe's `path` is what Go's `net/url` makes of it, oddities included: a
//! path that it cannot parse is sent all the same, escaped; one octet that has to be escaped has the whole path escaped
//! anew, `%2F` of it becoming `/`; a query is sent as it was written; `//host/x` is `/x`. A check must not depend on whether
//! there is a mesh, so the same is done here. `url_tests` has what Go's own client put on the wire.

use std::net::Ipv6Addr;

/// A reference (RFC 3986 section 4.1) with its path and fragment escaped as they are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Url {
    /// In lower case; empty where there is none.
    pub(super) scheme: Vec<u8>,
    /// What is behind the scheme where that has no hierarchy, as in `mailto:x`.
    pub(super) opaque: Vec<u8>,
    pub(super) user: Option<User>,
    /// The host, and the port where there is one, as they were written.
    pub(super) host: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) query: Option<Vec<u8>>,
    pub(super) fragment: Vec<u8>,
}

/// What is before the `@`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: Vec<u8>,
    pub(super) password: Vec<u8>,
}

/// What is read or written: each part leaves other octets as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Host,
    User,
    Fragment,
}

impl Url {
    /// What the kubelet asks for where a probe says `path`; `None` where it would find no host to ask.
    pub(super) fn of_probe(scheme: &str, host: &str, path: &str) -> Option<Self> {
        let text = path.as_bytes();
        let mut url =
            Self::parse(text).unwrap_or_else(|| Self { path: escape(text, Part::Path), ..Self::default() });
        if !url.opaque.is_empty() {
            return None;
        }
        scheme.as_bytes().clone_into(&mut url.scheme);
        host.as_bytes().clone_into(&mut url.host);
        if !url.path.is_empty() && !url.path.starts_with(b"/") {
            url.path.insert(0, b'/');
        }
        Some(url)
    }

    /// Reads a reference; `None` where Go refuses it.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (text, fragment) = cut(text, b'#');
        if text.iter().any(u8::is_ascii_control) {
            return None;
        }
        let fragment = escaped(fragment.unwrap_or_default(), Part::Fragment)?;
        let mut url = Self { fragment, ..Self::default() };
        let (scheme, rest) = scheme(text)?;
        url.scheme = scheme.to_ascii_lowercase();
        let (rest, query) = cut(rest, b'?');
        url.query = query.map(<[u8]>::to_vec);
        if !rest.starts_with(b"/") {
            if !scheme.is_empty() {
                rest.clone_into(&mut url.opaque);
                return Some(url);
            }
            // The first segment of a relative path has no colon (RFC 3986 section 4.2).
            if cut(rest, b'/').0.contains(&b':') {
                return None;
            }
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix(b"//")
            && !(scheme.is_empty() && authority.starts_with(b"/"))
        {
            let end = authority.iter().position(|b| *b == b'/').unwrap_or(authority.len());
            let (authority, behind) = authority.split_at_checked(end)?;
            (url.user, url.host) = self::authority(&url.scheme, authority)?;
            path = behind;
        }
        url.path = escaped(path, Part::Path)?;
        Some(url)
    }

    /// Where `reference` leads from here (RFC 3986 section 5.2).
    pub(super) fn join(&self, mut reference: Self) -> Self {
        if !reference.scheme.is_empty() || !reference.host.is_empty() || reference.user.is_some() {
            if reference.scheme.is_empty() {
                reference.scheme.clone_from(&self.scheme);
            }
            reference.path = without_dots(&[], &reference.path);
            return reference;
        }
        if reference.path.is_empty() && reference.query.is_none() {
            reference.query = self.query.clone().filter(|query| !query.is_empty());
            if reference.fragment.is_empty() {
                reference.fragment.clone_from(&self.fragment);
            }
        }
        reference.scheme.clone_from(&self.scheme);
        reference.host.clone_from(&self.host);
        reference.user.clone_from(&self.user);
        reference.path = without_dots(&self.path, &reference.path);
        reference
    }

    /// The host without its port and without the brackets of an IPv6 address.
    pub(super) fn hostname(&self) -> &[u8] {
        let host = self.split_host().0;
        host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host)
    }

    /// The port, or the one that the scheme stands for.
    pub(super) fn port(&self) -> Option<u16> {
        match self.split_host().1 {
            [] if self.scheme == b"https" => Some(443),
            [] => Some(80),
            port => std::str::from_utf8(port).ok()?.parse().ok(),
        }
    }

    fn split_host(&self) -> (&[u8], &[u8]) {
        let colon = self.host.iter().rposition(|b| *b == b':');
        let parts = colon.and_then(|colon| self.host.split_at_checked(colon));
        match parts {
            Some((host, [_, port @ ..])) if port.iter().all(u8::is_ascii_digit) => (host, port),
            _ => (&self.host, &[]),
        }
    }

    /// The target of a request in origin form (RFC 9112 section 3.2.1), if not always one that the RFC allows.
    pub(super) fn target(&self) -> Vec<u8> {
        let mut target = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        self.write_query(&mut target);
        target
    }

    /// The whole, as `referer` has it: without the user.
    pub(super) fn referer(&self) -> Vec<u8> {
        let mut text = [&self.scheme, &b"://"[..], &self.host, &self.path].concat();
        self.write_query(&mut text);
        if !self.fragment.is_empty() {
            text.push(b'#');
            text.extend_from_slice(&self.fragment);
        }
        text
    }

    fn write_query(&self, to: &mut Vec<u8>) {
        if let Some(query) = &self.query {
            to.push(b'?');
            to.extend_from_slice(query);
        }
    }
}

/// What is before and behind the first `at`.
fn cut(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |b| *b == at);
    (parts.next().unwrap_or_default(), parts.next())
}

/// The scheme (RFC 3986 section 3.1), empty where there is none, and what follows; `None` where a colon comes first.
fn scheme(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|b| !(b.is_ascii_alphanumeric() || b"+-.".contains(b)));
    let Some((name, [b':', rest @ ..])) = end.and_then(|end| text.split_at_checked(end)) else {
        return Some((&[], text));
    };
    match name.first() {
        None => None,
        Some(first) if first.is_ascii_alphabetic() => Some((name, rest)),
        Some(_) => Some((&[], text)),
    }
}

fn authority(scheme: &[u8], text: &[u8]) -> Option<(Option<User>, Vec<u8>)> {
    let at = text.iter().rposition(|b| *b == b'@');
    let Some((user, [_, host_text @ ..])) = at.and_then(|at| text.split_at_checked(at)) else {
        return Some((None, host(scheme, text)?));
    };
    let host = host(scheme, host_text)?;
    if !user.iter().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(b)) {
        return None;
    }
    let (name, password) = cut(user, b':');
    let name = unescape(name, Part::User)?;
    let password = unescape(password.unwrap_or_default(), Part::User)?;
    Some((Some(User { name, password }), host))
}

/// Checks a host with its port.
fn host(scheme: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let is_port = |text: &[u8]| match text {
        [] => true,
        [first, digits @ ..] => *first == b':' && digits.iter().all(u8::is_ascii_digit),
    };
    match text.iter().rposition(|b| *b == b'[') {
        Some(0) => {
            let end = text.iter().rposition(|b| *b == b']')?;
            let (address, port) = (text.get(1..end)?, text.get(end + 1..)?);
            // A zone (RFC 6874) is none of the address's.
            let address = address.split(|b| *b == b'%').next().unwrap_or_default();
            std::str::from_utf8(address).ok()?.parse::<Ipv6Addr>().ok()?;
            return is_port(port).then(|| text.to_vec());
        }
        Some(_) => return None,
        None => {}
    }
    let strict = [&b"http"[..], b"https"].contains(&scheme);
    let mut colons = text.iter().enumerate().filter(|(_, b)| **b == b':').map(|(at, _)| at);
    if let Some(at) = if strict { colons.next() } else { colons.next_back() }
        && !is_port(text.get(at..)?)
    {
        return None;
    }
    unescape(text, Part::Host)
}

impl Part {
    /// Whether Go writes the octet as it is.
    fn keeps(self, octet: u8) -> bool {
        let also: &[u8] = match self {
            Self::Path => b"$&+,/:;=@",
            Self::Host => b"!$&'()*+,;=:[]<>\"",
            Self::User => b"$&+,;=",
            Self::Fragment => b"$&+,/:;=?@!()*",
        };
        octet.is_ascii_alphanumeric() || b"-_.~".contains(&octet) || also.contains(&octet)
    }

    /// Whether the octet may stand in a text that is escaped already.
    fn allows(self, octet: u8) -> bool {
        self.keeps(octet) || b"!$&'()*+,;=:@[]%".contains(&octet)
    }
}

/// The text as it is where it can be sent so, else escaped anew; `None` where what looks escaped is not.
fn escaped(text: &[u8], part: Part) -> Option<Vec<u8>> {
    let plain = unescape(text, part)?;
    if text.iter().all(|octet| part.allows(*octet)) {
        Some(text.to_vec())
    } else {
        Some(escape(&plain, part))
    }
}

fn escape(text: &[u8], part: Part) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for octet in text {
        if part.keeps(*octet) {
            escaped.push(*octet);
        } else {
            escaped.extend_from_slice(format!("%{octet:02X}").as_bytes());
        }
    }
    escaped
}

/// `None` where a `%` is not followed by two hexadecimal digits, or something is no host's.
fn unescape(text: &[u8], part: Part) -> Option<Vec<u8>> {
    let hex = |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            if part == Part::Host && first.is_ascii() && !part.keeps(*first) {
                return None;
            }
            plain.push(*first);
            continue;
        }
        let [high, low, behind @ ..] = behind else { return None };
        let octet = hex(*high)? * 16 + hex(*low)?;
        // Hosts escape what is not ASCII only, and the beginning of a zone.
        if part == Part::Host && octet.is_ascii() && octet != b'%' {
            return None;
        }
        plain.push(octet);
        rest = behind;
    }
    Some(plain)
}

/// `reference` put in the place of the last segment of `base`, and `.` and `..` taken out.
fn without_dots(base: &[u8], reference: &[u8]) -> Vec<u8> {
    let full = if reference.is_empty() {
        base.to_vec()
    } else if reference.starts_with(b"/") {
        reference.to_vec()
    } else {
        let end = base.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
        [base.get(..end).unwrap_or_default(), reference].concat()
    };
    if full.is_empty() {
        return full;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut dots = false;
    for segment in full.split(|b| *b == b'/') {
        dots = [&b"."[..], b".."].contains(&segment);
        match segment {
            b"." if kept.is_empty() => kept.push(b""),
            b"." => {}
            b".." => {
                kept.pop();
                // The root itself is nothing to stand behind.
                if kept == [b""] {
                    kept.clear();
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut path = kept.join(&b'/');
    if dots {
        path.push(b'/');
    }
    if !path.starts_with(b"/") {
        path.insert(0, b'/');
    }
    path
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
