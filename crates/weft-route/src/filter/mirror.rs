//! Copies of requests.

use std::fmt;
use std::sync::Arc;

use crate::program::Upstream;

/// A copy of a share of the requests goes to an upstream; its answer is thrown away.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// How many.
    pub share: Share,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    numerator: u32,
    denominator: u32,
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self { numerator: 1, denominator: 1 };

    /// So many of so many. `None`: that is no share.
    pub fn of(numerator: u32, denominator: u32) -> Option<Self> {
        (denominator > 0 && numerator <= denominator).then_some(Self { numerator, denominator })
    }

    /// Whether the next request is one of it.
    pub fn takes(self, rng: &mut fastrand::Rng) -> bool {
        self.numerator == self.denominator || rng.u32(..self.denominator) < self.numerator
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { numerator, denominator } if numerator == denominator => f.write_str("all"),
            Self { numerator, denominator: 100 } => write!(f, "{numerator} %"),
            Self { numerator, denominator } => write!(f, "{numerator} of {denominator}"),
        }
    }
}
