//! The mesh certificate authority.
