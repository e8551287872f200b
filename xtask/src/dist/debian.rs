//! Which Debian packages the files of the image come from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    /// The source package, and its version where it is another.
    pub(crate) source: String,
    pub(crate) source_version: String,
    pub(crate) maintainer: String,
}

/// The packages that own `files`, each once and sorted.
///
/// # Errors
/// A file that no package owns.
pub(crate) fn owners(files: &BTreeSet<PathBuf>) -> Result<Vec<Package>> {
    let spellings: BTreeMap<&PathBuf, Vec<PathBuf>> =
        files.iter().map(|file| (file, spellings(file))).collect();
    let mut query = process::command(&["dpkg-query", "-S"]);
    query.args(spellings.values().flatten());
    // It fails when one of the spellings is unknown, which most are; what it found is on its standard output.
    let output = query.output().context("cannot start dpkg-query: an image is made on Debian")?;
    let owned = parse_owners(&String::from_utf8_lossy(&output.stdout));
    let mut names = BTreeSet::new();
    for (file, spellings) in spellings {
        let owner = spellings.iter().find_map(|spelling| owned.get(spelling));
        names.insert(owner.with_context(|| format!("no Debian package owns {}", file.display()))?.clone());
    }
    names.iter().map(|name| package(name)).collect()
}

/// The names under which the package database may know a file: /lib is a link to /usr/lib, and a library's short name
/// may be a link.
fn spellings(file: &Path) -> Vec<PathBuf> {
    let mut all = vec![file.to_owned()];
    all.extend(file.canonicalize());
    let roots: Vec<PathBuf> =
        all.iter().filter_map(|path| Some(Path::new("/").join(path.strip_prefix("/usr").ok()?))).collect();
    all.extend(roots);
    all.sort();
    all.dedup();
    all
}

/// Reads lines such as `libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6`.
fn parse_owners(said: &str) -> BTreeMap<PathBuf, String> {
    let line = |line: &str| {
        let (owner, file) = line.split_once(": ")?;
        // `diversion by x from: /y` and files of several packages are not among ours.
        (!owner.contains([' ', ','])).then(|| (PathBuf::from(file), owner.to_owned()))
    };
    said.lines().filter_map(line).collect()
}

const FIELDS: &str =
    "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Maintainer}\n";

fn package(name: &str) -> Result<Package> {
    let said = process::text(&mut process::command(&["dpkg-query", "-W", "-f", FIELDS, name]))?;
    let fields: Vec<String> = said.trim_end().split('\t').map(str::to_owned).collect();
    let Ok([name, version, architecture, source, source_version, maintainer]) =
        <[String; 6]>::try_from(fields)
    else {
        bail!("dpkg-query says nothing of use about {name}: {said}");
    };
    Ok(Package { name, version, architecture, source, source_version, maintainer })
}

impl Package {
    /// The package URL (purl), by which scanners look for known holes.
    pub(crate) fn purl(&self, distribution: &str) -> String {
        let Self { name, version, architecture, .. } = self;
        let version = version.replace('+', "%2B").replace(':', "%3A").replace('~', "%7E");
        format!(
            "pkg:deb/debian/{}@{version}?arch={architecture}&distro={distribution}",
            name.replace('+', "%2B")
        )
    }

    /// The paragraph that scanners read in `/var/lib/dpkg/status.d`, as in other images without dpkg.
    pub(crate) fn status(&self) -> String {
        let Self { name, version, architecture, source, source_version, maintainer } = self;
        format!(
            "Package: {name}\nStatus: install ok installed\nMaintainer: {maintainer}\nArchitecture: {architecture}\n\
             Source: {source} ({source_version})\nVersion: {version}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read() {
        let said = "libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6\niptables: /usr/sbin/xtables-nft-multi\n\
                    diversion by dash from: /bin/sh\na, b: /shared\n";
        let owned = parse_owners(said);
        assert_eq!(owned.len(), 2);
        assert_eq!(owned[Path::new("/lib/x86_64-linux-gnu/libc.so.6")], "libc6:amd64");
    }

    #[test]
    fn both_sides_of_a_merged_usr_are_asked_for() {
        let all = spellings(Path::new("/usr/lib/no/such/file"));
        assert_eq!(all, ["/lib/no/such/file", "/usr/lib/no/such/file"].map(PathBuf::from));
    }

    #[test]
    fn a_package_has_a_url_and_a_status() {
        let package = Package {
            name: "libstdc++6".into(),
            version: "1:2.3~rc-9+deb12u1".into(),
            architecture: "amd64".into(),
            source: "gcc".into(),
            source_version: "12".into(),
            maintainer: "A <a@example.org>".into(),
        };
        assert_eq!(
            package.purl("debian-12"),
            "pkg:deb/debian/libstdc%2B%2B6@1%3A2.3%7Erc-9%2Bdeb12u1?arch=amd64&distro=debian-12"
        );
        assert!(package.status().contains("\nSource: gcc (12)\nVersion: 1:2.3~rc-9+deb12u1\n"));
    }
}
