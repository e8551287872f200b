//! The mutating webhook: the API server asks about each new pod, the answer is a patch.
//!
//! Everything that decides is in [`inject`](crate::inject); here is what a server needs. It stands between every pod and
//! its start, so: a request has a bounded size and time, whatever comes in is answered, what the answer needs from the
//! cluster is at hand before it is asked for, and a replica that stops finishes what it has begun.
//!
//! | module | |
//! |---|---|
//! | `review` | `AdmissionReview` to answer, as a pure function |
//! | `namespaces` | the labels of the pod's namespace |
//! | `server` | TLS, limits, drain |
//! | `authority` | the mesh's own authority as its signer |
//! | `certificate` | the serving certificate, made in memory and renewed |
//! | `ca_bundle` | the trust bundle in the `MutatingWebhookConfiguration` |
//! | `metrics` | what is counted |

mod authority;
mod ca_bundle;
mod certificate;
mod metrics;
mod namespaces;
mod review;
mod server;

pub use authority::AuthoritySigner;
pub use certificate::{ServingCertificate, ServingSigner};
pub use namespaces::{Labels, Namespaces};
pub use review::{Answer, answer};
pub use server::{Webhook, WebhookOptions, run};

pub use crate::names::INJECTOR as NAME;
/// Where pods are sent to.
pub const PATH: &str = "/inject";
