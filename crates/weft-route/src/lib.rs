//! Routes: Gateway API resources compiled to what a request needs.
//!
//! [`compile()`] makes a [`Program`] of a [`ResourceSet`](weft_resource::ResourceSet): every name resolved, every reference
//! checked against its grant, every match put in its place. A request then asks a table ([`HttpTable::find`]) and gets a rule with
//! its filters and backends; nothing is looked up by name any more. What could not be compiled is told in notes, which
//! are what Kubernetes calls conditions.
//!
//! Nothing here has a socket, a clock or a thread.
//!
//! | module | |
//! |---|---|
//! | `program` | what comes out: listeners, rules, backends, upstreams |
//! | `compile` | resources to a program |
//! | `table` | hosts by reversed labels, paths by elements, the rest by precedence |
//! | `request` | a request as routes see it |
//! | `filter` | what is done to requests and answers |
//! | `explain` | what becomes of a request, in words |
//! | `normalize` | the one form of a path and a host |

mod age;
pub mod compile;
pub mod explain;
pub mod filter;
pub mod normalize;
pub mod program;
pub mod request;
pub mod table;
#[cfg(test)]
mod testing;

pub use age::Age;
pub use compile::{Compiled, Gateways, Note, Options, Severity, compile};
pub use program::{
    Backend, BackendProblem, Backends, Certificate, ClientValidation, Gateway, L4Rule, Listener, ListenerId,
    ListenerKind, Program, RetryPolicy, Rule, RuleId, SocketKind, Sockets, TlsTermination, Upstream,
    UpstreamEndpoint, UpstreamProtocol, UpstreamTls, Verification,
};
pub use request::RequestView;
pub use table::{Found, HttpTable};
