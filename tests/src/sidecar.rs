//! The sidecar of a pod: `weft init` and `weft proxy`, as the injector starts them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::ca::Ca;
use crate::collector::Collector;
use crate::http::Response;
use crate::pod::Pod;
use crate::process::{Output, Process};
use crate::wait::eventually;

/// The user that the proxy runs as: the rules let its traffic pass (DESIGN section 4).
pub const PROXY_UID: u32 = 2102;

const ADMIN: u16 = 15000;
const HEALTH: u16 = 15021;

/// How long a sidecar may take until it is ready: it needs an identity and its rules.
const READY: Duration = Duration::from_secs(20);

/// A sidecar about to be started.
#[derive(Debug)]
#[must_use = "call start()"]
pub struct SidecarBuilder {
    pod: Pod,
    config: Value,
    init: Vec<String>,
    proxy: Vec<String>,
    environment: Vec<String>,
    interception: bool,
    command: &'static str,
}

impl SidecarBuilder {
    pub(crate) fn new(pod: &Pod, ca: &Ca, collector: Option<&Collector>) -> Result<Self> {
        let token = pod.dir().join("token");
        fs::write(&token, ca.token(pod.namespace(), pod.account())?).context("writing the token")?;
        let bundle = pod.dir().join("root.pem");
        fs::copy(ca.bundle()?, &bundle).context("copying the root certificate")?;
        if !pod.is_loopback() {
            for file in [&token, &bundle] {
                chown(file, Some(PROXY_UID), Some(PROXY_UID)).context("giving the proxy its files")?;
            }
        }
        let mut config = json!({
            "workload": {
                "name": pod.name(),
                "namespace": pod.namespace(),
                "serviceAccount": pod.account(),
                "addresses": pod.addresses(),
            },
            "identity": {
                "trustDomain": "weft.local",
                "ca": { "address": ca.address_for(pod).to_string(), "bundle": bundle, "tokenFile": token },
            },
            // A pod's DNS here has a TTL of 1 s; a test must not wait for the usual floor of 5 s.
            "dns": { "refreshFloor": "500ms" },
            "telemetry": { "accessLog": { "mode": "all" } },
            "log": "info",
        });
        if let Some(collector) = collector {
            config["telemetry"]["tracing"] = collector.tracing_for(pod);
        }
        if pod.is_loopback() {
            let at = |port: u16| SocketAddr::new(pod.ip(), pod.port(port));
            config["bind"] = json!({
                "outbound": at(15001), "inbound": at(15006), "dns": at(15053), "admin": at(ADMIN),
                "metrics": at(15020), "health": at(HEALTH),
            });
            config["dns"]["servers"] = json!([pod.dns_server()]);
        }
        let interception = !pod.is_loopback();
        Ok(Self {
            pod: pod.clone(),
            config,
            init: Vec::new(),
            proxy: Vec::new(),
            environment: Vec::new(),
            interception,
            command: "proxy",
        })
    }

    /// Makes it a gateway of its own (`weft gateway`) instead of a sidecar: with these resources, and without an application.
    pub fn gateway(mut self, resources: &Path) -> Self {
        self.command = "gateway";
        self.interception = false;
        self.config["resources"] = json!([resources]);
        if let Some(bind) = self.config["bind"].as_object_mut() {
            bind.retain(|name, _| ["admin", "metrics", "health"].contains(&name.as_str()));
        }
        self
    }

    /// Changes `weft.yaml`: `edit` gets it as a tree.
    pub fn config(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.config);
        self
    }

    /// Further arguments of `weft init`.
    pub fn init_args(mut self, args: &[&str]) -> Self {
        self.init.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Further arguments of `weft proxy`.
    pub fn proxy_args(mut self, args: &[&str]) -> Self {
        self.proxy.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// A variable of the proxy's environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Adds an entry to `outbound.listeners`: the application dials `address` for `destination` (`name:port`).
    pub fn outbound_listener(self, address: SocketAddr, destination: &str) -> Self {
        self.listener("outbound", json!({ "address": address, "destination": destination }))
    }

    /// Adds an entry to `inbound.listeners`: others dial `address` for the application at `application`.
    pub fn inbound_listener(self, address: SocketAddr, application: SocketAddr) -> Self {
        self.listener("inbound", json!({ "address": address, "application": application }))
    }

    fn listener(mut self, direction: &str, entry: Value) -> Self {
        let list = &mut self.config[direction]["listeners"];
        match list.as_array_mut() {
            Some(list) => list.push(entry),
            None => *list = json!([entry]),
        }
        self
    }

    /// Leaves the rules out: nothing is captured.
    pub fn without_interception(mut self) -> Self {
        self.interception = false;
        self
    }

    /// Writes the configuration and the rules, starts the proxy and waits until it is ready.
    ///
    /// # Errors
    /// Any of it fails; the error shows the output.
    pub fn start(self) -> Result<Sidecar> {
        let sidecar = self.launch()?;
        sidecar.wait_ready()?;
        Ok(sidecar)
    }

    /// Like [`SidecarBuilder::start`] without waiting.
    ///
    /// # Errors
    /// The rules cannot be written or the proxy cannot be started.
    pub fn launch(self) -> Result<Sidecar> {
        crate::pod::weft_binary()?;
        let config = self.pod.dir().join("weft.yaml");
        write_config(&config, &self.config)?;
        if !self.pod.is_loopback() {
            chown(self.pod.dir(), Some(PROXY_UID), Some(PROXY_UID))
                .context("giving the proxy its directory")?;
        }
        if self.interception {
            init(&self.pod, &self.init)?.ok().context("weft init")?;
        }
        let mut sidecar = Sidecar {
            pod: self.pod,
            config,
            proxy: self.proxy,
            environment: self.environment,
            command: self.command,
            process: Mutex::default(),
            yaml: self.config,
        };
        sidecar.launch()?;
        Ok(sidecar)
    }
}

fn write_config(path: &Path, yaml: &Value) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, format!("{yaml:#}")).context("writing weft.yaml")?;
    fs::rename(new, path).context("replacing weft.yaml")
}

/// Runs `weft init` as root of the pod's network.
pub(crate) fn init(pod: &Pod, args: &[String]) -> Result<Output> {
    let uid = PROXY_UID.to_string();
    let weft = pod.weft()?;
    let mut command = vec![weft.as_str(), "init", "--proxy-uid", &uid];
    command.extend(args.iter().map(String::as_str));
    pod.exec(&command)
}

/// A sidecar that runs.
#[derive(Debug)]
pub struct Sidecar {
    pod: Pod,
    config: PathBuf,
    proxy: Vec<String>,
    environment: Vec<String>,
    command: &'static str,
    process: Mutex<Option<Arc<Process>>>,
    yaml: Value,
}

impl Sidecar {
    fn launch(&mut self) -> Result<()> {
        let config = self.config.display().to_string();
        let weft = self.pod.weft()?;
        // env(1) becomes the program, so that the process is the proxy all the same.
        let mut command: Vec<&str> = if self.environment.is_empty() { Vec::new() } else { vec!["env"] };
        command.extend(self.environment.iter().map(String::as_str));
        command.extend([weft.as_str(), self.command, "--config", &config]);
        command.extend(self.proxy.iter().map(String::as_str));
        // On loopback nothing tells the proxy's traffic from the application's, so it need not be another user.
        let uid = (!self.pod.is_loopback()).then_some(PROXY_UID);
        let process = self.pod.spawn_as(uid, "weft-proxy", &command)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// The program.
    ///
    /// # Panics
    /// Never: it is set before a `Sidecar` is handed out.
    pub fn process(&self) -> Arc<Process> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).clone();
        process.unwrap_or_else(|| unreachable!("launched before it is handed out"))
    }

    /// Waits until `/ready` on the health port says 200.
    ///
    /// # Errors
    /// The proxy ended or the deadline passed; the error shows its output.
    pub fn wait_ready(&self) -> Result<()> {
        let process = self.process();
        let url = format!("http://{}/ready", self.own(HEALTH));
        eventually("the sidecar to be ready", READY, || {
            if !process.is_running() {
                bail!("weft proxy ended");
            }
            let answer = self.pod.get(&url);
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .with_context(|| format!("sidecar of {}: {}", self.pod.name(), process.log().trim()))
    }

    /// A port of the proxy's own, as programs of the pod reach it. Every network namespace has 127.0.0.1.
    fn own(&self, port: u16) -> SocketAddr {
        let loopback = if self.pod.is_loopback() { self.pod.ip() } else { Ipv4Addr::LOCALHOST.into() };
        SocketAddr::new(loopback, self.pod.port(port))
    }

    /// GET on the admin port, from inside the pod.
    ///
    /// # Errors
    /// No answer came.
    pub fn admin(&self, path: &str) -> Result<Response> {
        self.pod.get(&format!("http://{}{path}", self.own(ADMIN)))
    }

    /// All metrics now.
    ///
    /// # Errors
    /// No answer came.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.admin("/metrics")?.text()))
    }

    /// Replaces `weft.yaml` in one step; the proxy reloads it by itself.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn reconfigure(&mut self, edit: impl FnOnce(&mut Value)) -> Result<()> {
        edit(&mut self.yaml);
        write_config(&self.config, &self.yaml)
    }

    /// Asks it to drain and end.
    pub fn sigterm(&self) {
        self.process().sigterm();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        self.process().wait_exit(deadline)
    }

    /// Ends it at once; the rules stay, so the pod is cut off.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Starts it again after its end and waits until it is ready.
    ///
    /// # Errors
    /// As [`SidecarBuilder::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process().kill();
        self.launch()?;
        self.wait_ready()
    }

    /// The access log and other output.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// The pod it stands beside.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }
}

/// One sample of the Prometheus text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum`, `_count` where it is a histogram's.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A label, or "".
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The samples of one name that have all these labels.
    pub fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|has| has == value))
        })
    }

    /// Their sum; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name, labels).map(|sample| sample.value).sum()
    }

    /// What has been added since an earlier scrape of the same process: counters and histograms as differences.
    pub fn since(&self, earlier: &Self) -> Self {
        let before: BTreeMap<_, f64> =
            earlier.0.iter().map(|sample| ((&sample.name, &sample.labels), sample.value)).collect();
        let change = |sample: &Sample| {
            let value = sample.value - before.get(&(&sample.name, &sample.labels)).copied().unwrap_or(0.0);
            Sample { value, ..sample.clone() }
        };
        Self(self.0.iter().map(change).collect())
    }

    /// The samples of several processes together.
    pub fn merged(all: &[Self]) -> Self {
        Self(all.iter().flat_map(|metrics| metrics.0.iter().cloned()).collect())
    }

    /// The values that one label has among the samples of a name.
    pub fn values_of(&self, name: &str, label: &str) -> BTreeSet<String> {
        self.of(name, &[]).filter_map(|sample| sample.labels.get(label).cloned()).collect()
    }

    /// The upper bound of the bucket that holds this share of a histogram's observations, over all its series with
    /// these labels. `None` without observations or beyond the last bound.
    pub fn quantile(&self, name: &str, labels: &[(&str, &str)], share: f64) -> Option<f64> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.of(&format!("{name}_bucket"), labels) {
            let bound: f64 = sample.labels.get("le")?.parse().ok()?;
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let found = buckets.iter().find(|(_, count)| *count >= total * share)?;
        found.0.is_finite().then_some(found.0)
    }
}

/// `name{label="value",...} value` of the Prometheus exposition format, version 0.0.4.
fn sample(line: &str) -> Option<Sample> {
    let (head, value) = match line.rfind('}') {
        Some(end) => (&line[..=end], &line[end + 1..]),
        None => line.split_once(' ')?,
    };
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (head, ""),
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels: parse_labels(labels)?, value })
}

fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.trim().to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE d histogram\n\
        d_bucket{to=\"a\",le=\"0.1\"} 5\nd_bucket{to=\"a\",le=\"0.5\"} 9\nd_bucket{to=\"a\",le=\"+Inf\"} 10\n\
        d_bucket{to=\"b\",le=\"0.1\"} 0\nd_bucket{to=\"b\",le=\"0.5\"} 10\nd_bucket{to=\"b\",le=\"+Inf\"} 10\n\
        up 1\nodd{text=\"a \\\"b\\\" {c}, d\\\\\"} 2.5 1700000000\n";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("up", &[]), 1.0);
        assert_eq!(metrics.sum("odd", &[("text", "a \"b\" {c}, d\\")]), 2.5);
        assert_eq!(metrics.sum("odd", &[("text", "other")]), 0.0);
    }

    #[test]
    fn quantiles_are_bucket_bounds_over_all_series() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.quantile("d", &[("to", "a")], 0.5), Some(0.1));
        assert_eq!(metrics.quantile("d", &[], 0.5), Some(0.5));
        assert_eq!(metrics.quantile("d", &[("to", "a")], 0.99), None);
        assert_eq!(metrics.quantile("none", &[], 0.5), None);
    }
}
