//! `cargo xtask dist`: the image, its bill of materials and the debug information of its program.
//!
//! No container engine takes part: the files are gathered from the build and from Debian packages of this machine, and
//! written as an OCI image (`oci`). The same commit, compiler and packages give the same bytes.

mod check;
mod contents;
mod debian;
mod libs;
pub(crate) mod oci;
mod rootfs;
mod sbom;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{cargo, process, setup};

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the files go (default: `dist` in the target directory).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Name of the image (default: `weft:` and the version).
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<String>,
    /// Version in the image's labels (default: the crate's).
    #[arg(long, value_name = "VERSION")]
    version_label: Option<String>,
    /// Cargo profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Pack this program instead of building one.
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    binary: Option<PathBuf>,
    /// Lay the image's files out in DIR as well (for deploy/Dockerfile). What is there is replaced.
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Then run the image's program as Kubernetes would, and build deploy/Dockerfile with buildah.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let archive = make(options)?;
    if options.check {
        check::all(&archive)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the image and what goes with it. Gives back where the archive is.
///
/// # Errors
/// The build fails, or a file that the image needs is not on this machine.
fn make(options: &Options) -> Result<PathBuf> {
    setup::ensure("cargo xtask dist", &[setup::DIST])?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => cargo::target_directory()?.join("dist"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let about = About::find(options)?;
    let built = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(&options.profile, &about)?,
    };
    let weft = out.join("weft");
    strip(&built, &weft)?;
    let contents = contents::gather(&weft, &cargo::root().join("LICENSE"))?;
    if let Some(directory) = &options.rootfs {
        lay_out(&contents.rootfs, directory)?;
    }

    let mut image = contents::image(contents.rootfs.clone()).epoch(about.epoch);
    for (name, value) in about.labels() {
        image = image.label(name, &value);
    }
    if options.profile != "release" || options.binary.is_some() {
        image = image.fast();
    }
    let archive = out.join("weft.oci.tar");
    let written = image.write(&archive, &about.tag)?;
    let bill = out.join("weft.cdx.json");
    fs::write(&bill, about.bill(&written, &contents.packages)?)?;
    report(&out, &contents.rootfs, &written)?;
    Ok(archive)
}

/// What the image says about itself.
struct About {
    tag: String,
    version: String,
    /// The commit, with `-dirty` behind it where the tree has changes.
    revision: String,
    /// Seconds since 1970.
    epoch: u64,
}

impl About {
    fn find(options: &Options) -> Result<Self> {
        let version = options.version_label.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
        let tag = options.tag.clone().unwrap_or_else(|| format!("weft:{version}"));
        let git = |words: &[&str]| {
            let mut command = process::command(&["git"]);
            process::text(command.arg("-C").arg(cargo::root()).args(words)).ok()
        };
        let revision = git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
            .map_or_else(|| "unknown".to_owned(), |said| said.trim().to_owned());
        let commit = git(&["log", "-1", "--format=%ct"]).and_then(|said| said.trim().parse().ok());
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text.parse().context("SOURCE_DATE_EPOCH is no number of seconds")?,
            Err(_) => commit.unwrap_or(0),
        };
        Ok(Self { tag, version, revision, epoch })
    }

    fn labels(&self) -> [(&'static str, String); 5] {
        [
            ("org.opencontainers.image.title", "weft".to_owned()),
            ("org.opencontainers.image.description", "Weft: service mesh and gateway".to_owned()),
            ("org.opencontainers.image.version", self.version.clone()),
            ("org.opencontainers.image.revision", self.revision.clone()),
            ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE").to_owned()),
        ]
    }

    fn bill(&self, image: &oci::Written, packages: &[debian::Package]) -> Result<Vec<u8>> {
        let tree = process::text(cargo::cargo().args(sbom::TREE))?;
        let lock = fs::read_to_string(cargo::root().join("Cargo.lock"))?;
        let rust = process::text(&mut process::command(&["rustc", "--version"]))?;
        let subject = sbom::Subject {
            name: &image.name,
            version: &self.version,
            digest: &image.digest,
            epoch: self.epoch,
            rust: rust.split(' ').nth(1).context("rustc does not tell its version")?,
            distribution: &distribution()?,
        };
        sbom::write(subject, &tree, &lock, packages)
    }
}

/// Debian's name and version as one word: `debian-12`.
fn distribution() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let id = field("ID").context("/etc/os-release has no ID")?;
    Ok(field("VERSION_ID").map_or_else(|| id.clone(), |version| format!("{id}-{version}")))
}

/// Builds the program. No directory of this machine gets into it, so that another machine can make the same.
fn build(profile: &str, about: &About) -> Result<PathBuf> {
    let mut flags: Vec<String> =
        env::var("RUSTFLAGS").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    flags.push(format!("--remap-path-prefix={}=/weft", cargo::root().display()));
    if let Some(home) =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
    {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    let mut command = cargo::cargo();
    command.args(["build", "--locked", "-p", "weft", "--profile", profile]);
    // Unit separators: a path may have a space in it.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env("WEFT_REVISION", &about.revision);
    println!("$ {}", process::line(&command));
    if !process::stream(&mut command)? {
        bail!("the build failed");
    }
    let directory = if profile == "dev" { "debug" } else { profile };
    let file = cargo::target_directory()?.join(directory).join("weft");
    if file.is_file() { Ok(file) } else { bail!("{} was not built", file.display()) }
}

/// Copies a program without its debug information, which goes into a file beside it.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let debug = to.with_extension("debug");
    // objcopy writes over a file in place, and a program that runs cannot be written over.
    let _ = fs::remove_file(to);
    let objcopy = |words: &[&str], from: &Path, to: &Path| {
        process::capture(process::command(&["objcopy"]).args(words).arg(from).arg(to)).map(drop)
    };
    objcopy(&["--only-keep-debug"], from, &debug)?;
    objcopy(&["--strip-debug", "--remove-section=.comment"], from, to)
}

fn lay_out(tree: &rootfs::Rootfs, directory: &Path) -> Result<()> {
    // Only what an earlier run of ours left is replaced: a mistyped directory must not cost a home.
    if directory.join(contents::PROGRAM.trim_start_matches('/')).is_file() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot replace {}", directory.display()))?;
    } else if directory.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} has other files in it", directory.display());
    }
    tree.lay_out(directory)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn report(out: &Path, tree: &rootfs::Rootfs, image: &oci::Written) -> Result<()> {
    let mb = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
    let file = |name: &str| -> Result<String> {
        let size = fs::metadata(out.join(name))?.len();
        Ok(mb(usize::try_from(size)?))
    };
    println!("image    {} {}", image.name, image.digest);
    println!("         {} compressed, {} on disk", mb(image.compressed), mb(tree.size()));
    println!("archive  {} {}", out.join("weft.oci.tar").display(), file("weft.oci.tar")?);
    println!("program  {} {}", out.join("weft").display(), file("weft")?);
    println!("symbols  {} {}", out.join("weft.debug").display(), file("weft.debug")?);
    println!("bill     {} {}", out.join("weft.cdx.json").display(), file("weft.cdx.json")?);
    Ok(())
}
