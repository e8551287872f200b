//! Network-namespace pods for tests and the demo.
//!
//! A mesh that runs on one machine hides its mistakes on loopback: no packet is redirected, nothing is seen on a wire,
//! every address is the same. So a test here makes *pods*: network namespaces with addresses of their own on a bridge
//! of their own, an authoritative name server, the mesh's CA, a real collector, real applications, and the real `weft`
//! binary with its real iptables rules. A test reads as a story:
//!
//! ```no_run
//! use weft_testbed::{Service, story};
//!
//! story("greeting", |mesh| {
//!     let web = mesh.pod("web.shop").start()?;
//!     let orders = mesh.pod("orders.shop").start()?;
//!     orders.app(8080)?;
//!     mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
//!     mesh.sidecar(&web)?.start()?;
//!     mesh.sidecar(&orders)?.start()?;
//!     let answer = web.get("http://orders.shop/hello")?;
//!     assert_eq!(answer.status, 200);
//!     Ok(())
//! });
//! ```
//!
//! | module | what |
//! |---|---|
//! | `mesh`, `network`, `pod` | the node's bridge (or loopback), pods, programs in them |
//! | `dns`, `resolve` | the authoritative server and a stub resolver |
//! | `ca`, `sidecar` | Weft itself |
//! | `gateway`, `teller` | a gateway with its certificates and files; a backend that tells what it was asked |
//! | `cluster` | a real Kubernetes cluster in the place of all of these |
//! | `collector`, `otelcol` | a real collector and its build |
//! | `capture`, `http`, `load` | what goes over the wire, and who sends it |
//! | `frames` | HTTP/2 by hand, and what attackers make of it |
//! | `scripted` | peers that do what a script says and keep every byte |
//! | `doubtful` | requests that two parsers could read in two ways |
//! | `peers`, `go` | real HTTP clients and servers of other makers, and gRPC's; programs in Go |
//! | `sandbox`, `helper`, `process`, `run_dir` | namespaces, entering them, and that nothing outlives a test |
//!
//! Nothing here touches the machine's own network: the bridge is in a namespace as well.

pub mod apps;
mod ca;
mod capture;
pub mod cluster;
mod collector;
pub mod demo;
mod dns;
mod doubtful;
pub mod frames;
mod gateway;
mod go;
pub mod helper;
mod http;
mod load;
mod measured;
mod mesh;
mod network;
mod otelcol;
pub mod peers;
mod pod;
mod process;
mod python;
mod recorder;
mod resolve;
mod run_dir;
mod sandbox;
pub mod scripted;
mod sidecar;
mod teller;
mod wait;

pub use ca::Ca;
pub use capture::{Capture, Flow, Packets};
pub use collector::{Collector, Span, tree};
pub use dns::{Dns, Service};
pub use doubtful::doubtful;
pub use gateway::{Echo, Gateway, Handshake, PublicCa};
pub use go::{grpc_peer, grpcurl};
pub use http::{Client, Request, Response};
pub use load::{Load, LoadBuilder, Report};
pub use measured::Measured;
pub use mesh::{Mesh, loopback_story, story};
pub use otelcol::{cache_dir, collector_binary};
pub use pod::{Pod, PodBuilder, Task};
pub use process::{Output, Process};
pub use recorder::Recorder;
pub use resolve::Answer;
pub use run_dir::{clean_stale, processes_of};
pub(crate) use sandbox::needs_root;
pub use sidecar::{Metrics, PROXY_UID, Sample, Sidecar, SidecarBuilder};
pub use teller::Teller;
pub use wait::{eventually, rest};

/// The result of a story.
pub type Result<T> = anyhow::Result<T>;
