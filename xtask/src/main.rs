//! Developer commands: everything that a newcomer or CI runs, behind one `cargo xtask`.
//!
//! Each command does its own set-up first (Debian packages, pinned programs), so that a fresh machine with Rust
//! is enough; what cannot be set up is named together with the exact command that would. This crate stays light
//! on purpose (no async runtime, no TLS): it is compiled before anything else can start.
//!
//! Exit codes: 0 the command held; 1 it ran and something failed; 2 it could not be set up or was called wrongly.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks on the terminal")]

mod authority;
mod bench;
mod cargo;
mod cluster;
mod collector;
mod demo;
mod dist;
mod fuzz;
mod go;
mod interop;
mod pgo;
mod process;
mod pypi;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Developer commands of Weft")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the programs quickly and show a small mesh in network-namespace pods, live in the terminal.
    Demo(demo::Options),
    /// Build and run every test: units, properties, and the stories in network-namespace pods.
    Test(test::Options),
    /// Measure a sidecar pair side by side with pairs of HAProxy, Envoy and nginx.
    Bench(bench::Options),
    /// Make the container image, its bill of materials and its debug information, without a container engine.
    Dist(dist::Options),
    /// A real Kubernetes cluster on this machine, for tests.
    Cluster(cluster::Options),
    /// Run public conformance suites directly and through a sidecar pair, and compare.
    Interop(interop::Options),
    /// Run the fuzz targets, each for a fixed time.
    Fuzz(fuzz::Options),
    /// Record how the sidecar behaves under load, for the compiler.
    Pgo(pgo::Options),
    /// Open idle connections and hold them (run by `bench` inside a namespace).
    #[command(hide = true)]
    Hold(bench::hold::Options),
    /// Change a gateway's routes and look when they are in force (run by `bench` inside a namespace).
    #[command(hide = true)]
    Changes(bench::gateway::changes::ChangesOptions),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::Interop(options) => interop::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Pgo(options) => pgo::run(&options),
        Command::Hold(options) => bench::hold::run(&options),
        Command::Changes(options) => bench::gateway::changes::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.downcast_ref::<setup::Missing>().is_some() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
