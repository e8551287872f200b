//! `cargo xtask fuzz`: runs each fuzz target under `fuzz/` for a fixed time.
//!
//! Fuzzing needs a nightly compiler and the `cargo-fuzz` command. Both are large and change the developer's
//! toolchains, so they are asked for and not installed.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::setup::{Missing, find_program};
use crate::{cargo, process};

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
    /// Only targets whose name contains one of these words.
    targets: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !cargo::root().join("fuzz/Cargo.toml").is_file() {
        return Err(
            Missing("there are no fuzz targets in this checkout (no fuzz/Cargo.toml)".to_owned()).into()
        );
    }
    if process::capture(Command::new("cargo").args(["+nightly", "--version"])).is_err() {
        return Err(Missing(
            "fuzzing needs a nightly compiler.\n  Please run:  rustup toolchain install nightly".to_owned(),
        )
        .into());
    }
    if find_program("cargo-fuzz").is_none() {
        return Err(
            Missing("fuzzing needs cargo-fuzz.\n  Please run:  cargo install cargo-fuzz".to_owned()).into()
        );
    }
    let list =
        process::text(Command::new("cargo").args(["+nightly", "fuzz", "list"]).current_dir(cargo::root()))?;
    let wanted =
        |name: &&str| options.targets.is_empty() || options.targets.iter().any(|word| name.contains(word));
    let targets: Vec<&str> =
        list.lines().map(str::trim).filter(|name| !name.is_empty()).filter(wanted).collect();
    if targets.is_empty() {
        bail!(
            "no fuzz target has such a name; there are: {}",
            list.split_whitespace().collect::<Vec<_>>().join(", ")
        );
    }
    let limit = format!("-max_total_time={}", options.seconds);
    let mut failed = Vec::new();
    for target in targets {
        println!("fuzzing {target} for {} s", options.seconds);
        // libFuzzer adds what it finds to the first corpus and only reads the others: the committed one stays as it
        // is until somebody chooses what to add.
        let found = cargo::target_directory()?.join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&found)?;
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", target]).arg(&found).arg(format!("fuzz/corpus/{target}"));
        command.args(["--", &limit]).current_dir(cargo::root());
        if !process::stream(&mut command)? {
            failed.push(target);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}
