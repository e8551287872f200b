//! Holds the image against what it promises: made again it is the same, it runs under Kubernetes' conditions, and
//! deploy/Dockerfile gives the same image.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::read::{self, Contents};
use super::rootfs::Rootfs;
use crate::setup::{self, Missing};
use crate::{cargo, process};

/// Compressed bytes that a pull may cost.
pub(crate) const LIMIT: usize = 30_000_000;

/// A configuration that starts: no CA will answer, as when a node comes up before the mesh does.
const CONFIG: &str = "\
workload: {name: check, namespace: check, serviceAccount: check}
identity:
  trustDomain: weft.local
  ca:
    address: 127.0.0.1:1
    bundle: /etc/ssl/certs/ca-certificates.crt
    tokenFile: /etc/weft/token
";

/// Whether this user can check an image.
pub(crate) fn possible() -> bool {
    setup::is_root() && is_whole(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
}

/// Whether a `uid_map` is that of the first user namespace: one range of all ids.
fn is_whole(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes sure that this user and this machine can check an image.
///
/// # Errors
/// [`Missing`], with the way out.
pub(crate) fn set_up() -> Result<()> {
    if !possible() {
        return Err(Missing(
            "only root, of the machine rather than of a user namespace, can check an image: it takes other users' ids \
             and mounts\n  Please run:  sudo cargo xtask dist --check"
                .to_owned(),
        )
        .into());
    }
    setup::ensure("checking the image", &[setup::DIST_CHECK])
}

/// Checks the image in `archive`, whose files are `tree`.
///
/// # Errors
/// The first promise that does not hold; [`Missing`] where this user cannot check it.
pub(crate) fn all(archive: &Path, tree: &Rootfs) -> Result<()> {
    set_up()?;
    let work = tempfile::tempdir()?;
    let ours = read::archive(archive)?;
    if let Some(shell) = ours.files.keys().find(|path| path.ends_with("/sh") || path.ends_with("/bash")) {
        bail!("the image has a shell: {shell}");
    }
    let context = work.path().join("context");
    tree.lay_out(&context.join("rootfs"))?;
    dockerfile(&ours, &context, work.path()).context("deploy/Dockerfile")?;
    println!("deploy/Dockerfile gives the same image");
    conditions(&context.join("rootfs"), work.path()).context("the image under Kubernetes' conditions")?;
    println!("the image runs under Kubernetes' conditions");
    Ok(())
}

/// Builds the Dockerfile from the files in `context` and compares.
fn dockerfile(ours: &Contents, context: &Path, work: &Path) -> Result<()> {
    let policy = work.join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
    let buildah = |words: &[&str]| {
        let mut command = process::command(&["buildah", "--storage-driver", "vfs", "--root"]);
        command.arg(work.join("storage")).arg("--runroot").arg(work.join("run")).args(words);
        command.arg("--signature-policy").arg(&policy);
        command
    };
    let label = |name: &str| {
        let value =
            ours.run["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
        format!("{}={value}", name.to_uppercase())
    };
    let mut build = buildah(&["bud", "--isolation", "chroot", "--target", "prebuilt", "--tag", "weft:check"]);
    build.args(["--build-arg", &label("version"), "--build-arg", &label("revision"), "--file"]);
    build.arg(cargo::root().join("deploy/Dockerfile")).arg(context);
    process::capture(&mut build)?;
    let archive = work.join("theirs.tar");
    let target = format!("oci-archive:{}", archive.display());
    process::capture(buildah(&["push"]).args(["weft:check", &target]))?;

    let mut theirs = read::archive(&archive)?;
    if let Some(labels) = theirs.run["Labels"].as_object_mut() {
        labels.remove("io.buildah.version");
    }
    let differences = read::differences(ours, &theirs);
    if !differences.is_empty() {
        bail!("other files than those of `cargo xtask dist`:\n  {}", differences.join("\n  "));
    }
    for field in ["User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels"] {
        let (here, there) = (present(&ours.run[field]), present(&theirs.run[field]));
        if here != there {
            bail!("{field} is {there:?}, and `cargo xtask dist` has {here:?}");
        }
    }
    Ok(())
}

/// An empty value and none mean the same.
fn present(value: &Value) -> Option<&Value> {
    let empty = value.is_null() || value.as_str().is_some_and(|text| text.is_empty() || text == "/");
    (!empty).then_some(value)
}

/// Runs the programs of the image.
fn conditions(root: &Path, work: &Path) -> Result<()> {
    let config = work.join("config");
    fs::create_dir(&config)?;
    fs::write(config.join("weft.yaml"), CONFIG)?;
    fs::write(config.join("token"), "no-token-of-anyone")?;
    open(work)?;
    let script = work.join("check.sh");
    fs::write(&script, include_str!("check.sh"))?;
    // The process namespace takes every process of the script with it.
    let mut command = process::command(&["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "sh"]).arg(&script).arg(root).arg(&config);
    if process::stream(&mut command)? { Ok(()) } else { bail!("it failed: see above") }
}

/// Lets the image's user into the directory, as it is when a runtime mounts it.
fn open(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_is_told_from_the_machine() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("0 1000 1\n1 100000 65536\n"));
        assert!(!is_whole(""));
    }

    #[test]
    fn an_empty_field_is_an_absent_one() {
        for value in [Value::Null, "".into(), "/".into()] {
            assert_eq!(present(&value), None);
        }
        assert!(present(&"x".into()).is_some());
    }
}
