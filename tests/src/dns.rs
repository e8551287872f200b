//! The authoritative name server: a real `nsd` in a pod of its own, and the records of a Kubernetes cluster. On loopback,
//! where it may be impossible to install anything, a small server of our own takes its place if there is no nsd.
//!
//! One zone, the root, holds everything, so that every name that is not there is NXDOMAIN with a SOA, as applications
//! with search domains need it. Each change writes the zone anew and is in force when the call returns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::mesh::find_program;
use crate::pod::Pod;
use crate::process::Process;
use crate::wait::eventually;

/// nsd at rest: the one that was started, the one that holds the zone, and one that answers (`server-count`).
const NSD_PROCESSES: usize = 3;

/// How long nsd may take to start or to load a zone.
const DEADLINE: Duration = Duration::from_secs(10);

/// When a change that has not come through is asked for again.
const AGAIN: Duration = Duration::from_millis(300);

/// The TTL of every record unless changed, in seconds: short, so that a test sees a refresh.
const DEFAULT_TTL: u32 = 1;

/// A service, as the cluster's DNS has it.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    namespace: String,
    kind: Kind,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A virtual IP, and the `-endpoints` twin.
    VirtualIp,
    /// A virtual IP that no twin explains.
    VirtualIpOnly,
    Headless,
}

#[derive(Debug, Clone)]
struct Port {
    /// The first label of the SRV record, without the underscore.
    label: String,
    target: u16,
}

#[derive(Debug, Clone)]
struct Endpoint {
    host: String,
    addresses: Vec<IpAddr>,
}

impl Service {
    /// A service with a virtual IP (which nothing routes: only a mesh makes it work) and the headless twin
    /// `<service>-endpoints` with SRV records `_p<port>._tcp`. `name` is `service.namespace`.
    pub fn virtual_ip(name: &str) -> Self {
        Self::new(name, Kind::VirtualIp)
    }

    /// A service with a virtual IP and no twin.
    pub fn virtual_ip_only(name: &str) -> Self {
        Self::new(name, Kind::VirtualIpOnly)
    }

    /// A headless service: the name has the pods' addresses.
    pub fn headless(name: &str) -> Self {
        Self::new(name, Kind::Headless)
    }

    fn new(name: &str, kind: Kind) -> Self {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "default"));
        Self {
            name: name.into(),
            namespace: namespace.into(),
            kind,
            ports: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    /// A port that clients dial, and the port of the pods behind it.
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push(Port { label: format!("p{port}"), target });
        self
    }

    /// A named port of a headless service: SRV `_<name>._tcp`.
    pub fn named_port(mut self, name: &str, target: u16) -> Self {
        self.ports.push(Port { label: name.to_owned(), target });
        self
    }

    /// The pods that serve it; replaces earlier ones.
    pub fn on(mut self, pods: &[&Pod]) -> Self {
        self.endpoints = pods
            .iter()
            .map(|pod| Endpoint { host: pod.name().to_owned(), addresses: pod.addresses() })
            .collect();
        self
    }

    fn key(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    fn write(&self, zone: &mut String, index: u16) {
        let own = format!("{}.{}.svc.cluster.local.", self.name, self.namespace);
        let list = match self.kind {
            Kind::Headless => own.clone(),
            _ => format!("{}-endpoints.{}.svc.cluster.local.", self.name, self.namespace),
        };
        if self.kind != Kind::Headless {
            for address in virtual_addresses(index, &self.endpoints) {
                write_address(zone, &own, address);
                write_pointer(zone, address, &own);
            }
        }
        if self.kind == Kind::VirtualIpOnly {
            return;
        }
        for endpoint in &self.endpoints {
            for address in &endpoint.addresses {
                write_address(zone, &list, *address);
                write_address(zone, &format!("{}.{list}", endpoint.host), *address);
            }
            for port in &self.ports {
                let (label, target, host) = (&port.label, port.target, &endpoint.host);
                let _ = writeln!(zone, "_{label}._tcp.{list} SRV 0 100 {target} {host}.{list}");
            }
        }
    }
}

/// From 10.96.0.0/16 and `fd96::/64`, in the families that the endpoints have (both where there is none).
fn virtual_addresses(index: u16, endpoints: &[Endpoint]) -> Vec<IpAddr> {
    let [high, low] = index.to_be_bytes();
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 96, high, low));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, index));
    let has = |v4: bool| {
        endpoints.is_empty() || endpoints.iter().any(|e| e.addresses.iter().any(|a| a.is_ipv4() == v4))
    };
    [v4, v6].into_iter().filter(|address| has(address.is_ipv4())).collect()
}

fn write_address(zone: &mut String, name: &str, address: IpAddr) {
    let kind = if address.is_ipv4() { "A" } else { "AAAA" };
    let _ = writeln!(zone, "{name} {kind} {address}");
}

/// What the name of an address is, as a cluster's DNS has it for the addresses of services.
fn write_pointer(zone: &mut String, address: IpAddr, name: &str) {
    let reversed = match address {
        IpAddr::V4(v4) => {
            v4.octets().iter().rev().map(|octet| format!("{octet}.")).collect::<String>() + "in-addr"
        }
        IpAddr::V6(v6) => {
            let nibbles =
                v6.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
            nibbles.collect::<String>() + "ip6"
        }
    };
    let _ = writeln!(zone, "{reversed}.arpa. PTR {name}");
}

#[derive(Debug, Default)]
struct Records {
    serial: u32,
    ttl: u32,
    /// Numbers are given once and kept, so that a service's virtual IP does not change when others come and go.
    numbers: BTreeMap<String, u16>,
    services: BTreeMap<String, Service>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    aliases: BTreeMap<String, String>,
    pointers: BTreeMap<IpAddr, String>,
    /// The server's own.
    own: Vec<IpAddr>,
}

impl Records {
    fn zone(&self) -> String {
        let Self { serial, ttl, .. } = self;
        let mut zone = format!(
            "$ORIGIN .\n$TTL {ttl}\n@ SOA ns.cluster.local. root.cluster.local. {serial} 60 60 600 {ttl}\n\
             @ NS ns.cluster.local.\n"
        );
        self.own.iter().for_each(|address| write_address(&mut zone, "ns.cluster.local.", *address));
        for (key, service) in &self.services {
            service.write(&mut zone, self.numbers.get(key).copied().unwrap_or_default());
        }
        for (name, addresses) in &self.hosts {
            addresses.iter().for_each(|address| write_address(&mut zone, &format!("{name}."), *address));
        }
        for (name, target) in &self.aliases {
            let _ = writeln!(zone, "{name}. CNAME {target}.");
        }
        for (address, name) in &self.pointers {
            write_pointer(&mut zone, *address, &format!("{name}."));
        }
        zone
    }
}

/// The name server.
#[derive(Debug)]
pub struct Dns {
    pod: Pod,
    records: Mutex<Records>,
    server: Mutex<Arc<Process>>,
    real: bool,
}

impl Dns {
    pub(crate) fn start(pod: Pod) -> Result<Self> {
        let records = Records { serial: 1, ttl: DEFAULT_TTL, own: pod.addresses(), ..Records::default() };
        fs::write(pod.dir().join("zone"), records.zone()).context("writing the zone")?;
        fs::write(configuration_file(&pod), configuration(&pod)).context("writing nsd.conf")?;
        let real = !pod.is_loopback() || find_program("nsd").is_some();
        let server = Mutex::new(launch(&pod, real)?);
        let dns = Self { pod, records: Mutex::new(records), server, real };
        dns.wait_for_serial(1)?;
        Ok(dns)
    }

    /// Adds a service or replaces it.
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn set(&self, service: Service) -> Result<()> {
        self.change(|records| {
            let key = service.key();
            let next = u16::try_from(records.numbers.len()).unwrap_or(u16::MAX).saturating_add(10);
            records.numbers.entry(key.clone()).or_insert(next);
            records.services.insert(key, service);
        })
    }

    /// Removes a service (`service.namespace`).
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.change(|records| {
            records.services.remove(name);
        })
    }

    /// Gives any other name (`api.example.test`) its addresses.
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn host(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        self.change(|records| {
            records.hosts.insert(name.to_owned(), addresses.to_vec());
        })
    }

    /// Gives many other names their addresses, in one change.
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn hosts(&self, hosts: impl IntoIterator<Item = (String, Vec<IpAddr>)>) -> Result<()> {
        self.change(|records| records.hosts.extend(hosts))
    }

    /// Makes a name the alias of another one: the answer has the CNAME and what it leads to, as a resolver gives it.
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn alias(&self, name: &str, target: &str) -> Result<()> {
        self.change(|records| {
            records.aliases.insert(name.to_owned(), target.to_owned());
        })
    }

    /// Says which name an address has. Virtual addresses of services have theirs without it.
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn pointer(&self, address: IpAddr, name: &str) -> Result<()> {
        self.change(|records| {
            records.pointers.insert(address, name.to_owned());
        })
    }

    /// Sets the TTL of all records, in seconds.
    ///
    /// # Errors
    /// The server does not load the zone.
    pub fn ttl(&self, seconds: u32) -> Result<()> {
        self.change(|records| records.ttl = seconds)
    }

    /// An outage: the server is gone, and queries are refused by the kernel.
    pub fn stop(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Ends an outage.
    ///
    /// # Errors
    /// The server does not start.
    pub fn restart(&self) -> Result<()> {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = launch(&self.pod, self.real)?;
        let serial = self.records.lock().unwrap_or_else(PoisonError::into_inner).serial;
        self.wait_for_serial(serial)
    }

    /// An outage of the worse kind: queries vanish.
    pub fn pause(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).pause();
    }

    /// Ends [`Dns::pause`].
    pub fn resume(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).resume();
    }

    /// What answers, for a notice.
    pub fn server(&self) -> &'static str {
        if self.real { "nsd" } else { "Weft's own small name server (nsd is not installed)" }
    }

    /// The pod of the server, for captures and addresses.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    fn change(&self, edit: impl FnOnce(&mut Records)) -> Result<()> {
        let (serial, zone) = {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            edit(&mut records);
            records.serial += 1;
            (records.serial, records.zone())
        };
        self.write(&zone)?;
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !server.is_running() {
            // Changed during an outage: it is read at the restart.
            return Ok(());
        }
        let mut asked = None::<Instant>;
        // To read a zone of tens of thousands of records takes a while, and to be asked again begins it anew.
        let reading = Duration::from_micros(10 * zone.len() as u64);
        let (again, deadline) = (AGAIN + reading, DEADLINE + 4 * reading);
        eventually("the name server to load the zone", deadline, || {
            if asked.is_none_or(|at| at.elapsed() > again) {
                // nsd may lose the request while it is still busy with an earlier one, and takes a file for unchanged
                // whose time is the same (times are as coarse as the kernel's tick): write and ask again.
                if asked.is_some() {
                    self.write(&zone)?;
                }
                // Ours reads the file at each query.
                if self.real {
                    server.signal(rustix::process::Signal::HUP);
                }
                asked = Some(Instant::now());
            }
            Ok((self.served_serial() == Some(serial) && self.is_settled()?).then_some(()))
        })
        .with_context(|| format!("output of nsd: {}", self.log()))
    }

    /// At a reload nsd starts the processes with the new zone before it ends those with the old one, and for a moment
    /// either may take a query from the socket they share: a new answer is no promise of the next one.
    fn is_settled(&self) -> Result<bool> {
        if !self.real {
            return Ok(true);
        }
        let ours = configuration_file(&self.pod);
        let mut count = 0;
        for process in fs::read_dir("/proc").context("listing processes")? {
            let process = process.context("listing processes")?;
            // A process may end while it is looked at.
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            count +=
                usize::from(line.split(|byte| *byte == 0).any(|word| word == ours.as_os_str().as_bytes()));
        }
        Ok(count == NSD_PROCESSES)
    }

    /// In one step: nsd must never read half a zone.
    fn write(&self, zone: &str) -> Result<()> {
        let (new, file) = (self.pod.dir().join("zone.new"), self.pod.dir().join("zone"));
        fs::write(&new, zone).context("writing the zone")?;
        fs::rename(&new, &file).context("replacing the zone")
    }

    fn served_serial(&self) -> Option<u32> {
        let answer = self.pod.lookup(".", "SOA").ok()?;
        answer.records.first()?.split_whitespace().nth(2)?.parse().ok()
    }

    fn wait_for_serial(&self, serial: u32) -> Result<()> {
        eventually("the name server to serve the zone", DEADLINE, || {
            Ok((self.served_serial() == Some(serial)).then_some(()))
        })
        .with_context(|| format!("output of nsd: {}", self.log()))
    }

    fn log(&self) -> String {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).log()
    }
}

fn launch(pod: &Pod, real: bool) -> Result<Arc<Process>> {
    if !real {
        return pod.app_of("names", pod.dns_server().port());
    }
    let conf = configuration_file(pod).display().to_string();
    pod.spawn("nsd", &["nsd", "-d", "-c", &conf])
}

/// No response rate limit (the tests are one busy client), no database file, everything in the pod's directory.
/// In the arguments of all of nsd's processes, and of nobody else's.
fn configuration_file(pod: &Pod) -> PathBuf {
    pod.dir().join("nsd.conf")
}

fn configuration(pod: &Pod) -> String {
    let port = pod.dns_server().port();
    let addresses: Vec<String> =
        pod.addresses().iter().map(|ip| format!("  ip-address: {ip}@{port}\n")).collect();
    let (dir, addresses) = (pod.dir().display(), addresses.concat());
    format!(
        r#"server:
  server-count: 1
{addresses}  username: ""
  chroot: ""
  zonesdir: "{dir}"
  database: ""
  pidfile: "{dir}/nsd.pid"
  xfrdfile: "{dir}/xfrd.state"
  xfrdir: "{dir}"
  zonelistfile: "{dir}/zone.list"
  zonefiles-check: yes
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "zone"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, addresses: &[&str]) -> Endpoint {
        Endpoint { host: host.into(), addresses: addresses.iter().map(|a| a.parse().unwrap()).collect() }
    }

    #[test]
    fn a_virtual_ip_has_a_twin_with_the_target_ports() {
        let mut service = Service::virtual_ip("orders.shop").port(80, 8080);
        service.endpoints = vec![endpoint("orders-1", &["10.77.0.11"])];
        let mut zone = String::new();
        service.write(&mut zone, 10);
        let expected = "orders.shop.svc.cluster.local. A 10.96.0.10\n10.0.96.10.in-addr.arpa. PTR orders.shop.svc.cluster.local.\n\
            orders-endpoints.shop.svc.cluster.local. A 10.77.0.11\n\
            orders-1.orders-endpoints.shop.svc.cluster.local. A 10.77.0.11\n\
            _p80._tcp.orders-endpoints.shop.svc.cluster.local. SRV 0 100 8080 \
            orders-1.orders-endpoints.shop.svc.cluster.local.\n";
        assert_eq!(zone, expected);
    }

    #[test]
    fn a_headless_service_has_the_addresses_itself() {
        let mut service = Service::headless("redis.shop").named_port("tcp", 6379);
        service.endpoints = vec![endpoint("redis", &["10.77.0.12", "fd77::c"])];
        let mut zone = String::new();
        service.write(&mut zone, 10);
        assert!(zone.contains("redis.shop.svc.cluster.local. AAAA fd77::c\n"));
        assert!(zone.contains("_tcp._tcp.redis.shop.svc.cluster.local. SRV 0 100 6379 redis.redis.shop"));
        assert!(!zone.contains("10.96."));
    }
}
