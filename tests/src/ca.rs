//! The mesh CA: a real `weft ca` in a pod of its own, and the join tokens of the workloads.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::pod::Pod;
use crate::process::Process;
use crate::wait::eventually;

/// The port that the reference gives to the CA.
const PORT: u16 = 15012;

/// How long the CA may take to make its root and listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A time no test lives to see.
const FAR: &str = "2099-01-01T00:00:00Z";

/// The CA.
#[derive(Debug)]
pub struct Ca {
    pod: Pod,
    config: PathBuf,
    tokens: Mutex<Vec<Value>>,
    process: Mutex<Arc<Process>>,
}

impl Ca {
    /// Starts a CA for the trust domain `weft.local`, with `edit` applied to its `ca.yaml`.
    pub(crate) fn start(pod: Pod, edit: impl FnOnce(&mut Value)) -> Result<Self> {
        let dir = pod.dir().to_owned();
        let config = dir.join("ca.yaml");
        let mut yaml = json!({
            "trustDomain": "weft.local",
            "listen": pod.listen_on(pod.port(PORT)),
            "dataDir": dir.join("data"),
            "tokensFile": dir.join("tokens.yaml"),
        });
        edit(&mut yaml);
        // JSON is YAML (YAML 1.2 section 1.3).
        fs::write(&config, format!("{yaml:#}")).context("writing ca.yaml")?;
        fs::write(dir.join("tokens.yaml"), "tokens: []\n").context("writing tokens.yaml")?;
        fs::create_dir_all(dir.join("data")).context("creating the CA's data directory")?;
        let process = Mutex::new(launch(&pod, &config)?);
        let ca = Self { pod, config, tokens: Mutex::default(), process };
        ca.wait_until_up()?;
        Ok(ca)
    }

    /// The CA's address as a pod reaches it.
    pub fn address_for(&self, pod: &Pod) -> SocketAddr {
        self.pod.socket_for(pod, self.pod.port(PORT))
    }

    /// The pod it runs in.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The file with the root certificates.
    ///
    /// # Errors
    /// The CA has not written one.
    pub fn bundle(&self) -> Result<PathBuf> {
        let data = self.pod.dir().join("data");
        let mut found = None;
        for entry in fs::read_dir(&data).with_context(|| format!("reading {}", data.display()))?.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY") {
                found = Some(entry.path());
            }
        }
        found.with_context(|| format!("no certificate in {}", data.display()))
    }

    /// A new token for an identity, valid for longer than any test.
    ///
    /// # Errors
    /// The tokens file cannot be written.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        self.token_until(namespace, account, FAR)
    }

    /// A new token that ends at a time (RFC 3339, UTC).
    ///
    /// # Errors
    /// The tokens file cannot be written.
    pub fn token_until(&self, namespace: &str, account: &str, expires: &str) -> Result<String> {
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(40).collect();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push(json!({
            "token": token,
            "identity": { "namespace": namespace, "serviceAccount": account },
            "expires": expires,
        }));
        let file = self.pod.dir().join("tokens.yaml");
        let new = self.pod.dir().join("tokens.new");
        fs::write(&new, format!("{:#}", json!({ "tokens": *tokens }))).context("writing tokens")?;
        fs::rename(new, file).context("replacing tokens.yaml")?;
        self.wait_for_tokens(tokens.len());
        Ok(token)
    }

    /// Until the CA has read the file again: a workload that is quicker is refused once and tries again, which works but
    /// would show in its log and metrics. So giving up in silence is right.
    fn wait_for_tokens(&self, count: usize) {
        let process = self.process();
        let _ = eventually("the CA to read its tokens again", Duration::from_secs(3), || {
            let read = |line: &str| {
                line.contains("join tokens")
                    && [
                        format!("\"tokens\":{count},"),
                        format!("\"tokens\":\"{count}\""),
                        format!("tokens={count}"),
                    ]
                    .iter()
                    .any(|text| line.contains(text.as_str()))
            };
            Ok((!process.is_running() || process.log().lines().any(read)).then_some(()))
        });
    }

    /// An outage.
    pub fn stop(&self) {
        self.process().kill();
    }

    /// Ends an outage.
    ///
    /// # Errors
    /// The CA does not start.
    pub fn restart(&self) -> Result<()> {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = launch(&self.pod, &self.config)?;
        self.wait_until_up()
    }

    /// The program, for its log.
    pub fn process(&self) -> Arc<Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_until_up(&self) -> Result<()> {
        let (process, address) = (self.process(), SocketAddr::new(self.pod.ip(), self.pod.port(PORT)));
        eventually("the CA to listen", DEADLINE, || {
            if !process.is_running() {
                anyhow::bail!("weft ca ended");
            }
            let open = self.pod.run(async || Ok(tokio::net::TcpStream::connect(address).await.is_ok()))?;
            Ok((open && self.bundle().is_ok()).then_some(()))
        })
        .with_context(|| format!("output of weft ca: {}", process.log().trim()))
    }
}

fn launch(pod: &Pod, config: &std::path::Path) -> Result<Arc<Process>> {
    let weft = pod.weft()?;
    // Debug: it says when it has read the tokens again.
    let log = "info,weft_ca=debug";
    pod.spawn("weft-ca", &[&weft, "ca", "--log", log, "--config", &config.display().to_string()])
}
