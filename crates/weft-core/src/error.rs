/// A value from outside (configuration, certificate, DNS) that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?}: {reason}")]
pub struct ParseError {
    what: &'static str,
    value: String,
    reason: &'static str,
}

impl ParseError {
    /// `what` names the kind of value ("SPIFFE id"), `reason` says which rule it breaks.
    pub fn new(what: &'static str, value: impl Into<String>, reason: &'static str) -> Self {
        let mut value = value.into();
        if value.len() > 256 {
            // The value may come from the network; a log line must stay a line.
            let cut = (0..=256).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0);
            value.truncate(cut);
        }
        Self { what, value, reason }
    }
}
