//! Resources: what listeners, routes and backends there are, as YAML documents tell it.
//!
//! The kinds are those of the Kubernetes Gateway API (v1.5), the two core kinds that routes lead to, and two of our own for what
//! is outside a cluster. Their shapes are written here once, and not taken from generated bindings: those repeat a filter's
//! type for each of the places where a filter may stand, and pass over a field that is misspelt (docs/design/resources.md).
//!
//! What a document says is checked as far as it can be alone: values are of types that cannot hold a wrong one ([`value`]), and
//! fields that exclude each other are told. What takes two documents (a route and its gateway, a reference and its grant) is
//! the business of `weft-route`.
//!
//! | module | |
//! |---|---|
//! | `meta`, `set` | what every resource has: id, place, content; all of them together |
//! | `value` | the values of the Gateway API as types: host names, durations, header names, ports |
//! | `reference` | how one resource names another |
//! | `gateway`, `listener_tls` | `Gateway` |
//! | `http`, `grpc`, `l4`, `filter` | `HTTPRoute`, `GRPCRoute`, `TLSRoute` and `TCPRoute`; the filters |
//! | `policy` | `ReferenceGrant`, `BackendTLSPolicy` |
//! | `core_kinds` | `Service`, `Secret`, `ConfigMap`, `Namespace` |
//! | `own` | `Backend`, `Certificate` |

pub mod check;
pub mod core_kinds;
mod document;
mod error;
mod files;
pub mod filter;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod l4;
mod meta;
mod origin;
pub mod own;
pub mod pem;
pub mod policy;
pub mod reference;
#[cfg(test)]
mod schema;
mod set;
pub mod value;

pub use document::{MAX_FILE, MAX_NODES, locate, parse};
pub use error::{DocumentError, ErrorKind};
pub use files::{ResourceHandle, watch};
pub use meta::{Kind, ObjectMeta, Resource, ResourceId, Source, Spec};
pub use set::ResourceSet;
