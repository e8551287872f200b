//! The programs that a cluster is made of and that no Debian package has: built by Go from the modules in
//! `tests/cluster/parts`, once, and kept outside of the tree.
//!
//! A part's directory carries a hash of all that it is made from (the module's files, Go's version, the flags), so that
//! what is there is always what would be built, and two checkouts with different versions do not disturb each other.

use std::env;
use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{cargo, process, setup};

/// The version of Kubernetes, as in the module's `go.mod`.
pub(crate) const KUBERNETES: &str = "v1.36.3";
/// What Kubernetes is called by.
const COMPONENTS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// One program to build.
struct Part {
    /// The module's directory, and the program's name.
    name: &'static str,
    /// What to build in it.
    package: &'static str,
    /// What the linker is told, beside leaving out symbols.
    flags: &'static str,
    /// Further names of the program.
    links: &'static [&'static str],
    /// What to expect, for the person who waits.
    time: &'static str,
}

const PARTS: &[Part] = &[
    Part {
        name: "kubernetes",
        package: ".",
        flags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        links: COMPONENTS,
        time: "five minutes",
    },
    Part { name: "coredns", package: ".", flags: "", links: &[], time: "a minute or two" },
    Part { name: "helm", package: "helm.sh/helm/v4/cmd/helm", flags: "", links: &[], time: "two minutes" },
    Part { name: "pause", package: ".", flags: "", links: &[], time: "a second" },
];

/// Built only where it is asked for.
const COLLECTOR: Part =
    Part { name: "otelcol", package: ".", flags: "", links: &[], time: "a minute or two" };

/// Where the built programs are.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    directories: Vec<PathBuf>,
}

/// Where built and downloaded things are kept: `$WEFT_CACHE`, `$XDG_CACHE_HOME/weft` or `~/.cache/weft`, as the
/// stories in the pods do.
///
/// # Errors
/// None of the variables is set.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(directory) = env::var_os("WEFT_CACHE") {
        return Ok(directory.into());
    }
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(base.or_else(home).context("neither WEFT_CACHE, XDG_CACHE_HOME nor HOME is set")?.join("weft"))
}

impl Parts {
    /// Builds what is not there yet.
    ///
    /// # Errors
    /// Go is missing, or a part does not build.
    pub(crate) fn ensure() -> Result<Self> {
        let (go, version) = go()?;
        let cache = cache()?.join("cluster/parts");
        let directories: Result<Vec<PathBuf>> =
            PARTS.iter().map(|part| part.ensure(&go, &version, &cache)).collect();
        Ok(Self { directories: directories? })
    }

    /// A program by name, such as `kubelet` or `helm`.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file());
        found.with_context(|| format!("no part of the cluster is called {name}"))
    }

    /// Where `kubectl` and `helm` are, for PATH.
    pub(crate) fn tools(&self) -> Result<[PathBuf; 2]> {
        Ok([self.program("kubectl")?, self.program("helm")?])
    }
}

impl Part {
    fn source(&self) -> PathBuf {
        cargo::root().join("tests/cluster/parts").join(self.name)
    }

    fn ensure(&self, go: &Path, version: &str, cache: &Path) -> Result<PathBuf> {
        let directory = cache.join(format!("{}-{}", self.name, self.key(version)?));
        let program = directory.join(self.name);
        if program.is_file() {
            return Ok(directory);
        }
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = File::create(directory.join("lock")).context("cannot make a lock file")?;
        lock.lock().context("waiting for another build of the same part")?;
        if !program.is_file() {
            let partial = directory.join("partial");
            self.build(go, &partial, &directory.join("build.log"))?;
            for link in self.links {
                let link = directory.join(link);
                // One that an interrupted build left is as good.
                if !link.is_symlink() {
                    std::os::unix::fs::symlink(self.name, &link).context("cannot make a link")?;
                }
            }
            // In one step: a build that was interrupted leaves no program.
            fs::rename(&partial, &program).context("cannot keep the program")?;
        }
        Ok(directory)
    }

    /// A hash of all that decides what is built.
    fn key(&self, version: &str) -> Result<String> {
        let source = self.source();
        let mut files: Vec<PathBuf> = fs::read_dir(&source)
            .with_context(|| format!("cannot read {}", source.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        let mut hash = Sha256::new();
        for word in [version, self.package, self.flags] {
            hash.update(word);
            hash.update([0]);
        }
        for file in files {
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update([0]);
            hash.update(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        }
        Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    fn build(&self, go: &Path, output: &Path, log: &Path) -> Result<()> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("nice");
        command
            // Whoever waits for the build may end it; the compilers should not stay.
            .args(["-n", "10", "setpriv", "--pdeathsig", "TERM", "--"])
            .arg(go)
            .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags"])
            .arg(format!("-s -w {}", self.flags))
            .arg("-o")
            .arg(output)
            .arg(self.package)
            .current_dir(self.source())
            .env("CGO_ENABLED", "0")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let title = format!("building {} once, {} on two cores", self.name, self.time);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
        let fine = watch(&title, child)?;
        if !fine {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!("{} did not build:\n{tail}\n  The whole of it: {}", self.name, log.display());
        }
        Ok(())
    }
}

/// Waits for a child and shows the time that has passed: in place on a terminal, a line now and then in a file.
fn watch(title: &str, mut child: Child) -> Result<bool> {
    let terminal = std::io::stdout().is_terminal();
    let every = if terminal { Duration::from_secs(1) } else { Duration::from_secs(30) };
    let start = Instant::now();
    let mut shown = start;
    if !terminal {
        println!("{title} ...");
    }
    loop {
        if let Some(status) = child.try_wait()? {
            let end = if status.success() { "done" } else { "failed" };
            let begin = if terminal { "\r" } else { "" };
            println!("{begin}{title}: {end} after {} s", start.elapsed().as_secs());
            return Ok(status.success());
        }
        if shown.elapsed() >= every {
            shown = Instant::now();
            let seconds = start.elapsed().as_secs();
            if terminal {
                use std::io::Write as _;
                print!("\r{title} ... {seconds} s");
                std::io::stdout().flush()?;
            } else {
                println!("{title} ... {seconds} s");
            }
        }
        process::pause(Duration::from_millis(200));
    }
}

/// Builds the OpenTelemetry Collector where it is not there yet; returns where it is.
///
/// # Errors
/// As [`Parts::ensure`].
pub(crate) fn collector() -> Result<PathBuf> {
    let (go, version) = go()?;
    let directory = COLLECTOR.ensure(&go, &version, &cache()?.join("cluster/parts"))?;
    Ok(directory.join(COLLECTOR.name))
}

/// Where Go is, and what it says of itself.
fn go() -> Result<(PathBuf, String)> {
    let Some(go) = find_go() else {
        return Err(setup::Missing(
            "the test cluster is built by Go (1.26 or later), which is not here.\n  \
             Please install it from https://go.dev/dl and put it on PATH or in /usr/local/go"
                .to_owned(),
        )
        .into());
    };
    let version = process::text(Command::new(&go).arg("version"))?;
    Ok((go, version))
}

pub(super) fn find_go() -> Option<PathBuf> {
    let usual = || Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.is_file());
    setup::find_program("go").or_else(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_what_is_built() {
        let part = &PARTS[0];
        let key = part.key("go version go1.26.0").unwrap();
        assert_eq!(key, part.key("go version go1.26.0").unwrap());
        assert_ne!(key, part.key("go version go1.26.1").unwrap());
        let other = Part { flags: "", links: &[], ..PARTS[0] };
        assert_ne!(key, other.key("go version go1.26.0").unwrap());
    }

    #[test]
    fn the_version_is_that_of_the_module() {
        let module = fs::read_to_string(PARTS[0].source().join("go.mod")).unwrap();
        assert!(module.contains(&format!("\tk8s.io/kubernetes {KUBERNETES}\n")), "{module}");
        assert!(PARTS[0].flags.contains(&format!("gitVersion={KUBERNETES} ")));
    }
}
