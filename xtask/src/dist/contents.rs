//! What is in the image of Weft (docs/design/image.md gives the reasons).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::debian::{self, Package};
use super::libs;
use super::oci::Image;
use super::rootfs::Rootfs;

/// Where the program is.
pub(crate) const PROGRAM: &str = "/usr/local/bin/weft";
/// The user of the proxy, as in `weft_intercept::PROXY_UID`.
const USER: &str = "2102:2102";
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin";

/// The programs that `weft init` runs are names of these two: which one they are called by tells them what to be.
const XTABLES: [(&str, &str); 2] = [("xtables-nft-multi", "nft"), ("xtables-legacy-multi", "legacy")];
/// Certificates of the Debian package. The bundle in /etc/ssl would have those that were added on this machine, too.
pub(crate) const AUTHORITIES: &str = "/usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

const PASSWD: &str = "root:x:0:0:root:/:/nonexistent\nweft:x:2102:2102:weft:/:/nonexistent\n";
const GROUP: &str = "root:x:0:\nweft:x:2102:\n";
/// Without it, the C library asks DNS before it looks into /etc/hosts.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// The tree of the image, and the packages that it was taken from.
pub(crate) struct Contents {
    pub(crate) rootfs: Rootfs,
    pub(crate) packages: Vec<Package>,
}

/// Gathers the tree around the program in `weft`. `licence` is our own.
///
/// # Errors
/// Something that is not on this machine.
pub(crate) fn gather(weft: &Path, licence: &Path) -> Result<Contents> {
    let mut rootfs = Rootfs::default();
    merged_usr(&mut rootfs);
    rootfs.file(PROGRAM, read(weft)?, 0o755);
    etc(&mut rootfs)?;
    // Runtimes mount these; where the root is read-only from the start, they could not make the directories.
    for directory in ["/dev", "/proc", "/sys"] {
        rootfs.directory(directory, 0o755);
    }

    let mut shipped = BTreeSet::new();
    let mut programs = vec![weft.to_owned()];
    for (multi, backend) in XTABLES {
        let file = PathBuf::from("/usr/sbin").join(multi);
        rootfs.file(&format!("/usr/sbin/{multi}"), read(&file)?, 0o755);
        for stem in ["iptables", "ip6tables"] {
            for action in ["save", "restore"] {
                rootfs.symlink(&format!("/usr/sbin/{stem}-{backend}-{action}"), multi);
            }
        }
        shipped.insert(file.clone());
        programs.push(file);
    }
    let extensions = extensions(&mut rootfs)?;
    shipped.extend(extensions.iter().cloned());
    programs.extend(extensions);
    for library in libs::closure(&programs)? {
        let to = in_usr(&library);
        rootfs.file(&to, read(&library)?, 0o755);
        shipped.insert(library);
    }
    shipped.extend(authorities(&mut rootfs)?);

    let packages = debian::owners(&shipped)?;
    for package in &packages {
        let name = &package.name;
        let copyright = PathBuf::from("/usr/share/doc").join(name).join("copyright");
        rootfs.file(&copyright.to_string_lossy(), read(&copyright)?, 0o644);
        rootfs.file(&format!("/var/lib/dpkg/status.d/{name}"), package.status(), 0o644);
    }
    rootfs.file("/usr/share/doc/weft/LICENSE", read(licence)?, 0o644);
    // Legacy iptables locks this file. Where it is there, it can be opened on a read-only file system as well.
    rootfs.file("/run/xtables.lock", "", 0o644);
    Ok(Contents { rootfs, packages })
}

/// The image around a tree; names and labels are for the caller to add.
pub(crate) fn image(rootfs: Rootfs) -> Image {
    Image::new().rootfs(rootfs).entrypoint(&[PROGRAM]).env("PATH", PATH).user(USER)
}

/// As on Debian itself, where the old directories are links.
fn merged_usr(rootfs: &mut Rootfs) {
    for directory in ["bin", "lib", "lib64", "sbin"] {
        rootfs.directory(&format!("/usr/{directory}"), 0o755);
        rootfs.symlink(&format!("/{directory}"), &format!("usr/{directory}"));
    }
}

/// Where a library goes: below /usr, whatever name the loader found it by.
fn in_usr(library: &Path) -> String {
    let path = library.to_string_lossy();
    if path.starts_with("/usr/") { path.into_owned() } else { format!("/usr{path}") }
}

fn etc(rootfs: &mut Rootfs) -> Result<()> {
    rootfs.file("/etc/passwd", PASSWD, 0o644);
    rootfs.file("/etc/group", GROUP, 0o644);
    rootfs.file("/etc/nsswitch.conf", NSSWITCH, 0o644);
    rootfs.file("/etc/os-release", read(Path::new("/etc/os-release"))?, 0o644);
    Ok(())
}

/// Adds the extensions of iptables for IP (not those for bridges and ARP) and gives back their files.
fn extensions(rootfs: &mut Rootfs) -> Result<Vec<PathBuf>> {
    let directory = Path::new("/usr/lib").join(multiarch()).join("xtables");
    let mut files = Vec::new();
    for file in list(&directory)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !["libxt_", "libipt_", "libip6t_"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let to = file.to_string_lossy();
        if let Ok(target) = file.read_link() {
            rootfs.symlink(&to, &target.to_string_lossy());
        } else {
            rootfs.file(&to, read(&file)?, 0o644);
        }
        files.push(file);
    }
    Ok(files)
}

/// Debian's name for the directory of this architecture's libraries.
fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Adds the bundle of certificate authorities and gives back the files that it was made of.
fn authorities(rootfs: &mut Rootfs) -> Result<Vec<PathBuf>> {
    let files = list(Path::new(AUTHORITIES))?;
    let mut bundle = String::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        bundle.push_str(text.trim());
        bundle.push('\n');
    }
    if bundle.is_empty() {
        bail!("{AUTHORITIES} has no certificates");
    }
    rootfs.file(BUNDLE, bundle, 0o644);
    Ok(files)
}

/// The files of a directory, sorted.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
