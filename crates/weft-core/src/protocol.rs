use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// What is known of the application protocol of a service before its first byte.
///
/// The first label of an SRV record (`_http._tcp.name`) or configuration may tell it; otherwise it is detected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Nothing is known: look at the first bytes.
    #[default]
    Detect,
    /// HTTP of any version.
    Http,
    /// Bytes; never looked at.
    Opaque,
}

impl fmt::Display for AppProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detect => "detect",
            Self::Http => "http",
            Self::Opaque => "opaque",
        })
    }
}

/// A version of the PROXY protocol: how one end of a connection tells the other, in front of everything else, for whom it
/// was opened (haproxy.org, `proxy-protocol.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text (section 2.1).
    V1,
    /// A binary header (section 2.2).
    V2,
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// A way to make content smaller on its way (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentCoding {
    /// `gzip` (RFC 1952).
    Gzip,
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878).
    Zstd,
}

impl ContentCoding {
    /// All of them, what costs least for what it saves first.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// The name in `Content-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for ContentCoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ContentCoding {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let named = Self::ALL.into_iter().find(|coding| coding.as_str() == text);
        named.ok_or_else(|| ParseError::new("content coding", text, "it is none of zstd, br and gzip"))
    }
}
