//! The program in the image: built without traces of this machine, parted from its debug information.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, pgo, process};

/// Builds `weft` with a cargo profile and tells it its revision. Gives back where it is.
///
/// # Errors
/// The build fails.
pub(crate) fn build(profile: &str, revision: &str) -> Result<PathBuf> {
    let mut command = cargo::cargo();
    command.args(["build", "--locked", "-p", "weft", "--profile", profile]);
    command.env("WEFT_REVISION", revision);
    let mut target = cargo::target_directory()?;
    // Other profiles are for images that stay here, and use what ordinary builds have compiled already.
    if profile == "release" {
        println!(
            "the full build: link-time optimisation over everything, and the recorded profile (bench/weft.profdata)"
        );
        // The target is named, although it is this machine: what is said to the compiler then is not said to build
        // scripts, and symbols have the names that the profile knows.
        let host = cargo::host()?;
        command.args(["--target", &host]);
        target.push(host);
        let hidden = hide_directories(&mut command)?;
        cargo::add_rustflags(&mut command, hidden.into_iter().chain(pgo::flags()?));
    }
    println!("$ {}", process::line(&command));
    if !process::stream_build(&mut command)? {
        bail!("the build failed");
    }
    let directory = match profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        other => other,
    };
    let file = target.join(directory).join("weft");
    if file.is_file() { Ok(file) } else { bail!("{} was not built", file.display()) }
}

/// Keeps the directories of this machine out of the program, so that another machine can make the same: tells the C
/// compiler, and returns what the Rust compiler is to be told.
fn hide_directories(build: &mut Command) -> Result<Vec<String>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo"))).context("cargo has no home")?;
    // Where two fit, rustc and gcc take the last.
    let names = [(home, "/cargo"), (cargo::root(), "/weft"), (cargo::target_directory()?, "/weft/target")];
    let map =
        |option: &str| names.iter().map(|(from, to)| format!("{option}={}={to}", from.display())).collect();
    let rust: Vec<String> = map("--remap-path-prefix");
    let mut c: Vec<String> = map("-ffile-prefix-map");
    // What a C compiler is told is split at spaces.
    c.retain(|flag| !flag.contains(' '));
    c.insert(0, env::var("CFLAGS").unwrap_or_default());
    build.env("CFLAGS", c.join(" ").trim());
    Ok(rust)
}

/// Copies a program without its debug information, which goes into a file beside it.
///
/// # Errors
/// No program, or no place for it.
pub(crate) fn strip(from: &Path, to: &Path) -> Result<()> {
    let debug = to.with_extension("debug");
    // objcopy writes over a file in place, and a program that runs cannot be written over.
    let _ = fs::remove_file(to);
    let objcopy = |words: &[&str], from: &Path, to: &Path| {
        process::capture(process::command(&["objcopy"]).args(words).arg(from).arg(to)).map(drop)
    };
    objcopy(&["--only-keep-debug"], from, &debug)?;
    objcopy(&["--strip-debug", "--remove-section=.comment"], from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_parted_from_its_debug_information() {
        let work = tempfile::tempdir().unwrap();
        let own = env::current_exe().unwrap();
        let stripped = work.path().join("weft");
        strip(&own, &stripped).unwrap();
        // A second time: in place of what is there.
        strip(&own, &stripped).unwrap();
        let size = |file: &Path| fs::metadata(file).unwrap().len();
        assert!(size(&stripped) < size(&own));
        assert!(work.path().join("weft.debug").is_file());
    }

    #[test]
    fn a_release_build_is_told_other_names_for_its_directories() {
        let mut command = Command::new("cargo");
        let flags = hide_directories(&mut command).unwrap();
        let value = |name: &str| {
            let mut set = command.get_envs().filter(|(key, _)| *key == name);
            set.next().unwrap().1.unwrap().to_string_lossy().into_owned()
        };
        let root = cargo::root().display().to_string();
        assert!(flags.contains(&format!("--remap-path-prefix={root}=/weft")), "{flags:?}");
        assert!(value("CFLAGS").contains(&format!("-ffile-prefix-map={root}=/weft ")));
    }
}
