//! What a gateway does to bodies on their way: compression.

#[path = "bodies/compression.rs"]
mod compression;
