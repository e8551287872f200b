//! What people ask of a mesh that runs on Kubernetes: is it well, what does it do, what does each sidecar hold?
//!
//! All of it runs at a person's terminal, with that person's rights, and changes nothing. So what may not be seen is said
//! and not an end, each trouble comes with its cure, and what is told is judged by the controller's own rules: a check
//! that has rules of its own would contradict the mesh it looks at. Everything comes through the API server, because a
//! person may have no other way to a pod; no Prometheus is needed.
//!
//! | module | |
//! |---|---|
//! | [`check`] | `weft check`: before an installation and after it, from the API server to the last proxy |
//! | [`status`] | `weft status` and `weft certs`: what each workload does, what each proxy holds |
//! | [`scrape`] | the proxies' own metrics, through the API server's pod proxy |
//! | `view` | one look at the cluster, by the controller's facts |
//! | `words` | numbers in sentences |

pub mod check;
mod error;
pub mod scrape;
pub mod status;
pub(crate) mod view;
pub(crate) mod words;

pub use error::OpsError;
