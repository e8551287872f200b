//! The mutating webhook: the API server asks about each new pod, the answer is a patch.
//!
//! Everything that decides is in [`inject`](crate::inject); here is what a server needs. It stands between every pod and
//! its start, and everybody in the cluster can reach it. So: all that it takes of memory comes out of a budget, nobody
//! keeps a connection by saying nothing, an address that asks for much has its share and no more, what the answer needs
//! from the cluster is at hand before it is asked for, and a replica that stops goes on answering until nobody asks.
//!
//! | module | |
//! |---|---|
//! | `review` | `AdmissionReview` to answer, as a pure function |
//! | `namespaces` | the labels of the pod's namespace |
//! | `limits` | the LimitRanges of the pod's namespace |
//! | `server` | TLS, connections, drain |
//! | `pace` | how often an address may connect |
//! | `seats`, `watched` | which connection gives way to another, and which one is silent for too long |
//! | `handler` | a request from its head to its answer |
//! | `budget`, `weight` | the memory of all reviews, and what one will take of it |
//! | `callers` | who may ask, where the API server shows a certificate |
//! | `authority` | the mesh's own authority as its signer |
//! | `certificate` | the serving certificate, made in memory and renewed |
//! | `ca_bundle` | the trust bundle in the `MutatingWebhookConfiguration` |
//! | `metrics` | what is counted |

mod authority;
mod budget;
mod ca_bundle;
mod callers;
mod certificate;
mod handler;
mod limits;
mod metrics;
mod namespaces;
mod pace;
mod review;
mod seats;
mod server;
mod watched;
mod weight;

pub use authority::AuthoritySigner;
pub(crate) use ca_bundle::trusts;
pub use callers::WebhookSettings;
pub use certificate::{ServingCertificate, ServingSigner};
pub use namespaces::{Labels, Namespaces};
pub use review::{Answer, answer};
pub use server::{Webhook, WebhookOptions};
pub use weight::weigh;

pub use crate::names::INJECTOR as NAME;
/// Where pods are sent to.
pub const PATH: &str = "/inject";
