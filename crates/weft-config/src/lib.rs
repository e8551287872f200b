//! Reads `weft.yaml` and compiles it into immutable values.
//!
//! A mistake in a configuration costs its author least when it is told at once, with all others, with its line, and
//! with the cure; and it costs the mesh least when the last good configuration stays in force. So: the file is parsed
//! into a tree that knows where each value stands ([`ProxyConfig::load`]); one pass checks every field, with variables
//! and flags laid over it; only when nothing is wrong is anything handed out. What may change while the process runs is
//! a [`Snapshot`] of its own, kept fresh by [`watch`].
//!
//! | module | |
//! |---|---|
//! | `tree` | YAML to nodes with line and column |
//! | `read`, `scalar` | nodes to checked values, all mistakes kept |
//! | `sections`, `identity`, `policy`, `probes` | the fields of `weft.yaml`, one function a section, with every default and its reason |
//! | `edge` | who stands in front of a gateway, and what its clients may do |
//! | `listeners` | the doors of a workload whose traffic is not intercepted |
//! | `proxy_protocol` | ports of the application that are told who connects |
//! | `membership`, `mode` | which destinations are in the mesh and how, compiled |
//! | `reload` | the watcher |

mod compression;
mod edge;
mod env;
mod error;
mod identity;
mod listeners;
mod membership;
mod mode;
mod policy;
mod probes;
mod proxy_protocol;
mod read;
mod reload;
mod resources;
mod scalar;
mod sections;
mod snapshot;
mod telemetry;
pub mod tree;
mod types;
mod value;

pub use compression::{Compression, ContentType, is_message_stream};
pub use edge::{EdgeConfig, ForwardedTrust, ProxyProtocolSources};
pub use env::{Env, Role};
pub use error::{ConfigErrors, Origin, Problem, ProblemKind};
pub use listeners::{InboundListener, Listeners, OutboundListener};
pub use membership::{
    AddrVerdict, DomainPattern, Membership, MembershipSpec, NamePattern, NameVerdict, Outside,
};
pub use mode::DestinationMode;
pub use probes::{
    KUBELET_USER_AGENT, Probe, ProbeCheck, ProbeHeader, ProbePath, is_header_name, is_header_value,
};
pub use proxy_protocol::{ProxyProtocolPort, ProxyProtocolPorts};
pub use read::{Effective, nearest};
pub use reload::{ConfigHandle, Reloaded, watch};
pub use resources::{GatewayName, Resources};
pub use snapshot::{InboundPolicy, OutboundPolicy, Services, Snapshot, StaticService};
pub use types::{
    AccessLogMode, AccessLogSink, Bind, CaSource, CollectorConfig, DnsConfig, ExportConfig, FileSource,
    HalfClose, Http2Limits, HttpConfig, IdentityConfig, IdentitySource, Keepalive, Limits, MetricsConfig,
    OtlpProtocol, ProxyConfig, Retries, RetryBudget, TelemetryConfig, Timeouts, TracingConfig, Workers,
    Workload,
};
pub use value::{HostPort, Listen, PortSet, Size};
