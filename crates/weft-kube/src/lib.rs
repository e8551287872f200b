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
//! | [`client`], [`names`] | the way to the API server, and what the parts call things there |
//! | [`control`] | `weft control`: the parts that know of Kubernetes, put together |
//! | [`credentials`] | the CA's: whose token it is, and where the root is kept |
//! | [`controller`] | membership, twins and modes, kept as the cluster's pods and Services ask for |
//! | [`check`], [`status`] | what people ask of a mesh that runs; `scrape` and `view` are their eyes |
//! | `manifests` | the objects of an installation, and their removal |

mod backend;
pub mod check;
pub mod client;
mod config;
pub mod control;
pub mod controller;
pub mod credentials;
mod error;
pub mod inject;
mod install;
pub mod manifests;
pub mod names;
mod probe;
mod rules;
pub mod scrape;
pub mod status;
pub(crate) mod view;
pub mod webhook;

pub use backend::{Backend, BackendChoice, Families};
pub use config::{Family, InterceptConfig, OWN_PORTS, PROXY_UID, PortRange};
pub use error::KubeError;
pub use install::{Host, Report, install, remove, verify_installed};
pub use kube::Client;
pub use probe::verify;
