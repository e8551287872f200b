//! `cargo xtask demo`: sets the machine up, builds the release binaries and hands over to `weft-demo`.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo::{self, Profile};
use crate::{process, setup};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run for a few seconds without the live view; exit 0 only if every claim of the demo held.
    #[arg(long)]
    once: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure("cargo xtask demo", &[setup::PODS])?;
    cargo::build(Profile::Release, &["-p", "weft", "-p", "weft-testbed", "--bins"])?;
    let mut command = std::process::Command::new(cargo::binary(Profile::Release, "weft-demo")?);
    command.env("WEFT_BIN", cargo::binary(Profile::Release, "weft")?);
    if options.once {
        command.arg("--once");
    }
    let held = process::stream(&mut command)?;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
