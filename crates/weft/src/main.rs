//! The `weft` binary: one module per subcommand, wiring only.

mod alloc;
mod ask;
mod ca;
mod certs;
mod check;
mod control;
mod explain;
mod init;
mod inject;
mod install;
mod log;
mod proxy;
mod serve;
mod status;
mod style;
mod validate;
mod version;
mod wait_ready;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_config::Role;

/// Exit code for a configuration or command line that cannot be used; 1 is a failure at run time.
const EXIT_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "weft", version, about = "Service mesh and API gateway in one binary")]
struct Cli {
    /// Log directives, such as info or info,h2=debug; overrides WEFT_LOG and the configuration.
    #[arg(long, global = true, value_name = "DIRECTIVES")]
    log: Option<String>,
    /// How log lines look: text, json, or auto (text on a terminal, json elsewhere).
    #[arg(long, global = true, value_name = "FORMAT", default_value = "auto", env = "WEFT_LOG_FORMAT")]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write, print, prove or remove the interception rules of this network namespace.
    Init(Box<init::Args>),
    /// Run the sidecar proxy.
    Proxy(proxy::Args),
    /// Run a gateway: listeners and routes of the Gateway API.
    Gateway(proxy::Args),
    /// Run the mesh certificate authority.
    Ca(ca::Args),
    /// Wait until the proxy is ready.
    WaitReady(wait_ready::Args),
    /// Run the parts of Weft that know of Kubernetes.
    Control(control::Args),
    /// Put the sidecar into manifests, as the injector would.
    Inject(inject::InjectArgs),
    /// Take away what was injected into manifests.
    Uninject(inject::UninjectArgs),
    /// Print the objects of an installation on Kubernetes, for kubectl apply -f -.
    Install(install::InstallArgs),
    /// Remove an installation on Kubernetes, with everything that it made in the cluster.
    Uninstall(install::UninstallArgs),
    /// Check whether Weft can be installed, or whether it and its mesh are well.
    Check(check::Args),
    /// Tell what the workloads of the mesh do, without Prometheus.
    Status(status::Args),
    /// Tell the certificates and trust bundles of the sidecars.
    Certs(certs::Args),
    /// Tell what becomes of a request, from resources in files.
    Explain(Box<explain::Args>),
    /// Check files and directories of resources: each document alone, then all together.
    Validate(validate::Args),
    /// Tell the version.
    Version,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Init(args) => init::run(&args, cli.log.as_deref(), cli.log_format),
        Command::Proxy(args) => proxy::run(Role::Sidecar, &args, cli.log.as_deref(), cli.log_format),
        Command::Gateway(args) => proxy::run(Role::Gateway, &args, cli.log.as_deref(), cli.log_format),
        Command::Ca(args) => ca::run(&args, cli.log.as_deref(), cli.log_format),
        Command::WaitReady(args) => wait_ready::run(&args),
        Command::Control(args) => control::run(&args, cli.log.as_deref(), cli.log_format),
        Command::Inject(args) => inject::inject(&args),
        Command::Uninject(args) => inject::uninject(&args),
        Command::Install(args) => install::install(&args),
        Command::Uninstall(args) => install::uninstall(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Version => version::run(),
    }
}

/// Tells what is wrong with the configuration or the command line.
#[expect(clippy::print_stderr, reason = "the log may not have started, and the person at the terminal asked")]
fn usage(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("weft: {error}");
    ExitCode::from(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_page_has_every_flag() {
        let page = include_str!("../../../docs/reference/cli.md");
        for command in Cli::command().get_subcommands() {
            assert!(page.contains(&format!("## `weft {}`", command.get_name())), "{}", command.get_name());
            for flag in
                command.get_arguments().chain(Cli::command().get_arguments()).filter_map(|a| a.get_long())
            {
                assert!(page.contains(&format!("`--{flag}`")), "docs/reference/cli.md has no `--{flag}`");
            }
        }
    }
}
