//! Calls of cargo: the same cargo, workspace and target directory that started us.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Which profile a binary is built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Profile {
    /// Unoptimised, with assertions, for tests.
    Debug,
    /// Optimised, but without link-time optimisation and recorded profile, for the demo.
    Quick,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Quick => "quick",
        }
    }

    /// What somebody who waits for the build should know.
    fn note(self) -> &'static str {
        match self {
            Self::Debug => {
                "a debug build, with assertions: its speed says nothing; `cargo xtask bench` measures the full one"
            }
            Self::Quick => {
                "a quick build, without link-time optimisation and recorded profile; `cargo xtask bench` and `dist` make the full one"
            }
        }
    }
}

/// The root of the workspace: the parent of this crate's own directory.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// A cargo command in the workspace root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Set by `cargo run` for us: passed on, they would make build scripts of the inner build run again.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

/// Tells the compiler of a build more than the user's RUSTFLAGS do.
pub(crate) fn add_rustflags(build: &mut Command, flags: impl IntoIterator<Item = String>) {
    let own = env::var("RUSTFLAGS").unwrap_or_default();
    let all: Vec<String> = own.split_whitespace().map(str::to_owned).chain(flags).collect();
    if !all.is_empty() {
        // Unit separators: a directory may have a space in its name.
        build.env("CARGO_ENCODED_RUSTFLAGS", all.join("\u{1f}"));
    }
}

/// The target directory, as cargo itself sees it (it may be moved by configuration or environment).
pub(crate) fn target_directory() -> Result<PathBuf> {
    let text = process::text(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let directory =
        metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(directory.into())
}

/// Builds with these arguments, output on the terminal.
pub(crate) fn build(profile: Profile, arguments: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.arg("build").args(arguments);
    if profile == Profile::Quick {
        command.args(["--profile", profile.directory()]);
    }
    println!("{}", profile.note());
    println!("$ {}", process::line(&command));
    if process::stream_build(&mut command)? { Ok(()) } else { bail!("the build failed") }
}

/// The Rust compiler that cargo uses.
pub(crate) fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The target that is this machine.
pub(crate) fn host() -> Result<String> {
    Ok(process::text(rustc().args(["--print", "host-tuple"]))?.trim().to_owned())
}

/// Where a built binary of this name is.
pub(crate) fn binary(profile: Profile, name: &str) -> Result<PathBuf> {
    let file = target_directory()?.join(profile.directory()).join(name);
    if file.is_file() { Ok(file) } else { bail!("{} was not built", file.display()) }
}
