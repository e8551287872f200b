//! `cargo xtask demo`: sets the machine up, builds the programs quickly and hands over to `weft-demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::cargo::{self, Profile};
use crate::setup::{Missing, Namespaces};
use crate::{collector, process, setup};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run for a few seconds without the live view; exit 0 only if every claim of the demo held.
    #[arg(long)]
    once: bool,
    /// Pods on loopback instead of in network namespaces: needs no right and no further program, and shows less. Chosen
    /// by itself where namespaces are not allowed.
    #[arg(long)]
    loopback: bool,
    /// Show this program instead of building one; what shows it is built all the same.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let loopback = options.loopback || setup::namespaces() == Namespaces::Denied;
    set_up(loopback)?;
    // Go fetches modules for a good part of its time, while cargo compiles.
    let collector = collector::start(None);
    let weft = match &options.binary {
        Some(binary) => {
            cargo::build(Profile::Quick, &["-p", "weft-testbed", "--bins"])?;
            std::path::absolute(binary)?
        }
        None => {
            cargo::build(Profile::Quick, &["-p", "weft", "-p", "weft-testbed", "--bins"])?;
            cargo::binary(Profile::Quick, "weft")?
        }
    };
    collector.finish();
    let mut command = std::process::Command::new(cargo::binary(Profile::Quick, "weft-demo")?);
    command.env("WEFT_BIN", weft);
    if options.once {
        command.arg("--once");
    }
    if options.loopback {
        command.arg("--loopback");
    }
    let code = process::exit_code(&mut command)?;
    Ok(ExitCode::from(code))
}

/// On loopback a real name server and redis are used where they are or may be installed; without them there are
/// stand-ins, and the demo says so.
fn set_up(loopback: bool) -> Result<()> {
    const TASK: &str = "cargo xtask demo";
    match (loopback, setup::is_root()) {
        (true, true) => setup::ensure(TASK, &[setup::LOOPBACK]).or_else(|error| {
            eprintln!("{error:#}\nWeft's own stand-ins take their place");
            Ok(())
        }),
        (true, false) => Ok(()),
        (false, _) => setup::ensure(TASK, &[setup::PODS]).map_err(|error| {
            let hint = "  Or see less without any of them:  cargo xtask demo --loopback";
            match error.downcast::<Missing>() {
                Ok(Missing(text)) => Missing(format!("{text}\n{hint}")).into(),
                Err(error) => error,
            }
        }),
    }
}
