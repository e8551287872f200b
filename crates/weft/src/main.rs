//! The `weft` binary: one module per subcommand, wiring only.

mod ca;
mod log;
mod proxy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// mimalloc gives memory back and keeps small allocations cheap; measured against the system's in docs/design.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a configuration or command line that cannot be used; 1 is a failure at run time.
const EXIT_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "weft", version, about = "Service mesh and API gateway in one binary")]
struct Cli {
    /// Log directives, such as info or info,h2=debug; overrides WEFT_LOG and the configuration.
    #[arg(long, global = true, value_name = "DIRECTIVES")]
    log: Option<String>,
    /// How log lines look: text, json, or auto (text on a terminal, json elsewhere).
    #[arg(long, global = true, value_name = "FORMAT", default_value = "auto")]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar proxy.
    Proxy(proxy::Args),
    /// Run the mesh certificate authority.
    Ca(ca::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Proxy(args) => proxy::run(&args, cli.log.as_deref(), cli.log_format),
        Command::Ca(args) => ca::run(&args, cli.log.as_deref(), cli.log_format),
    }
}

/// Tells what is wrong with the configuration or the command line.
#[expect(clippy::print_stderr, reason = "the log may not have started, and the person at the terminal asked")]
fn usage(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("weft: {error}");
    ExitCode::from(EXIT_USAGE)
}
