//! `cargo xtask dist`: the image, its bill of materials and the debug information of its program.
//!
//! No container engine takes part: the files are gathered from the build and from Debian packages of this machine, and
//! written as an OCI image (`oci`). The same commit, compiler and packages give the same bytes.

pub(crate) mod check;
mod contents;
mod debian;
pub(crate) mod libs;
pub(crate) mod oci;
mod program;
mod read;
mod rootfs;
mod sbom;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{cargo, process, setup};

/// Options of `cargo xtask dist`.
#[derive(clap::Args, Default)]
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
    /// Pack this program instead of building one, such as target/release/weft.
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
    setup::ensure("cargo xtask dist", &[setup::DIST])?;
    if options.check {
        // Before minutes go into a build.
        check::set_up()?;
    }
    let out = match &options.out {
        Some(out) => out.clone(),
        None => cargo::target_directory()?.join("dist"),
    };
    let about = About::find(options)?;
    let built = match &options.binary {
        Some(binary) => binary.clone(),
        None => program::build(&options.profile, &about.revision)?,
    };
    let release = options.profile == "release" && options.binary.is_none();
    println!("packing {}", built.display());
    let made = pack(&built, &about, &out, release)?;
    if let Some(directory) = &options.rootfs {
        replace(&made.tree, directory)?;
    }
    report(&out, &made)?;
    if release && made.image.compressed > check::LIMIT {
        bail!("the image is larger than {} MB", check::LIMIT / 1_000_000);
    }
    if options.check {
        recheck(&built, &about, &out, &made, release)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The program as images have it, for measurements: one build serves all, whoever asks for it first.
///
/// # Errors
/// The build fails.
pub(crate) fn release() -> Result<PathBuf> {
    program::build("release", &About::find(&Options::default())?.revision)
}

/// Packs a program that was built for tests and checks the image, where this user can; part of `cargo xtask test`.
///
/// # Errors
/// As for [`check::all`].
pub(crate) fn check_test_build(weft: &Path) -> Result<()> {
    if !check::possible() {
        println!("the image is not checked: only root can (sudo cargo xtask dist --check)");
        return Ok(());
    }
    println!("the image, around the program under test:");
    setup::ensure("checking the image", &[setup::DIST])?;
    let out = tempfile::tempdir()?;
    let about = About::find(&Options::default())?;
    let made = pack(weft, &about, out.path(), false)?;
    recheck(weft, &about, out.path(), &made, false)
}

/// Packs a program for tests under a tag and a version; returns the archive.
///
/// # Errors
/// As for [`pack`].
pub(crate) fn archive(weft: &Path, tag: &str, version: &str, out: &Path) -> Result<PathBuf> {
    let named = |name: &str| Some(name.to_owned());
    let options = Options { tag: named(tag), version_label: named(version), ..Options::default() };
    pack(weft, &About::find(&options)?, out, false)?;
    Ok(out.join(ARCHIVE))
}

/// Packs once more, which must give the same, and checks the image itself.
fn recheck(built: &Path, about: &About, out: &Path, made: &Made, release: bool) -> Result<()> {
    let second = tempfile::tempdir()?;
    pack(built, about, second.path(), release)?;
    for name in [PROGRAM, ARCHIVE, BILL] {
        if fs::read(out.join(name))? != fs::read(second.path().join(name))? {
            bail!("{name}, made again, has other bytes");
        }
    }
    println!("made again, it is the same");
    check::all(&out.join(ARCHIVE), &made.tree)
}

/// The files that are made.
const PROGRAM: &str = "weft";
const ARCHIVE: &str = "weft.oci.tar";
const BILL: &str = "weft.cdx.json";

/// What was made.
struct Made {
    image: oci::Written,
    tree: rootfs::Rootfs,
}

/// Makes the image and what goes with it from a built program. An image that is not for release is compressed quickly.
///
/// # Errors
/// A file that the image needs is not on this machine.
fn pack(built: &Path, about: &About, out: &Path, release: bool) -> Result<Made> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let weft = out.join(PROGRAM);
    program::strip(built, &weft)?;
    let contents = contents::gather(&weft, &cargo::root().join("LICENSE"))?;
    let mut image = contents::image(contents.rootfs.clone()).epoch(about.epoch);
    for (name, value) in about.labels() {
        image = image.label(name, &value);
    }
    if !release {
        image = image.fast();
    }
    let written = image.write(&out.join(ARCHIVE), &about.tag)?;
    fs::write(out.join(BILL), about.bill(&written, &contents.packages)?)?;
    Ok(Made { image: written, tree: contents.rootfs })
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
        // A build from an unpacked archive is told, since there is no repository to ask.
        let told = env::var("WEFT_REVISION").ok();
        let described = || git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]);
        let revision =
            told.or_else(described).map_or_else(|| "unknown".to_owned(), |said| said.trim().to_owned());
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

/// Lays the tree out in place of an earlier one.
fn replace(tree: &rootfs::Rootfs, directory: &Path) -> Result<()> {
    // Only what an earlier run of ours left is replaced: a mistyped directory must not cost a home.
    if directory.join(contents::PROGRAM.trim_start_matches('/')).is_file() && !directory.join("home").exists()
    {
        fs::remove_dir_all(directory).with_context(|| format!("cannot replace {}", directory.display()))?;
    } else if directory.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} has other files in it", directory.display());
    }
    tree.lay_out(directory)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn report(out: &Path, made: &Made) -> Result<()> {
    let mb = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
    let image = &made.image;
    println!("image    {} {}", image.name, image.digest);
    println!("         {} compressed, {} on disk", mb(image.compressed), mb(made.tree.size()));
    for (what, name) in
        [("archive", ARCHIVE), ("program", PROGRAM), ("symbols", "weft.debug"), ("bill", BILL)]
    {
        let file = out.join(name);
        let size = usize::try_from(fs::metadata(&file)?.len())?;
        println!("{what:<8} {} {}", file.display(), mb(size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_directory_is_replaced() {
        let work = tempfile::tempdir().unwrap();
        let target = work.path().join("rootfs");
        let mut tree = rootfs::Rootfs::default();
        tree.file(contents::PROGRAM, "1", 0o755).file("/etc/old", "", 0o644);
        replace(&tree, &target).unwrap();

        let mut tree = rootfs::Rootfs::default();
        tree.file(contents::PROGRAM, "2", 0o755);
        replace(&tree, &target).unwrap();
        assert_eq!(fs::read(target.join("usr/local/bin/weft")).unwrap(), b"2");
        assert!(!target.join("etc").exists(), "nothing stays of the earlier one");

        let foreign = work.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("letter"), "dear").unwrap();
        assert!(replace(&tree, &foreign).is_err());
        assert!(foreign.join("letter").exists());
    }

    #[test]
    fn the_version_is_the_default_tag() {
        let options = Options { version_label: Some("9.9".into()), ..Options::default() };
        let about = About::find(&options).unwrap();
        assert_eq!(about.tag, "weft:9.9");
        assert!(about.labels().contains(&("org.opencontainers.image.version", "9.9".to_owned())));
        let options = Options { tag: Some("a/b:c".into()), ..options };
        assert_eq!(About::find(&options).unwrap().tag, "a/b:c");
    }
}
