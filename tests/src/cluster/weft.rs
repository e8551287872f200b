//! Weft itself on the cluster: installed, asked and removed by its own commands.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Cluster;
use crate::process::{Output, run};
use crate::wait::eventually;

/// Where it is installed.
pub const WEFT_NAMESPACE: &str = "weft-system";
/// Its control part.
pub const CONTROL: &str = "deployment/weft-control";

/// How long a command may take: `weft uninstall` waits for what it removes.
const DEADLINE: Duration = Duration::from_secs(180);

/// How long the injector may need until the API server calls it.
const SOON: Duration = Duration::from_secs(90);

/// Lines of each log that a failed story shows.
const SHOWN: &str = "--tail=40";

impl Cluster {
    /// Runs the `weft` under test on this machine, as the cluster's administrator.
    ///
    /// # Errors
    /// It does not start; how it ended is in the output.
    pub fn weft(&self, words: &[&str]) -> Result<Output> {
        self.tool(&self.weft, words)
    }

    /// Runs `helm`.
    ///
    /// # Errors
    /// It failed: the error shows its output.
    pub fn helm(&self, words: &[&str]) -> Result<String> {
        let output = self.tool(&self.helm, words)?.ok();
        Ok(output.with_context(|| format!("helm {}", words.join(" ")))?.stdout)
    }

    fn tool(&self, program: &Path, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(words).env("KUBECONFIG", self.kubectl().config());
        run(&program.display().to_string(), command, &std::env::temp_dir(), DEADLINE)
    }

    /// Makes sure that Weft is installed with these values: `weft install | kubectl apply -f -`, which changes nothing
    /// where it is so already.
    ///
    /// # Errors
    /// It is refused, or does not become ready.
    pub fn install(&self, values: &[&str]) -> Result<()> {
        self.install_image(self.image(), values)
    }

    /// As [`Cluster::install`], with another image.
    ///
    /// # Errors
    /// As there.
    pub fn install_image(&self, image: &str, values: &[&str]) -> Result<()> {
        let values: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
        let objects = self.weft(&[&["install", "--image", image], values.as_slice()].concat())?.ok()?.stdout;
        self.kubectl().feed_text(&["apply"], &objects)?;
        self.control_ready()?;
        self.injector_answers()
    }

    /// Waits until every replica of the control part is ready.
    ///
    /// # Errors
    /// One does not become so.
    pub fn control_ready(&self) -> Result<()> {
        self.existing(WEFT_NAMESPACE).run(&["rollout", "status", CONTROL, "--timeout=180s"]).map(drop)
    }

    /// Waits until the API server calls the injector: a pod that is only tried out gets its sidecar.
    ///
    /// # Errors
    /// It does not, within a minute and a half.
    pub fn injector_answers(&self) -> Result<()> {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "probe", "namespace": "default", "labels": { "weft.dev/inject": "enabled" } },
            "spec": { "containers": [{ "name": "app", "image": super::APP_IMAGE }] },
        });
        let text = pod.to_string();
        eventually("the injector to be called", SOON, || {
            let made = self.kubectl().feed_text(&["create", "--dry-run=server", "-o", "json"], &text)?;
            Ok(made.contains("\"weft-proxy\"").then_some(()))
        })
    }

    /// Prints what the namespaces show, for whoever has to find out why a story failed.
    #[expect(clippy::print_stderr, reason = "a failed test tells what it saw")]
    pub(super) fn report(&self, namespaces: &[String]) {
        let show = |words: &[&str]| {
            let output = self.kubectl().output(words);
            let text = output.map_or_else(|error| error.to_string(), |output| output.stdout + &output.stderr);
            eprintln!("$ kubectl {}\n{text}", words.join(" "));
        };
        show(&["get", "configmap", "weft-state", "-n", WEFT_NAMESPACE, "-o", "jsonpath={.data}"]);
        // The story's own last: the end of an output is what survives of a long one.
        for namespace in [WEFT_NAMESPACE].into_iter().chain(namespaces.iter().map(String::as_str)) {
            show(&["get", "pods", "-n", namespace, "-o", "wide"]);
            show(&["get", "events", "-n", namespace, "--field-selector", "type=Warning"]);
            show(&["get", "configmap", "weft-mesh", "-n", namespace, "-o", "jsonpath={.data.weft\\.yaml}"]);
            let names =
                self.kubectl().run(&["get", "pods", "-n", namespace, "-o", "name"]).unwrap_or_default();
            for pod in names.lines() {
                show(&["logs", "-n", namespace, pod, "--all-containers", "--prefix", SHOWN]);
            }
        }
    }
}
