//! Traffic interception: the rules that bring a pod's traffic to its proxy.
//!
//! The rules are the mesh's front door, and a front door that is half closed is worse than none: traffic that slips past
//! is plaintext that nobody notices. So the rules of a family are written in one transaction per table or not at all;
//! writing them twice gives the same rules; what the machine lacks is named with the cure, before anything is written
//! where that can be known; and [`verify`] proves with connections of its own that they capture.
//!
//! | module | |
//! |---|---|
//! | `config` | what to capture |
//! | `rules` | the rules as text, a pure function; says what each is for |
//! | `backend` | which iptables: legacy or nft, and the machine's capabilities |
//! | `install` | write, check, remove |
//! | `probe` | the self-test |

mod backend;
mod config;
mod error;
mod install;
mod probe;
mod rules;

pub use backend::{Backend, BackendChoice, Families};
pub use config::{Family, InterceptConfig, OPEN_PORTS, OWN_PORTS, PROXY_UID, PortRange};
pub use error::InterceptError;
pub use install::{Host, Report, install, remove, verify_installed};
pub use probe::verify;
