//! What happens to a mesh in its daily life, under steady traffic: no request fails.
//!
//! Certificates are renewed, replicas crash, vanish, come, go, and are restarted one after another. The load is open (a
//! stall cannot hide), and a failed request ends the story with its reason.

#[path = "lifecycle/drain.rs"]
mod drain;
#[path = "lifecycle/probes.rs"]
mod probes;
#[path = "lifecycle/renewal.rs"]
mod renewal;
#[path = "lifecycle/replicas.rs"]
mod replicas;
#[path = "lifecycle/shop.rs"]
mod shop;
#[path = "lifecycle/wire.rs"]
mod wire;
