//! What an attacker on the network, in DNS, or in another pod gets from the mesh: nothing.
//!
//! Each story attacks real sidecars from outside with peers that are not Weft (`security/peers.rs`) and certificates
//! that are almost right (`security/certs.rs`); each has a control in which the same attack with the one thing put
//! right goes through, so that a refusal for another reason cannot pass for a success.

#[path = "security/authority.rs"]
mod authority;
#[path = "security/bytes.rs"]
mod bytes;
#[path = "security/careless.rs"]
mod careless;
#[path = "security/certs.rs"]
mod certs;
#[path = "security/closing.rs"]
mod closing;
#[path = "security/headers.rs"]
mod headers;
#[path = "security/inbound.rs"]
mod inbound;
#[path = "security/links.rs"]
mod links;
#[path = "security/names.rs"]
mod names;
#[path = "security/outbound.rs"]
mod outbound;
#[path = "security/peers.rs"]
mod peers;
#[path = "security/scene.rs"]
mod scene;
#[path = "security/secrets.rs"]
mod secrets;
#[path = "security/speaker.rs"]
mod speaker;
#[path = "security/takeover.rs"]
mod takeover;

use std::time::Duration;

/// Only a safety net for things that come by themselves.
const SOON: Duration = Duration::from_secs(20);
