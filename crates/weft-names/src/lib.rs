//! The addresses of the names that the process itself dials: its CA, its collector.
//!
//! What applications ask for is not looked up here but in `weft-discovery`, which has to keep answers as bytes. These few
//! names want something else: an address is worth having even when DNS is away, for whoever answers there has to prove who
//! it is. So a name keeps the last addresses that were found for it, for as long as nothing better is. hickory-resolver
//! does the rest: the cache by TTL, search domains and `ndots`, the hosts file, retries, TCP. Nothing blocks a thread, as
//! `getaddrinfo` does.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use tokio::time::timeout;

/// How long DNS is waited for where there is an older answer (the "client response timer" of RFC 8767 section 5).
const PATIENCE: Duration = Duration::from_millis(1_800);

/// Where DNS servers listen (RFC 1035 section 4.2).
const DNS: u16 = 53;

/// A name that has no address, now or ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host:?} cannot be resolved: {reason}")]
pub struct NamesError {
    /// The name.
    pub host: String,
    /// What DNS says.
    pub reason: String,
}

/// Looks names up. Clones share cache and memory.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

struct Inner {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    /// Where the servers listen. resolv.conf has no ports; a test needs one that it may have.
    port: u16,
    built: Mutex<Option<Built>>,
    last: Mutex<HashMap<String, Vec<IpAddr>>>,
}

/// The resolver of what the two files say.
struct Built {
    resolv_conf: Option<Vec<u8>>,
    hosts: Option<Vec<u8>>,
    config: (ResolverConfig, ResolverOpts),
    resolver: TokioResolver,
    known: Arc<Hosts>,
}

impl Default for Names {
    fn default() -> Self {
        Self::of("/etc/resolv.conf", "/etc/hosts")
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("resolv_conf", &self.0.resolv_conf).finish_non_exhaustive()
    }
}

impl Names {
    /// Names as these two files have them. Both are read again when they have changed.
    pub fn of(resolv_conf: impl Into<PathBuf>, hosts: impl Into<PathBuf>) -> Self {
        Self::asking(resolv_conf.into(), hosts.into(), DNS)
    }

    fn asking(resolv_conf: PathBuf, hosts: PathBuf, port: u16) -> Self {
        Self(Arc::new(Inner { resolv_conf, hosts, port, built: Mutex::default(), last: Mutex::default() }))
    }

    /// Where to dial a port of a name: one address at least. An address, in brackets or without, is itself. Where DNS does not
    /// answer, or has none, those that were found last.
    ///
    /// Must run inside a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// There is none, and never was.
    pub async fn sockets(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NamesError> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let found = self.lookup(host).await?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, NamesError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let last = lock(&self.0.last).get(host).cloned();
        let found = match &last {
            None => self.ask(host).await,
            Some(_) => timeout(PATIENCE, self.ask(host)).await.unwrap_or_else(|_| {
                Err(NamesError { host: host.to_owned(), reason: format!("no answer in {PATIENCE:?}") })
            }),
        };
        match (found, last) {
            (Ok(addresses), _) => {
                lock(&self.0.last).insert(host.to_owned(), addresses.clone());
                Ok(addresses)
            }
            (Err(error), Some(last)) => {
                tracing::warn!(%error, addresses = ?last, "using the addresses that were found last");
                Ok(last)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn ask(&self, host: &str) -> Result<Vec<IpAddr>, NamesError> {
        let failed = |reason: String| NamesError { host: host.to_owned(), reason };
        let (resolver, known) = self.resolver().map_err(|error| failed(error.to_string()))?;
        // As everywhere (nsswitch.conf(5), "files dns"): the name as it stands, before a search domain is tried.
        let listed = listed(&known, host);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let found = Box::pin(resolver.lookup_ip(host)).await.map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() { Err(failed("the name has no address".to_owned())) } else { Ok(addresses) }
    }

    /// The resolver of what the files say now. While resolv.conf is away or names no server, the last good one stays.
    fn resolver(&self) -> Result<(TokioResolver, Arc<Hosts>), hickory_resolver::net::NetError> {
        // Two small files of the own file system, for a look-up now and then: no worse than what getaddrinfo does.
        let resolv_conf = std::fs::read(&self.0.resolv_conf).ok();
        let hosts = std::fs::read(&self.0.hosts).ok();
        let mut built = lock(&self.0.built);
        if let Some(built) = &*built
            && (&built.resolv_conf, &built.hosts) == (&resolv_conf, &hosts)
        {
            return Ok((built.resolver.clone(), Arc::clone(&built.known)));
        }
        let before = built.as_ref().map(|built| built.config.clone());
        let (config, options) = match (parse(resolv_conf.as_deref(), self.0.port), before) {
            (Some(config), _) => config,
            (None, Some(before)) => {
                let path = self.0.resolv_conf.display();
                tracing::warn!(%path, "there is no name server in it; those from before stay");
                before
            }
            (None, None) => local(self.0.port),
        };
        let mut builder = Resolver::builder_with_config(config.clone(), TokioRuntimeProvider::default());
        let wanted = builder.options_mut();
        *wanted = options.clone();
        wanted.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Of the file that is named here, and not of the system's.
        wanted.use_hosts_file = ResolveHosts::Never;
        wanted.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        let mut resolver = builder.build()?;
        let mut known = Hosts::default();
        if let Some(text) = &hosts {
            // Reading from memory fails by text that is none; what is before it holds.
            let _ = known.read_hosts_conf(text.as_slice());
        }
        let known = Arc::new(known);
        resolver.set_hosts(Arc::clone(&known));
        let (config, found) = ((config, options), (resolver.clone(), Arc::clone(&known)));
        *built = Some(Built { resolv_conf, hosts, config, resolver, known });
        Ok(found)
    }
}

/// What the hosts file has for a name.
fn listed(known: &Hosts, host: &str) -> Vec<IpAddr> {
    let Ok(name) = Name::from_utf8(host) else { return Vec::new() };
    let of = |kind| known.lookup_static_host(&Query::query(name.clone(), kind));
    let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
    found
        .flat_map(|found| found.answers().iter().filter_map(|r| r.data.ip_addr()).collect::<Vec<_>>())
        .collect()
}

/// `None` where there is no server in it.
fn parse(resolv_conf: Option<&[u8]>, port: u16) -> Option<(ResolverConfig, ResolverOpts)> {
    let (config, options) = parse_resolv_conf(resolv_conf?).ok()?;
    let servers = config.name_servers().iter().map(|server| at(server.ip, port)).collect();
    // The library would ask in the domain of the host's own name as well; resolv.conf(5) does so only without `search`.
    Some((ResolverConfig::from_parts(None, config.search().to_vec(), servers), options))
}

/// resolv.conf(5): without a server in it, the one of the own machine is asked.
fn local(port: u16) -> (ResolverConfig, ResolverOpts) {
    let servers = vec![at(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
    (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
}

fn at(ip: IpAddr, port: u16) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(ip);
    for connection in &mut server.connections {
        connection.port = port;
    }
    server
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
