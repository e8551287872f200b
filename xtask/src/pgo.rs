//! `cargo xtask pgo`: how the sidecar behaves under load, recorded for the compiler.
//!
//! A release build of Weft is a profile-guided one: the compiler lays out, inlines and unrolls what runs for every request,
//! and keeps the rest small. What runs is told by a file in the repository, so that nobody who builds has to record
//! it, and two builds of a commit have the same. It is made anew when the request path has changed much: an old one is
//! still right about everything that it has in common with the code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::bench::{self, training};
use crate::cargo;
use crate::process;
use crate::setup;

/// Options of `cargo xtask pgo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each load lasts.
    #[arg(long, default_value_t = 4, value_name = "S")]
    seconds: u64,
    /// Record with this program instead of building one; it must have been built with `-Cprofile-generate`.
    #[arg(long, value_name = "FILE")]
    instrumented: Option<PathBuf>,
}

/// The profile, in the repository.
fn profile() -> PathBuf {
    cargo::root().join("bench/weft.profdata")
}

/// Its SHA-256, beside it: a profile whose bytes are not those that were recorded brings the compiler down.
fn checksum() -> PathBuf {
    profile().with_extension("profdata.sha256")
}

/// What `rustc -vV` said when it was recorded, beside it.
fn recorder() -> PathBuf {
    profile().with_extension("profdata.rustc")
}

/// The digest of [`dependencies`] when it was recorded, beside it.
fn ingredients() -> PathBuf {
    profile().with_extension("profdata.deps")
}

/// Records the profile.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    bench::ground("cargo xtask pgo", setup::BENCH)?;
    let merge = merger()?;
    let raw = tempfile::tempdir()?;
    let instrumented = match &options.instrumented {
        Some(file) => file.clone(),
        None => build_instrumented()?,
    };
    training::run(&instrumented, raw.path(), options.seconds)?;
    let file = profile();
    process::capture(Command::new(merge).args(["merge", "--sparse", "-o"]).arg(&file).arg(raw.path()))?;
    fs::write(recorder(), compiler()?)?;
    fs::write(ingredients(), dependencies()? + "\n")?;
    fs::write(checksum(), digest(&fs::read(&file)?) + "\n")?;
    println!("{}: {} KB", file.display(), fs::metadata(&file)?.len() / 1000);
    Ok(ExitCode::SUCCESS)
}

/// Builds the program that counts what it runs.
fn build_instrumented() -> Result<PathBuf> {
    let target = cargo::target_directory()?.join("pgo");
    let mut command = cargo::cargo();
    let host = cargo::host()?;
    command.args(["build", "--locked", "--release", "-p", "weft", "--target", host.as_str()]);
    command.env("CARGO_TARGET_DIR", &target);
    // Where it writes is said when it runs.
    cargo::add_rustflags(&mut command, ["-Cprofile-generate".to_owned()]);
    println!("$ {}", process::line(&command));
    if !process::stream(&mut command)? {
        bail!("the build failed");
    }
    Ok(target.join(host).join("release/weft"))
}

/// The program of the Rust toolchain that merges profiles: it knows the format of this compiler.
fn merger() -> Result<PathBuf> {
    let sysroot = process::text(cargo::rustc().args(["--print", "sysroot"]))?;
    let file = Path::new(sysroot.trim()).join("lib/rustlib").join(cargo::host()?).join("bin/llvm-profdata");
    if file.is_file() {
        return Ok(file);
    }
    Err(setup::Missing(
        "cargo xtask pgo merges profiles with a program of the Rust toolchain.\n  \
         Please run:  rustup component add llvm-tools"
            .to_owned(),
    )
    .into())
}

/// What a release build is told, so that it uses the profile. Nothing where another compiler recorded it: symbols, and with
/// them almost all of the profile, are those of one compiler.
pub(crate) fn flags() -> Result<Vec<String>> {
    let from = profile();
    let recorded = fs::read_to_string(recorder()).context("cannot read which compiler made the profile")?;
    if recorded != compiler()? {
        println!(
            "note: {} was recorded with {}, and this is another compiler. The build goes without it and will be slower; \
             `cargo xtask pgo` records it anew.",
            from.display(),
            recorded.lines().next().unwrap_or("an unknown compiler"),
        );
        return Ok(Vec::new());
    }
    let digest = intact()?;
    let ingredients =
        fs::read_to_string(ingredients()).context("cannot read what the profile was recorded with")?;
    if ingredients.trim() != dependencies()? {
        println!(
            "note: {} was recorded with other dependencies, or other features of them. Symbols have other names then, so that \
             little of it is found and the program is slower; `cargo xtask pgo` records it anew.",
            from.display(),
        );
    }
    // cargo looks at what the compiler is told and not into the file, so another profile needs another name.
    let directory = cargo::target_directory()?.join("profiles");
    let file = directory.join(format!("weft-{}.profdata", &digest[..12]));
    if !file.is_file() {
        fs::create_dir_all(&directory)?;
        fs::copy(&from, &file)?;
    }
    // That some of the code is newer than the profile is no news.
    Ok(vec![format!("-Cprofile-use={}", file.display()), "-Cllvm-args=-no-pgo-warn-mismatch".to_owned()])
}

/// The digest of the profile, if that is what was recorded.
fn intact() -> Result<String> {
    let file = profile();
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let recorded = fs::read_to_string(checksum()).context("cannot read the profile's checksum")?;
    let digest = digest(&bytes);
    if recorded.trim() != digest {
        bail!(
            "{} is not what was recorded: something has changed the file. `git log -- bench` tells when; \
             `cargo xtask pgo` records it anew",
            file.display()
        );
    }
    Ok(digest)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of all that the program is made of, with versions and features: cargo names the symbols of a package by those, and
/// by those of its dependencies in turn.
fn dependencies() -> Result<String> {
    let mut command = cargo::cargo();
    let form = ["tree", "--locked", "-p", "weft", "--edges", "normal", "--prefix", "none", "-f", "{p} {f}"];
    command.args(form).args(["--target", cargo::host()?.as_str()]);
    let tree = process::text(&mut command)?;
    // A package of the workspace is followed by where the checkout is, and what is repeated by a star.
    let mut packages: Vec<String> = tree
        .lines()
        .map(|line| {
            line.split_whitespace().filter(|word| !word.starts_with('(')).collect::<Vec<_>>().join(" ")
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    Ok(digest(packages.join("\n").as_bytes()))
}

/// The compiler, with its LLVM and its host.
fn compiler() -> Result<String> {
    process::text(cargo::rustc().arg("-vV"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_profile_of_this_checkout_is_what_was_recorded() {
        super::intact().unwrap();
    }
}
