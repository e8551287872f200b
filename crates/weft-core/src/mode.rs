use std::fmt;

use serde::{Deserialize, Serialize};

/// How much mutual TLS a destination or a workload asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// Mutual TLS or nothing.
    #[default]
    Strict,
    /// Mutual TLS where the peer speaks it, plaintext otherwise: for moving in.
    Permissive,
    /// Never mutual TLS.
    Disable,
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Disable => "disable",
        })
    }
}
