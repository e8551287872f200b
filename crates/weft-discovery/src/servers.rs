//! Which servers to ask, and how: from the configuration, or from a resolv.conf that may change at any time.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::DnsName;

use crate::config::{DiscoveryConfig, Upstreams};
use crate::resolv_conf::ResolvConf;

/// The C library waits five seconds; most answers that take longer than two are lost, and asking again is cheap.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 2;
/// However long a resolv.conf says to wait for one server.
const QUERY_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// How often the resolv.conf is looked at, at most.
const WATCH: Duration = Duration::from_secs(2);
/// What is read of a resolv.conf. Nobody writes one of more than a few lines.
const FILE_MAX: u64 = 64 * 1024;

/// The servers and how to ask them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Servers {
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) attempts: u32,
    /// `options use-vc`: over TCP from the start.
    pub(crate) tcp: bool,
    /// `options rotate`: each query begins with another server.
    pub(crate) rotate: bool,
}

/// What tells that a file is another than before: a ConfigMap swap changes the inode, an editor at least the time.
type FileMark = (u64, i64, i64, u64);

#[derive(Debug)]
struct State {
    servers: Servers,
    search: Arc<[DnsName]>,
    mark: Option<FileMark>,
    /// A server is given with the name of an interface, whose number may change.
    scoped: bool,
    looked: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct ServerSource {
    file: Option<PathBuf>,
    /// Whether the servers come from the configuration, and the file has the search domains alone.
    fixed: bool,
    query_timeout: Option<Duration>,
    attempts: Option<u32>,
    state: Mutex<State>,
    /// Our own listeners, which must never be asked.
    own: Mutex<Vec<SocketAddr>>,
}

impl ServerSource {
    pub(crate) fn new(config: &DiscoveryConfig) -> Self {
        let (file, addrs) = match &config.upstreams {
            Upstreams::Servers(addrs) => (config.search_from.clone(), Some(addrs.clone())),
            Upstreams::ResolvConf(path) => (Some(path.clone()), None),
        };
        let mut source = Self {
            file,
            fixed: addrs.is_some(),
            query_timeout: config.query_timeout,
            attempts: config.attempts,
            state: Mutex::new(State {
                servers: Servers {
                    addrs: Vec::new(),
                    timeout: QUERY_TIMEOUT,
                    attempts: ATTEMPTS,
                    tcp: false,
                    rotate: false,
                },
                search: Arc::default(),
                mark: None,
                scoped: false,
                looked: None,
            }),
            own: Mutex::new(Vec::new()),
        };
        if let Some(addrs) = addrs {
            let conf = ResolvConf { servers: addrs, ..ResolvConf::default() };
            let servers = source.servers(&conf);
            source.state.get_mut().unwrap_or_else(PoisonError::into_inner).servers = servers;
        }
        source
    }

    /// Keeps queries from going in a circle.
    pub(crate) fn set_own(&self, own: Vec<SocketAddr>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    fn servers(&self, conf: &ResolvConf) -> Servers {
        let timeout = self.query_timeout.or(conf.timeout).unwrap_or(QUERY_TIMEOUT);
        Servers {
            addrs: conf.servers.clone(),
            timeout: timeout.clamp(Duration::from_millis(1), QUERY_TIMEOUT_MAX),
            attempts: self.attempts.or(conf.attempts).unwrap_or(ATTEMPTS).clamp(1, 10),
            tcp: conf.use_tcp,
            rotate: conf.rotate,
        }
    }

    /// The servers as of now.
    pub(crate) fn current(&self) -> Servers {
        let mut servers = self.look().servers.clone();
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        servers.addrs.retain(|addr| !own.contains(addr));
        servers
    }

    /// The search domains that the application's resolver goes through, as of now.
    pub(crate) fn search(&self) -> Arc<[DnsName]> {
        Arc::clone(&self.look().search)
    }

    /// The state, after a look at the file where it is time for one.
    fn look(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.file {
            let now = Instant::now();
            if state.looked.is_none_or(|looked| now - looked >= WATCH) {
                state.looked = Some(now);
                self.read_changes(path, &mut state);
            }
        }
        state
    }

    /// Reads the resolv.conf again if it changed.
    fn read_changes(&self, path: &Path, state: &mut State) {
        let mark =
            fs::metadata(path).map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())).ok();
        if mark.is_some() && mark == state.mark && !state.scoped {
            return;
        }
        match read(path) {
            Ok(text) => self.take(path, &text, mark, state),
            // No file is as good as an empty one to the C library: it asks the local host.
            Err(error) if error.kind() == io::ErrorKind::NotFound && state.servers.addrs.is_empty() => {
                self.take(path, "", None, state);
            }
            Err(error) => {
                if state.mark.take().is_some() || state.servers.addrs.is_empty() {
                    tracing::warn!(path = %path.display(), %error, "cannot read the DNS servers");
                }
            }
        }
    }

    fn take(&self, path: &Path, text: &str, mark: Option<FileMark>, state: &mut State) {
        let conf = ResolvConf::parse(text);
        state.search = conf.search.iter().filter_map(|domain| domain.parse().ok()).collect();
        state.mark = mark;
        if self.fixed {
            return;
        }
        state.scoped = conf.has_interface_names;
        let servers = self.servers(&conf);
        if servers != state.servers {
            tracing::info!(path = %path.display(), servers = ?servers.addrs, "DNS servers");
            state.servers = servers;
        }
    }
}

/// Comments may be in any encoding; they are no reason to be without DNS.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
