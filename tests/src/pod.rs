//! A pod: namespaces, addresses, and what runs in it.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::capture::Capture;
use crate::helper::beside_tests;
use crate::http::{Client, Request, Response};
use crate::load::LoadBuilder;
use crate::mesh::{Node, addresses, find_program};
use crate::process::{Output, Process};
use crate::resolve::{self, Answer};
use crate::sandbox::{Sandbox, WEFT_INSIDE};

/// How long a command of a story may take.
const EXEC_DEADLINE: Duration = Duration::from_secs(90);

/// How long an application may take until it listens.
const APP_DEADLINE: Duration = Duration::from_secs(10);

/// A pod. Clones are the same pod; the mesh ends it.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    account: String,
    number: u16,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    processes: Mutex<Vec<Arc<Process>>>,
    /// Captures: they watch the pod from the node, and go on when it crashes.
    watchers: Mutex<Vec<Arc<Process>>>,
    dir: PathBuf,
    sandbox: Sandbox,
    node: Arc<Node>,
}

/// A pod about to be made.
#[derive(Debug)]
#[must_use]
pub struct PodBuilder {
    node: Arc<Node>,
    name: String,
    namespace: String,
    account: String,
    v4: bool,
    v6: bool,
    dns: bool,
}

impl PodBuilder {
    /// `name.namespace`; without a dot the namespace is `default`.
    pub(crate) fn new(node: Arc<Node>, name: &str) -> Self {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "default"));
        // Replicas are `orders-1`, `orders-2`, ...: all run as `orders`.
        let account = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let account = account.strip_suffix('-').unwrap_or(name);
        Self {
            node,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            v4: true,
            v6: true,
            dns: true,
        }
    }

    pub(crate) fn ipv4_only(mut self) -> Self {
        self.v6 = false;
        self
    }

    pub(crate) fn ipv6_only(mut self) -> Self {
        self.v4 = false;
        self
    }

    pub(crate) fn account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    pub(crate) fn without_dns(mut self) -> Self {
        self.dns = false;
        self
    }

    pub(crate) fn start(self) -> Result<Pod> {
        let number = self.node.next_number();
        let network = self.node.network();
        let v4 = self.v4.then(|| network.v4(number));
        let v6 = network.v6(number).filter(|_| self.v6);
        let dir = self.node.dir().join(format!("{}.{}", self.name, self.namespace));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let sandbox = if network.is_loopback() {
            Sandbox::Here
        } else {
            let resolv_conf = dir.join("resolv.conf");
            fs::write(&resolv_conf, self.resolv_conf()).context("writing resolv.conf")?;
            Sandbox::create(Some(&resolv_conf), weft_binary().ok().as_deref())?
        };
        let inner = Inner {
            name: self.name,
            namespace: self.namespace,
            account: self.account,
            number,
            v4,
            v6,
            processes: Mutex::default(),
            watchers: Mutex::default(),
            dir,
            sandbox,
            node: self.node,
        };
        inner.connect().with_context(|| format!("connecting pod {}", inner.name))?;
        Ok(Pod(Arc::new(inner)))
    }

    /// As the kubelet writes it: three search domains, and five dots before a name counts as complete.
    fn resolv_conf(&self) -> String {
        if !self.dns {
            return String::new();
        }
        let (v4, v6) = self.node.dns();
        let server = v6.filter(|_| !self.v4).unwrap_or(v4).ip();
        let ns = &self.namespace;
        format!(
            "nameserver {server}\nsearch {ns}.svc.cluster.local svc.cluster.local cluster.local\n\
             options ndots:5 timeout:1 attempts:3\n"
        )
    }
}

impl Inner {
    fn link(&self) -> String {
        format!("pod{}", self.number)
    }

    fn connect(&self) -> Result<()> {
        let link = self.link();
        // On loopback there is nothing to connect.
        let Some(net) = self.sandbox.net_path() else { return Ok(()) };
        self.node.ip(
            self.node.sandbox(),
            &format!(
                "link add {link} type veth peer name eth0 netns {net}\nlink set {link} master br0\nlink set {link} up\n"
            ),
        )?;
        let (gateway4, gateway6) = self.node.network().node();
        let mut batch = String::from("link set eth0 up\n");
        if let Some(v4) = self.v4 {
            batch.push_str(&format!("addr add {v4}/16 dev eth0\nroute add default via {gateway4}\n"));
        }
        if let (Some(v6), Some(gateway6)) = (self.v6, gateway6) {
            batch.push_str(&format!("addr add {v6}/64 dev eth0 nodad\nroute add default via {gateway6}\n"));
        }
        self.node.ip(&self.sandbox, &batch)
    }
}

impl Pod {
    /// `orders-1`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `shop`.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The service account.
    pub fn account(&self) -> &str {
        &self.0.account
    }

    /// The IPv4 address.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.0.v4
    }

    /// The IPv6 address.
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.0.v6
    }

    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses(self.0.v4, self.0.v6)
    }

    /// The IPv4 address, or the IPv6 address of a pod that has no other.
    pub fn ip(&self) -> IpAddr {
        let v6 = self.0.v6.unwrap_or(Ipv6Addr::UNSPECIFIED);
        self.0.v4.map_or(IpAddr::V6(v6), IpAddr::V4)
    }

    /// A port of this pod as `client` reaches it: IPv4 where both have it.
    pub(crate) fn socket_for(&self, client: &Self, port: u16) -> SocketAddr {
        let ip = match (client.v4(), self.v6()) {
            (None, Some(v6)) => IpAddr::V6(v6),
            _ => self.ip(),
        };
        SocketAddr::new(ip, port)
    }

    /// Whether the pod is an address of loopback: see [`crate::Mesh::on_loopback`].
    pub fn is_loopback(&self) -> bool {
        self.0.node.network().is_loopback()
    }

    /// The port to use where `wanted` is the usual one: see [`crate::Mesh::port`].
    pub fn port(&self, wanted: u16) -> u16 {
        self.0.node.network().port(wanted)
    }

    /// The address of a port of this pod, and on which addresses a program that is its own has to listen there: on all,
    /// except where loopback is shared.
    pub(crate) fn listen_on(&self, port: u16) -> SocketAddr {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        SocketAddr::new(if self.is_loopback() { self.ip() } else { any }, port)
    }

    /// The binary under test, as programs of the pod see it.
    pub(crate) fn weft(&self) -> Result<String> {
        let binary = weft_binary()?;
        Ok(if self.is_loopback() { binary.display().to_string() } else { WEFT_INSIDE.to_owned() })
    }

    /// Where this pod's files and output are.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The name of the pod's link on the node's bridge.
    pub(crate) fn link(&self) -> String {
        self.0.link()
    }

    /// Starts a program as root of the pod; it ends with the pod.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, name: &str, command: &[S]) -> Result<Arc<Process>> {
        self.spawn_as(None, name, command)
    }

    /// Starts a program as another user (and the group of the same number).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_as<S: AsRef<OsStr>>(
        &self,
        uid: Option<u32>,
        name: &str,
        command: &[S],
    ) -> Result<Arc<Process>> {
        let command = self.command(uid, command)?;
        let log = self.0.dir.join(format!("{name}.log"));
        let process = Arc::new(Process::start(name, command, &log)?);
        self.locked().push(process.clone());
        Ok(process)
    }

    /// Starts a program in the node's namespace that belongs to this pod (a capture on its link).
    pub(crate) fn spawn_on_node(&self, name: &str, command: &[&str]) -> Result<Arc<Process>> {
        let command = self.command_in(self.0.node.sandbox(), None, command)?;
        let process = Arc::new(Process::start(name, command, &self.0.dir.join(format!("{name}.log")))?);
        self.watchers().push(process.clone());
        Ok(process)
    }

    /// Runs a program in the pod to its end (30 s at the most).
    ///
    /// # Errors
    /// It cannot be started, or does not end in time. An exit status other than 0 is not an error here.
    pub fn exec<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Output> {
        self.exec_as(None, command)
    }

    /// Like [`Pod::exec`], as another user.
    ///
    /// # Errors
    /// As [`Pod::exec`].
    pub fn exec_as<S: AsRef<OsStr>>(&self, uid: Option<u32>, command: &[S]) -> Result<Output> {
        let name = command.first().map_or("", |name| name.as_ref().to_str().unwrap_or(""));
        self.0.node.run_command(name, self.command(uid, command)?, EXEC_DEADLINE)
    }

    fn command<S: AsRef<OsStr>>(&self, uid: Option<u32>, command: &[S]) -> Result<Command> {
        self.command_in(&self.0.sandbox, uid, command)
    }

    fn command_in<S: AsRef<OsStr>>(
        &self,
        sandbox: &Sandbox,
        uid: Option<u32>,
        command: &[S],
    ) -> Result<Command> {
        let (program, args) = command.split_first().context("an empty command")?;
        let program = program.as_ref().to_str().context("a program name that is not text")?;
        let path =
            find_program(program).map_or_else(|| program.to_owned(), |path| path.display().to_string());
        let mut command = sandbox.enter(uid).command(&path)?;
        let (key, value) = self.0.node.mark();
        command.args(args).env(key, value).current_dir(&self.0.dir);
        Ok(command)
    }

    /// Starts the test application of this crate on `port` (see [`crate::apps`]) and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn app(&self, port: u16) -> Result<Arc<Process>> {
        self.app_of("http", port)
    }

    /// Starts one kind of test application under the pod's name; `kind` is one of those in [`crate::apps`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn app_of(&self, kind: &str, port: u16) -> Result<Arc<Process>> {
        self.app_as(kind, port, self.name())
    }

    /// Starts one kind of test application that calls itself `name`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn app_as(&self, kind: &str, port: u16, name: &str) -> Result<Arc<Process>> {
        self.start_app(kind, self.listen_on(port), name, &[])
    }

    /// Starts one kind of test application on one address of the pod.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn app_at(&self, kind: &str, listen: SocketAddr) -> Result<Arc<Process>> {
        self.start_app(kind, listen, self.name(), &[])
    }

    /// Like [`Pod::app_of`] for an application that is told where those that it calls are (`name`, address), as one that cannot find
    /// them by their names.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn app_calling(&self, kind: &str, port: u16, calls: &[(&str, SocketAddr)]) -> Result<Arc<Process>> {
        self.start_app(kind, self.listen_on(port), self.name(), calls)
    }

    fn start_app(
        &self,
        kind: &str,
        listen: SocketAddr,
        name: &str,
        calls: &[(&str, SocketAddr)],
    ) -> Result<Arc<Process>> {
        let helper = crate::helper::helper_binary()?.display().to_string();
        let (port, listen) = (listen.port(), listen.to_string());
        let mut command =
            [&helper, "serve", kind, "--listen", &listen, "--name", name].map(str::to_owned).to_vec();
        for (callee, address) in calls {
            command.extend(["--call".to_owned(), format!("{callee}={address}")]);
        }
        let process = self.spawn(&format!("{kind}-{port}"), &command)?;
        process.wait_for_log("listening", APP_DEADLINE)?;
        Ok(process)
    }

    /// Starts a real redis-server on its usual port, 6379, without persistence.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn redis(&self) -> Result<Arc<Process>> {
        self.redis_on(6379)
    }

    /// The same on another port.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn redis_on(&self, port: u16) -> Result<Arc<Process>> {
        let (port, ip) = (port.to_string(), self.ip().to_string());
        let bind: &[&str] = if self.is_loopback() { &[&ip] } else { &["*", "-::*"] };
        let args = [&["redis-server", "--port", &port, "--protected-mode", "no", "--bind"], bind];
        let args = [&args.concat()[..], &["--save", "", "--appendonly", "no"]].concat();
        let process = self.spawn("redis", &args)?;
        process.wait_for_log("Ready to accept connections", APP_DEADLINE)?;
        Ok(process)
    }

    /// Runs `work` inside the pod's network, on a thread and a runtime of its own.
    ///
    /// # Errors
    /// The thread cannot enter the namespace, or `work` failed.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.0.sandbox.scoped(|| runtime()?.block_on(work()))?
    }

    /// Like [`Pod::run`], but goes on in the background.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Task<T>> {
        Ok(Task(self.0.sandbox.on_thread(move || runtime()?.block_on(work()))?))
    }

    /// Asks the pod's name server for one name as it stands (no search domains).
    ///
    /// # Errors
    /// No answer came.
    pub fn lookup(&self, name: &str, kind: &str) -> Result<Answer> {
        self.run(async || resolve::lookup(self.dns_server(), name, kind).await)
    }

    /// Resolves a name as an application in the pod would: search domains, both families of the pod.
    ///
    /// # Errors
    /// The name does not exist, or no answer came.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        let resolver = self.resolver();
        self.run(async || resolver.resolve(name).await)
    }

    pub(crate) fn resolver(&self) -> resolve::Resolver {
        resolve::Resolver {
            server: self.dns_server(),
            namespace: self.0.namespace.clone(),
            v4: self.0.v4.is_some(),
            v6: self.0.v6.is_some(),
        }
    }

    pub(crate) fn dns_server(&self) -> SocketAddr {
        let (v4, v6) = self.0.node.dns();
        v6.filter(|_| self.0.v4.is_none()).unwrap_or(v4)
    }

    /// An HTTP/1.1 GET over a new connection.
    ///
    /// # Errors
    /// No complete answer came.
    pub fn get(&self, url: &str) -> Result<Response> {
        self.send(Request::get(url))
    }

    /// An HTTP request over a new connection.
    ///
    /// # Errors
    /// No complete answer came.
    pub fn send(&self, request: Request) -> Result<Response> {
        let resolver = self.resolver();
        self.run(async move || Client::new(resolver).send(request).await)
    }

    /// Steady traffic: GET on a URL.
    pub fn load(&self, url: &str) -> LoadBuilder {
        LoadBuilder::new(self.clone(), Request::get(url))
    }

    /// Steady traffic of any request.
    pub fn load_of(&self, request: Request) -> LoadBuilder {
        LoadBuilder::new(self.clone(), request)
    }

    /// Records what passes the pod's link on the node's bridge: what is *between* pods.
    ///
    /// # Errors
    /// tcpdump cannot be started, or the pods are on loopback.
    pub fn capture(&self, filter: &str) -> Result<Capture> {
        if self.is_loopback() {
            bail!("nothing can be captured between loopback pods");
        }
        Capture::start(self, filter)
    }

    /// Deletes the pod at once, as when its node dies: programs are killed, the link is gone, nobody says goodbye.
    ///
    /// # Errors
    /// The link cannot be removed.
    pub fn delete(&self) -> Result<()> {
        if self.is_loopback() {
            bail!("a loopback pod has no link that could be cut");
        }
        // The link first: nothing that the dying programs send must get out.
        let batch = format!("link del {}\n", self.link());
        self.0.node.ip(self.0.node.sandbox(), &batch)?;
        self.crash();
        Ok(())
    }

    /// Kills every program of the pod and leaves its network: peers are told by resets, as when a node's kernel lives on.
    pub fn crash(&self) {
        // What was started last goes first: the sidecar before the application it speaks for.
        for process in self.locked().iter().rev() {
            process.kill();
        }
    }

    pub(crate) fn kill_all(&self) {
        self.crash();
        for process in self.watchers().iter() {
            process.kill();
        }
    }

    /// How many captures have been started on this pod.
    pub(crate) fn captures(&self) -> usize {
        self.watchers().len()
    }

    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        self.locked().clone()
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Process>>> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Process>>> {
        self.0.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that goes on in a pod.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<Result<Result<T>>>);

impl<T> Task<T> {
    /// Waits for the end.
    ///
    /// # Errors
    /// The work failed.
    pub fn join(self) -> Result<T> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("building a runtime")
}

/// The binary under test: `$WEFT_BIN`, or `weft` beside the test's executable.
///
/// # Errors
/// There is none.
pub(crate) fn weft_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return fs::canonicalize(&path).with_context(|| format!("WEFT_BIN={}", path.display()));
    }
    beside_tests("weft")?.context("the weft binary is not built: cargo build -p weft, or set WEFT_BIN")
}
