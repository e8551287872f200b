//! The table against a naive reading of the specification.
