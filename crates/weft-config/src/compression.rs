//! `gateway.compression`: which answers a gateway makes smaller on their way to clients.

use std::fmt;
use std::str::FromStr;

use weft_core::ContentCoding;

use crate::error::ProblemKind;
use crate::read::{Bad, Section};
use crate::scalar;
use crate::value::Size;

/// Below it the head that says so, and the time it takes, are more than what is saved.
const MINIMUM_SIZE: u64 = 1024;
/// The largest that may be asked for: beyond it hardly an answer is left.
const LARGEST_MINIMUM: u64 = 1 << 30;
/// What is text, or an uncompressed format that browsers load. Images, sound, films, archives and most fonts are compressed in themselves.
const CONTENT_TYPES: &[&str] = &[
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/ld+json",
    "application/problem+json",
    "application/manifest+json",
    "application/graphql-response+json",
    "application/wasm",
    "image/svg+xml",
    "font/ttf",
    "font/otf",
];

/// `gateway.compression`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// `algorithms`: of those that a client likes alike, the first.
    pub algorithms: Vec<ContentCoding>,
    /// `minimumSize`: answers that say to be smaller pass as they are, octets.
    pub minimum_size: u64,
    /// `contentTypes`: what is compressed.
    pub content_types: Vec<ContentType>,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            algorithms: ContentCoding::ALL.to_vec(),
            minimum_size: MINIMUM_SIZE,
            content_types: CONTENT_TYPES.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}

/// `type/subtype`, or `type/*` for all of a type; in lower case, without parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType(Box<str>);

impl ContentType {
    /// Whether a media type, without parameters, is one of it. Case does not count (RFC 9110 section 8.3.1).
    pub fn takes(&self, essence: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => {
                essence.get(..family.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(family))
            }
            None => essence.eq_ignore_ascii_case(&self.0),
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContentType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // RFC 6838 section 4.2.
        let name = |name: &str| {
            name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
        };
        let (family, kind) = text.split_once('/').ok_or("is no media type")?;
        if !name(family) || !(kind == "*" || name(kind)) {
            return Err("is no media type");
        }
        let text = text.to_ascii_lowercase();
        if is_message_stream(&text) {
            return Err("is a stream of small messages, which are never compressed");
        }
        Ok(Self(text.into()))
    }
}

/// Whether a media type, in lower case and without parameters, is one whose messages are to arrive at once, each by itself: events of a
/// server, gRPC (which has compression of its own), parts that replace each other.
pub fn is_message_stream(essence: &str) -> bool {
    essence == "text/event-stream"
        || essence == "multipart/x-mixed-replace"
        || essence
            .strip_prefix("application/grpc")
            .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'+' | b'-')))
}

/// Reads `compression` of the section `gateway`. `None`: it is off.
pub(crate) fn compression(gateway: &Section<'_, '_>) -> Option<Compression> {
    let on = gateway.has("compression");
    let s = gateway.section("compression");
    let usual = Compression::default();
    let algorithms = s.list("algorithms", scalar::parsed("write zstd, br or gzip"));
    let minimum = s.scalar("minimumSize", scalar::size(0..=LARGEST_MINIMUM));
    let types =
        s.list("contentTypes", scalar::parsed("write them as text/html, or text/* for all of a type"));
    if !on {
        return None;
    }
    if s.reader().role() != crate::Role::Gateway {
        let reason = "a sidecar passes answers as they are".to_owned();
        let bad = Bad {
            kind: ProblemKind::Conflict,
            reason,
            cure: "leave it out, or run `weft gateway`".to_owned(),
        };
        s.reader().refuse(s.origin(), s.path(), bad);
        return None;
    }
    let algorithms = match algorithms {
        None => usual.algorithms,
        Some(listed) => once(&s, "algorithms", listed),
    };
    let content_types = match types {
        None => usual.content_types,
        Some(listed) => once(&s, "contentTypes", listed),
    };
    let minimum_size = minimum.map_or(usual.minimum_size, |(size, _)| size.0);
    s.default("algorithms", &joined(&algorithms));
    s.default("minimumSize", &Size(minimum_size));
    s.default("contentTypes", &joined(&content_types));
    Some(Compression { algorithms, minimum_size, content_types })
}

/// A list that says something, each thing once.
fn once<T: PartialEq + fmt::Display>(
    s: &Section<'_, '_>,
    name: &'static str,
    listed: Vec<(T, crate::error::Origin)>,
) -> Vec<T> {
    let path = format!("{}.{name}", s.path());
    if listed.is_empty() {
        let bad = Bad::value(
            "nothing is listed here",
            "name at least one, or leave the field out for the usual ones",
        );
        s.reader().refuse(s.origin(), &path, bad);
    }
    let mut kept: Vec<T> = Vec::with_capacity(listed.len());
    for (i, (item, origin)) in listed.into_iter().enumerate() {
        if kept.contains(&item) {
            let bad = Bad::value(format!("{item} is listed twice"), "keep one");
            s.reader().refuse(origin, &format!("{path}[{i}]"), bad);
        } else {
            kept.push(item);
        }
    }
    kept
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Env, ProxyConfig, Role};

    fn load(role: Role, text: &str) -> Result<Option<Compression>, String> {
        let more = if role == Role::Gateway {
            "resources: [r]\n"
        } else {
            "identity: {files: {certificate: c, key: k, bundle: b}}\n"
        };
        let env = Env::empty().with_role(role);
        let config = ProxyConfig::from_text(Path::new("weft.yaml"), &format!("{more}{text}"), &env);
        config.map(|config| config.resources.compression).map_err(|errors| errors.to_string())
    }

    #[test]
    fn it_is_off_until_it_is_named() {
        assert_eq!(load(Role::Gateway, ""), Ok(None));
        assert_eq!(load(Role::Gateway, "gateway: {trustedHops: 1}"), Ok(None));
        let usual = load(Role::Gateway, "gateway: {compression: {}}").unwrap().unwrap();
        assert_eq!(usual, Compression::default());
        assert_eq!(usual.content_types.len(), CONTENT_TYPES.len(), "one of the usual types cannot be read");
        let text = "gateway: {compression: {algorithms: [gzip, br], minimumSize: 4KiB, contentTypes: [Text/HTML, image/*]}}";
        let own = load(Role::Gateway, text).unwrap().unwrap();
        assert_eq!(own.algorithms, [ContentCoding::Gzip, ContentCoding::Brotli]);
        assert_eq!(own.minimum_size, 4096);
        assert_eq!(joined(&own.content_types), "text/html, image/*");
        let env =
            Env::empty().with_role(Role::Gateway).with_flag("--set", "gateway.compression.algorithms", "br");
        let config = ProxyConfig::from_text(Path::new("weft.yaml"), "resources: [r]", &env).unwrap();
        assert_eq!(config.resources.compression.unwrap().algorithms, [ContentCoding::Brotli]);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_cure() {
        for (field, told) in [
            ("algorithms: [deflate]", "gateway.compression.algorithms[0]"),
            ("algorithms: []", "nothing is listed"),
            ("algorithms: [br, br]", "algorithms[1]: br is listed twice"),
            ("minimumSize: 2GiB", "write a size from 0 to 1GiB"),
            ("contentTypes: [html]", "write them as text/html"),
            ("contentTypes: [\"*/*\"]", "is no media type"),
            ("contentTypes: [text/event-stream]", "never compressed"),
            ("contentTypes: [application/grpc-web+proto]", "never compressed"),
            ("contentTypes: [\"text/html; charset=utf-8\"]", "is no media type"),
            ("level: 3", "there is no such field"),
        ] {
            let errors =
                load(Role::Gateway, &format!("gateway: {{compression: {{{field}}}}}\n")).unwrap_err();
            assert!(errors.starts_with("weft.yaml:2:") && errors.contains(told), "{field}: {errors}");
        }
        let errors = load(Role::Sidecar, "gateway: {compression: {}}\n").unwrap_err();
        assert!(errors.contains("gateway.compression: a sidecar passes answers as they are"), "{errors}");
    }

    #[test]
    fn types_are_compared_without_case() {
        let takes = |text: &str, essence: &str| text.parse::<ContentType>().unwrap().takes(essence);
        assert!(takes("text/*", "Text/Plain") && takes("TEXT/html", "text/HTML"));
        assert!(
            !takes("text/*", "text") && !takes("text/html", "text/html5") && !takes("text/*", "textual/x")
        );
        assert!(!takes("text/*", "tex\u{1f600}"));
    }
}
