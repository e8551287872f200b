//! Resources to a [`Program`].
//!
//! | module | |
//! |---|---|
//! | `listeners` | gateways to listeners: conflicts, certificates, who may attach |
//! | `attach` | routes to the listeners that their `parentRefs` name |
//! | `http`, `grpc`, `l4` | rules of each kind of route |
//! | `mesh` | routes of services (GAMMA) |
//! | `filters` | filters, and those that must not be |
//! | `backends` | references to services and `Backend`s |
//! | `tls` | certificates, those who vouch, `BackendTLSPolicy` |
//! | `grants` | who may refer to what |
//! | `notes` | what is to be said |

mod attach;
mod backends;
mod filters;
mod grants;
mod grpc;
mod http;
mod l4;
mod listeners;
mod mesh;
mod notes;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use weft_core::{DnsName, Namespace};
use weft_resource::{Resource, ResourceId, ResourceSet};

use crate::program::{Certificate, Program};

use self::http::Built;
use backends::Upstreams;
use grants::Grants;
use notes::Notes;
use tls::{Pems, Policies};

/// What a compilation needs besides the resources.
#[derive(Clone, Debug)]
pub struct Options {
    /// The domain under which a `Service` is `{name}.{namespace}.svc.{domain}`.
    pub cluster_domain: DnsName,
    /// Which gateways are this process's.
    pub gateways: Gateways,
    /// The namespace of the workload whose requests follow the routes of services: those that it has made for others' services are
    /// for its own workloads alone. `None`: there is no such workload.
    pub client_namespace: Option<Namespace>,
}

/// Which gateways are a process's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gateways {
    /// All there are.
    #[default]
    All,
    /// The one of this namespace and name.
    One(String, String),
    /// None: it is the sidecar of a workload.
    None,
}

impl Gateways {
    fn has(&self, id: &ResourceId) -> bool {
        match self {
            Self::All => true,
            Self::One(namespace, name) => **namespace == *id.namespace && **name == *id.name,
            Self::None => false,
        }
    }
}

/// A program, and what is to be said of the resources it was made of.
#[derive(Debug, Default)]
pub struct Compiled {
    /// What is in force.
    pub program: Program,
    /// What could not be made, and why; in the order of the resources.
    pub notes: Vec<Note>,
}

/// How much a note means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It works; something is odd.
    Warning,
    /// A part of it does not work.
    Error,
}

/// Something to be said of a resource. In Kubernetes it is a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// The resource.
    pub resource: ResourceId,
    /// How much it means.
    pub severity: Severity,
    /// The field, such as `spec.rules[0].backendRefs[1]`.
    pub field: String,
    /// The reason as the Gateway API names it, such as `BackendNotFound`.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// How to put it right; empty where the message says it.
    pub cure: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.resource, self.field, self.message)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        write!(f, " [{}]", self.reason)
    }
}

/// What the parts of one compilation share.
struct Context<'a> {
    set: &'a ResourceSet,
    options: &'a Options,
    notes: Notes,
    grants: Grants<'a>,
    policies: Policies<'a>,
    pems: Pems,
    upstreams: Upstreams,
    built: BuiltRoutes,
}

/// The rules of each route, by the side from which its backends are reached.
type BuiltRoutes = HashMap<(ResourceId, bool, Option<ResourceId>), Rc<[Built]>>;

/// From where a route's backends are reached.
#[derive(Clone, Debug)]
struct Side {
    /// Whether from a workload in the mesh, and not from a gateway.
    mesh: bool,
    /// The certificate that the gateway shows to backends.
    client: Option<Arc<Certificate>>,
}

/// One route that is being compiled.
#[derive(Clone, Copy)]
struct Route<'a> {
    resource: &'a Resource,
    side: &'a Side,
}

/// Compiles resources. It never fails: what is wrong is left out, or answered with 500 where the Gateway API wants that, and told in
/// notes.
pub fn compile(resources: &ResourceSet, options: &Options) -> Compiled {
    let mut context = Context {
        set: resources,
        options,
        notes: Notes::default(),
        grants: Grants::new(resources),
        policies: Policies::default(),
        pems: Pems::default(),
        upstreams: Upstreams::default(),
        built: HashMap::new(),
    };
    context.policies = Policies::new(resources, &mut context.notes);
    let mut gateways = listeners::gateways(&mut context);
    let services = attach::attach(&mut context, &mut gateways);
    let sockets = listeners::sockets(&mut context, gateways);
    let services = mesh::services(&mut context, services);
    let upstreams = context.upstreams.into_set();
    Compiled { program: Program { sockets, services, upstreams }, notes: context.notes.into_list() }
}

#[cfg(test)]
mod tests;
