//! Everything that talks to Kubernetes: who is in the mesh, how pods get their sidecar, whose token it is, and what people
//! ask of a mesh that runs.
//!
//! The API server is asked by watches that are kept, never once a request; what a tenant writes is input like any other,
//! and is bounded. A part that fails is told, and the others go on.
//!
//! | module | |
//! |---|---|
//! | [`client`], [`names`] | the way to the API server, and what the parts call things there |
//! | [`control`] | `weft control`: the parts that know of Kubernetes, put together |
//! | [`credentials`] | the CA's: whose token it is, and where the root is kept |
//! | [`controller`] | membership, twins and modes, kept as the cluster's pods and Services ask for |
//! | [`check`], [`status`] | what people ask of a mesh that runs; `scrape` and `view` are their eyes |
//! | `manifests` | the objects of an installation, and their removal |

pub mod check;
pub mod client;
pub mod control;
pub mod controller;
pub mod credentials;
mod error;
pub mod inject;
pub mod manifests;
pub mod names;
pub mod scrape;
pub mod status;
pub(crate) mod view;
pub mod webhook;

pub use error::KubeError;
pub use kube::Client;
