//! One reading of a request: what the gateway makes of a path, a host and the end of a body is what the origin makes of it.

#[path = "reading/desync.rs"]
mod desync;
#[path = "reading/hosts.rs"]
mod hosts;
#[path = "reading/origins.rs"]
mod origins;
#[path = "reading/paths.rs"]
mod paths;
#[path = "reading/raw.rs"]
mod raw;
#[path = "reading/redirects.rs"]
mod redirects;
