//! What governs a mesh on Kubernetes: who is in it, how pods get their sidecar, whose token it is, and what an installation
//! is made of.
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
//! | [`webhook`], [`inject`] | the injector, and what it does to a pod |
//! | [`manifests`] | the objects of an installation, and their removal |
//!
//! `weft-ops`, which tells people how a mesh is, sees with the controller's eyes: [`controller::facts`],
//! [`controller::world`], [`controller::modes`], [`controller::twins`] and [`controller::slips`] are open for that.

pub mod client;
pub mod control;
pub mod controller;
pub mod credentials;
mod error;
pub mod inject;
pub mod manifests;
pub mod names;
pub mod webhook;

pub use error::KubeError;
pub use kube::Client;
