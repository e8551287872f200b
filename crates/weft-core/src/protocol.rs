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
