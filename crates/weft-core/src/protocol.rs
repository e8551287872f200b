use std::fmt;

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
