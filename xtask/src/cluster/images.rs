//! The images that every cluster has, made here from programs, and loading further ones.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::launch::Cluster;
use super::{node, parts};
use crate::dist::oci::Image;
use crate::{process, setup};

/// The first container of every pod.
pub(crate) const PAUSE: &str = "docker.io/weft-test/pause:1";
/// The DNS server.
pub(crate) const COREDNS: &str = "docker.io/weft-test/coredns:1";
/// A shell, a web server, `nslookup` and the like, for tests.
pub(crate) const BUSYBOX: &str = "docker.io/library/busybox:1";

/// Where tests send their spans.
pub(crate) const COLLECTOR: &str = "docker.io/weft-test/otelcol:1";

/// Makes the images of the cluster itself and loads them on every node.
pub(crate) fn prepare(cluster: &Cluster) -> Result<()> {
    let directory = cluster.layout.at("images");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let program = |name: &str| -> Result<Vec<u8>> { read(&cluster.parts.program(name)?) };
    let pause =
        Image::new().file("/pause", program("pause")?, 0o755).entrypoint(&["/pause"]).user("65535:65535");
    let coredns = Image::new().file("/coredns", program("coredns")?, 0o755).entrypoint(&["/coredns"]);
    for (image, name, file) in
        [(pause, PAUSE, "pause.tar"), (busybox()?, BUSYBOX, "busybox.tar"), (coredns, COREDNS, "coredns.tar")]
    {
        put(cluster, image, name, &directory.join(file))?;
    }
    Ok(())
}

/// Builds an OpenTelemetry Collector and loads it on every node. The image has a shell too, so that a test can read the
/// file of spans by `kubectl exec`.
pub(crate) fn collector(cluster: &Cluster) -> Result<()> {
    let program = parts::collector()?;
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let image = busybox()?.file("/otelcol", bytes, 0o755).entrypoint(&["/otelcol"]).command(&[]);
    put(cluster, image, COLLECTOR, &cluster.layout.at("images/otelcol.tar"))
}

fn put(cluster: &Cluster, image: Image, name: &str, file: &Path) -> Result<()> {
    image.fast().write(file, name)?;
    load(cluster, file)?;
    // It is in containerd now.
    fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
}

/// Everything that busybox is, under the names that scripts use.
fn busybox() -> Result<Image> {
    let program = setup::find_program("busybox").context("busybox is not installed")?;
    let applets = process::text(Command::new(&program).arg("--list"))?;
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut image = Image::new()
        .file("/bin/busybox", bytes, 0o755)
        .file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)
        .file("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
        .directory("/tmp", 0o1777)
        .directory("/root", 0o700)
        .env("PATH", "/bin")
        .command(&["sh"]);
    for applet in applets.lines().filter(|applet| *applet != "busybox" && !applet.contains('/')) {
        image = image.symlink(&format!("/bin/{applet}"), "busybox");
    }
    Ok(image)
}

/// Loads the images of an archive (OCI or `docker save`) on every node.
///
/// # Errors
/// The file cannot be read or is no such archive.
pub(crate) fn load(cluster: &Cluster, archive: &Path) -> Result<()> {
    for number in cluster.state.plan.numbers() {
        // Read by us: the node does not see all of the machine's directories.
        let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        let mut command = node::ctr(cluster, number)?;
        command.args(["images", "import", "--all-platforms", "-"]).stdin(file);
        let output = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot start `{}`", process::line(&command)))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            anyhow::bail!("cannot load {} on node-{number}: {}", archive.display(), error.trim());
        }
    }
    Ok(())
}
