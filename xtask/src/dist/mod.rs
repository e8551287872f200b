//! `cargo xtask dist`: the image.
#![expect(dead_code, reason = "the command that uses it comes next")]

pub(crate) mod oci;
mod rootfs;
