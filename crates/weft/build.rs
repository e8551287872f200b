//! Tells the binary which compiler and which commit it is made of.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = said(Command::new(rustc).arg("-V"));
    println!("cargo:rustc-env=WEFT_RUSTC={}", rustc.as_deref().unwrap_or("rustc unknown"));
    println!("cargo:rustc-env=WEFT_REVISION={}", revision());
}

/// The commit, with `-dirty` behind it where the tree has changes. A build is told it (`WEFT_REVISION`, by `cargo xtask
/// dist` and deploy/Dockerfile), or asks git; from an unpacked archive, without git, nobody knows, and nothing fails.
fn revision() -> String {
    println!("cargo:rerun-if-env-changed=WEFT_REVISION");
    let told = std::env::var("WEFT_REVISION").ok().map(|told| told.trim().to_owned());
    let told = told.filter(|told| !told.is_empty() && told != "unknown");
    told.or_else(described).unwrap_or_else(|| "unknown".to_owned())
}

/// By git, where this is the repository of Weft and not one that merely holds an unpacked archive of it.
fn described() -> Option<String> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?).join("../..").canonicalize().ok()?;
    let top = git(&root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root {
        return None;
    }
    // What says that the answer may be another one: commits and checkouts, which the log of HEAD notes, and changes of
    // what the program is made of. A path that is not there would have this run at every build.
    let log = git(&root, &["rev-parse", "--git-path", "logs/HEAD"]).map(|log| root.join(log));
    let sources = ["crates", "proto", "Cargo.toml", "Cargo.lock"].map(|name| root.join(name));
    for path in log.into_iter().chain(sources).filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    // As `cargo xtask dist` asks.
    git(&root, &["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
}

fn git(root: &Path, words: &[&str]) -> Option<String> {
    // A build only reads: git would write what it has found out about the files into its index.
    said(Command::new("git").arg("-C").arg(root).args(words).env("GIT_OPTIONAL_LOCKS", "0"))
}

/// The one line that a program prints; None where it is not there, fails, or says nothing.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
