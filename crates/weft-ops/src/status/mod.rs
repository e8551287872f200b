//! `weft status` and `weft certs`: what each workload does, and what each proxy holds.
//!
//! Both are for the moment in which somebody wants to know and has a terminal, not a dashboard. Everything comes from the
//! proxies' own metrics through the API server, so no Prometheus is needed; rates are the difference of two looks.
//!
//! | module | |
//! |---|---|
//! | `traffic` | rates and latencies of a workload, from two looks |
//! | `workloads` | `weft status` |
//! | `certs` | `weft certs` |

mod certs;
mod traffic;
mod workloads;

pub use crate::view::Workload;
pub use certs::{CertsReport, ProxyCerts, Root, certs};
pub use traffic::Traffic;
pub use workloads::{StatusReport, Unscraped, WorkloadStatus, status};
