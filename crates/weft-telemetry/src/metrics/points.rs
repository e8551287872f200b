//! A collection as values: what an exporter takes where a scrape takes text.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::SystemTime;

use super::Family;

/// The value of a counter or gauge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Unsigned(u64),
    /// What may be below zero.
    Signed(i64),
    /// What is no whole number.
    Float(f64),
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => n.fmt(f),
            Self::Signed(n) => n.fmt(f),
            Self::Float(n) => n.fmt(f),
        }
    }
}

impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Self::Unsigned(n)
    }
}

impl From<usize> for Number {
    fn from(n: usize) -> Self {
        Self::Unsigned(n as u64)
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        Self::Signed(n)
    }
}

impl From<i32> for Number {
    fn from(n: i32) -> Self {
        Self::Signed(n.into())
    }
}

impl From<f64> for Number {
    fn from(n: f64) -> Self {
        Self::Float(n)
    }
}

/// A family and its series at one moment.
#[derive(Clone, Debug)]
pub(crate) struct FamilyPoints {
    pub(crate) family: &'static Family,
    pub(crate) points: Vec<Point>,
}

/// One series at that moment.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) labels: PointLabels,
    /// Since when it counts.
    pub(crate) since: SystemTime,
    pub(crate) value: PointValue,
}

#[derive(Clone, Debug)]
pub(crate) enum PointLabels {
    /// Values in the family's order; an empty one is a label that is not there.
    Are(Arc<[Box<str>]>),
    /// The series of the label sets that the cap refused.
    Overflow,
}

#[derive(Clone, Debug)]
pub(crate) enum PointValue {
    Number(Number),
    Histogram {
        /// One for each bound and one beyond the last; not cumulative.
        counts: Vec<u64>,
        /// In the histogram's base unit.
        sum: u64,
    },
}
