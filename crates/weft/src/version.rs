//! `weft version`.

use std::process::ExitCode;

/// The commit, where the build was told it (`WEFT_REVISION`).
pub(crate) const REVISION: &str = match option_env!("WEFT_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The compiler, as `rustc -V` says it.
pub(crate) const RUSTC: &str = env!("WEFT_RUSTC");

#[expect(clippy::print_stdout, reason = "the version is what was asked for")]
pub(crate) fn run() -> ExitCode {
    println!("weft {} ({REVISION}, {RUSTC}, {})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    ExitCode::SUCCESS
}
