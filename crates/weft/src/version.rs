//! `weft version`.

use std::process::ExitCode;

/// The commit, with `-dirty` behind it where the tree had changes; `unknown` where the build could not know (see
/// `build.rs`).
pub(crate) const REVISION: &str = env!("WEFT_REVISION");

/// The compiler, as `rustc -V` says it.
pub(crate) const RUSTC: &str = env!("WEFT_RUSTC");

#[expect(clippy::print_stdout, reason = "the version is what was asked for")]
pub(crate) fn run() -> ExitCode {
    println!("weft {} ({REVISION}, {RUSTC}, {})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_knows_its_revision_or_says_that_it_does_not() {
        assert!(!REVISION.is_empty() && !REVISION.contains(char::is_whitespace), "{REVISION:?}");
        assert!(RUSTC.starts_with("rustc "), "{RUSTC:?}");
        // Here there is a repository, unless this is an unpacked archive.
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.git");
        if std::path::Path::new(here).exists() {
            assert_ne!(REVISION, "unknown");
        }
    }
}
