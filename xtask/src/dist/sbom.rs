//! The bill of materials of the image: CycloneDX 1.6, JSON.
//!
//! It lists what is in the image and nothing else: the crates that are linked into `weft` for this platform (not those
//! of tests, build scripts and macros, which run at build time only) and the Debian packages of the shared libraries and
//! of iptables. The same input gives the same bytes: the serial number is a digest of the content, and the time is that
//! of the image.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;

use super::debian::Package;
use super::oci;

/// What the image as a whole is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// Digest of the manifest.
    pub(crate) digest: &'a str,
    /// Seconds since 1970.
    pub(crate) epoch: u64,
    /// The compiler, whose standard library is linked in: `1.95.0`.
    pub(crate) rust: &'a str,
    /// Debian's name of itself: `debian-12`.
    pub(crate) distribution: &'a str,
}

/// A crate of the binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Crate {
    name: String,
    version: String,
    licence: String,
    /// From a registry, rather than of this workspace.
    foreign: bool,
    /// Keys of the crates that it uses.
    uses: BTreeSet<String>,
}

/// Writes the bill. `tree` is the output of [`TREE`], `lock` the text of `Cargo.lock`.
///
/// # Errors
/// Output of cargo that is not understood.
pub(crate) fn write(subject: Subject<'_>, tree: &str, lock: &str, packages: &[Package]) -> Result<Vec<u8>> {
    let crates = read_tree(tree)?;
    let checksums = checksums(lock);
    let mut components: Vec<Component> = crates.values().map(|one| one.component(&checksums)).collect();
    components.push(Component {
        kind: "library",
        reference: format!("rust-std@{}", subject.rust),
        name: "rust-std".to_owned(),
        version: subject.rust.to_owned(),
        licenses: vec![Licence { expression: "MIT OR Apache-2.0".to_owned() }],
        ..Component::default()
    });
    components.extend(packages.iter().map(|package| of_debian(package, subject.distribution)));
    components.sort_by(|a, b| a.reference.cmp(&b.reference));

    let image = Component {
        kind: "container",
        reference: format!("image:{}", subject.name),
        name: subject.name.to_owned(),
        version: subject.version.to_owned(),
        hashes: vec![Hash {
            alg: "SHA-256",
            content: subject.digest.trim_start_matches("sha256:").to_owned(),
        }],
        ..Component::default()
    };
    let mut dependencies: Vec<Dependency> = crates
        .values()
        .map(|one| Dependency {
            reference: one.reference(),
            depends_on: one.uses.iter().filter_map(|key| Some(crates.get(key)?.reference())).collect(),
        })
        .collect();
    // The image has the program, and the packages.
    let direct = packages.iter().map(|package| package.purl(subject.distribution));
    let root = crates.values().find(|one| one.name == "weft").context("cargo tree does not name weft")?;
    dependencies.push(Dependency {
        reference: image.reference.clone(),
        depends_on: direct.chain([root.reference()]).collect(),
    });
    dependencies.sort_by(|a, b| a.reference.cmp(&b.reference));

    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(subject.epoch);
    let mut bill = Bill {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        format: "CycloneDX",
        spec_version: "1.6",
        serial_number: String::new(),
        version: 1,
        metadata: Metadata {
            timestamp: humantime::format_rfc3339_seconds(created).to_string(),
            component: image,
        },
        components,
        dependencies,
    };
    bill.serial_number = serial(&oci::digest(&serde_json::to_vec(&bill)?));
    let mut text = serde_json::to_vec_pretty(&bill)?;
    text.push(b'\n');
    Ok(text)
}

/// Arguments of cargo that tell the crates of the binary, as depth, name and licence.
pub(crate) const TREE: [&str; 8] = [
    "tree",
    "-p",
    "weft",
    "--edges=normal,no-proc-macro",
    "--prefix=depth",
    "--charset=ascii",
    "--format",
    "|{p}|{l}",
];

/// Reads lines such as `3|bytes v1.12.0|MIT` and, where a crate was shown before, `3|bytes v1.12.0|MIT (*)`.
fn read_tree(tree: &str) -> Result<BTreeMap<String, Crate>> {
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    let mut above: Vec<String> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let strange = || format!("cargo tree: `{line}` is not understood");
        let mut parts = line.trim_end_matches(" (*)").splitn(3, '|');
        let depth: usize = parts.next().and_then(|depth| depth.parse().ok()).with_context(strange)?;
        let mut words = parts.next().with_context(strange)?.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let version = words.next().and_then(|word| word.strip_prefix('v')).with_context(strange)?.to_owned();
        // What is not from the registry has its directory behind it.
        let foreign = words.next().is_none();
        // Before SPDX expressions, a slash was the word for "or".
        let licence = parts.next().unwrap_or_default().replace('/', " OR ");
        let licence = licence.split_whitespace().collect::<Vec<_>>().join(" ");
        let key = format!("{name} {version}");
        above.truncate(depth);
        if let Some(user) = above.last().and_then(|user| crates.get_mut(user)) {
            user.uses.insert(key.clone());
        }
        above.push(key.clone());
        let one = Crate { name, version, licence, foreign, uses: BTreeSet::new() };
        crates.entry(key).or_insert(one);
    }
    Ok(crates)
}

/// SHA-256 of the packages in a `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let quoted = |block: &str, field: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(" = \""));
        line.map(|value| value.trim_end_matches('"').to_owned())
    };
    let entry = |block| {
        let key = format!("{} {}", quoted(block, "name")?, quoted(block, "version")?);
        Some((key, quoted(block, "checksum")?))
    };
    lock.split("[[package]]").filter_map(entry).collect()
}

/// A UUID (RFC 9562, version 8: of our own making) of the first half of a digest.
fn serial(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("urn:uuid:{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

impl Crate {
    fn reference(&self) -> String {
        let Self { name, version, foreign, .. } = self;
        if *foreign { self.purl() } else { format!("crate:{name}@{version}") }
    }

    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"))
    }

    fn component(&self, checksums: &BTreeMap<String, String>) -> Component {
        let checksum = checksums.get(&format!("{} {}", self.name, self.version)).cloned();
        Component {
            kind: if self.name == "weft" { "application" } else { "library" },
            reference: self.reference(),
            name: self.name.clone(),
            version: self.version.clone(),
            hashes: checksum.map(|content| Hash { alg: "SHA-256", content }).into_iter().collect(),
            licenses: (!self.licence.is_empty())
                .then(|| Licence { expression: self.licence.clone() })
                .into_iter()
                .collect(),
            purl: self.foreign.then(|| self.purl()),
            ..Component::default()
        }
    }
}

fn of_debian(package: &Package, distribution: &str) -> Component {
    let purl = package.purl(distribution);
    Component {
        kind: "library",
        reference: purl.clone(),
        supplier: Some(Supplier { name: package.maintainer.clone() }),
        name: package.name.clone(),
        version: package.version.clone(),
        purl: Some(purl),
        ..Component::default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bill {
    #[serde(rename = "$schema")]
    schema: &'static str,
    #[serde(rename = "bomFormat")]
    format: &'static str,
    spec_version: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    timestamp: String,
    component: Component,
}

#[derive(Default, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<Supplier>,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Licence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Serialize)]
struct Supplier {
    name: String,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Licence {
    expression: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: BTreeSet<String>,
}

#[cfg(test)]
#[path = "sbom_tests.rs"]
mod tests;
