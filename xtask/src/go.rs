//! Programs that no Debian package has: built by Go from the modules in `tests/`, once, and kept outside of the tree.
//!
//! A program's directory carries a hash of all that it is made from (the module's files, Go's version, the flags), so
//! that what is there is always what would be built, and two checkouts with different versions do not disturb each
//! other.

use std::env;
use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{cargo, process, setup};

/// One program to build.
pub(crate) struct Part {
    /// The program's name.
    pub(crate) name: &'static str,
    /// The module's directory, from the root of the workspace.
    pub(crate) module: &'static str,
    /// What to build in it.
    pub(crate) package: &'static str,
    /// What the linker is told, beside leaving out symbols.
    pub(crate) flags: &'static str,
    /// Further names of the program.
    pub(crate) links: &'static [&'static str],
    /// What to expect, for the person who waits.
    pub(crate) time: &'static str,
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

impl Part {
    pub(crate) fn source(&self) -> PathBuf {
        cargo::root().join(self.module)
    }

    /// The directory with the program, built first where it is not there.
    ///
    /// # Errors
    /// It does not build.
    pub(crate) fn ensure(&self, go: &Path, version: &str, cache: &Path) -> Result<PathBuf> {
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
    pub(crate) fn key(&self, version: &str) -> Result<String> {
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
    let every = if terminal { Duration::from_secs(1) } else { process::TOLD_EVERY };
    let start = Instant::now();
    if !terminal {
        println!("{title} ...");
    }
    let status = process::watch(&mut child, every, |_| {
        let seconds = start.elapsed().as_secs();
        if terminal {
            use std::io::Write as _;
            print!("\r{title} ... {seconds} s");
            // What cannot be shown is missed by nobody.
            let _ = std::io::stdout().flush();
        } else {
            println!("{title} ... {seconds} s");
        }
    })?;
    let end = if status.success() { "done" } else { "failed" };
    let begin = if terminal { "\r" } else { "" };
    println!("{begin}{title}: {end} after {} s", start.elapsed().as_secs());
    Ok(status.success())
}

/// Where Go is, and what it says of itself. `what` is to be built by it.
///
/// # Errors
/// [`setup::Missing`] where there is none.
pub(crate) fn go(what: &str) -> Result<(PathBuf, String)> {
    let Some(go) = find_go() else {
        return Err(setup::Missing(format!(
            "{what} built by Go (1.26 or later), which is not here.\n  \
             Please install it from https://go.dev/dl and put it on PATH or in /usr/local/go"
        ))
        .into());
    };
    let version = process::text(Command::new(&go).arg("version"))?;
    Ok((go, version))
}

/// Where Go is, if it is here.
pub(crate) fn find_go() -> Option<PathBuf> {
    let usual = || Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.is_file());
    setup::find_program("go").or_else(usual)
}
