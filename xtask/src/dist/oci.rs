//! Writes container images without a container engine.
//!
//! The file is an OCI image layout in a tar archive: `oci-layout`, `index.json` and content-addressed blobs (OCI image
//! specification 1.1, image-layout.md). containerd, skopeo, podman and Docker from 25 on read it. It also has the
//! `manifest.json` that older `docker load` looks for, over the same blobs.
//!
//! ```text
//! Image::new()
//!     .file("/coredns", fs::read(binary)?, 0o755)
//!     .entrypoint(&["/coredns"])
//!     .write(Path::new("coredns.tar"), "coredns:test")?;
//! ```
//!
//! The same input gives the same bytes: files are sorted and have one time, the JSON has one order, and the gzip header
//! has neither time nor name.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::rootfs::{self, Rootfs};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image of one layer, in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    rootfs: Rootfs,
    run: Run,
    epoch: u64,
    fast: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The image's full name, as containerd will call it.
    pub(crate) name: String,
    /// The digest of the manifest, `sha256:...`: what the image is pinned by.
    pub(crate) digest: String,
    /// Bytes to transfer for a pull: configuration and compressed layer.
    pub(crate) compressed: usize,
}

impl Image {
    /// An empty image that runs as root.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a file at the absolute `path`; missing directories appear by themselves, with mode 755.
    pub(crate) fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.rootfs.file(path, bytes, mode);
        self
    }

    /// Adds a symbolic link at `path` to `target`.
    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        self.rootfs.symlink(path, target);
        self
    }

    /// Adds an empty directory.
    pub(crate) fn directory(mut self, path: &str, mode: u32) -> Self {
        self.rootfs.directory(path, mode);
        self
    }

    /// Takes the files from `rootfs`, in place of those added before.
    pub(crate) fn rootfs(mut self, rootfs: Rootfs) -> Self {
        self.rootfs = rootfs;
        self
    }

    /// The program and its first arguments.
    pub(crate) fn entrypoint(mut self, words: &[&str]) -> Self {
        self.run.entrypoint = owned(words);
        self
    }

    /// Arguments after the entry point, which the user of the image may replace.
    pub(crate) fn command(mut self, words: &[&str]) -> Self {
        self.run.cmd = owned(words);
        self
    }

    /// Adds an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.run.env.push(format!("{name}={value}"));
        self
    }

    /// The user, as a number or `uid:gid`, so that the kubelet can see that it is not root.
    pub(crate) fn user(mut self, user: &str) -> Self {
        self.run.user = user.to_owned();
        self
    }

    /// Adds a label.
    pub(crate) fn label(mut self, name: &str, value: &str) -> Self {
        self.run.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The time that the image and its files carry, in seconds since 1970; 0 by default.
    pub(crate) fn epoch(mut self, seconds: u64) -> Self {
        self.epoch = seconds;
        self
    }

    /// Compresses in a fraction of the time, for images that no network will carry.
    pub(crate) fn fast(mut self) -> Self {
        self.fast = true;
        self
    }

    /// Writes the image as a tar archive named `name` (`weft:1.0`, `registry.example:5000/mesh/weft:1.0`).
    ///
    /// # Errors
    /// A name or a path that cannot be, or the file system's own.
    pub(crate) fn write(&self, file: &Path, name: &str) -> Result<Written> {
        let (archive, written) = self.archive(name)?;
        fs::write(file, archive).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(written)
    }

    /// The archive's bytes.
    fn archive(&self, name: &str) -> Result<(Vec<u8>, Written)> {
        let name = full_name(name)?;
        let layer = self.rootfs.tar(self.epoch)?;
        let diff_id = digest(&layer);
        let layer = Blob::new(LAYER, gzip(&layer, self.fast)?);
        let config = Blob::json(CONFIG, &self.config(diff_id))?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            config: config.descriptor(),
            layers: vec![layer.descriptor()],
        };
        let manifest = Blob::json(MANIFEST, &manifest)?;
        let written = Written {
            name: name.clone(),
            digest: manifest.digest.clone(),
            compressed: config.bytes.len() + layer.bytes.len(),
        };
        let docker = [DockerManifest {
            config: config.path(),
            repo_tags: vec![name.clone()],
            layers: vec![layer.path()],
        }];
        let index = index(&manifest, &name);

        let mut files = BTreeMap::from([
            ("index.json".to_owned(), serde_json::to_vec(&index)?),
            ("manifest.json".to_owned(), serde_json::to_vec(&docker)?),
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ]);
        files.extend([config, manifest, layer].map(|blob| (blob.path(), blob.bytes)));
        let mut archive = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            rootfs::append(&mut archive, &path, &bytes, 0o644, self.epoch)?;
        }
        Ok((archive.into_inner()?, written))
    }

    fn config(&self, diff_id: String) -> Config<'_> {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(self.epoch);
        Config {
            created: humantime::format_rfc3339_seconds(created).to_string(),
            architecture: architecture(),
            os: "linux",
            config: &self.run,
            rootfs: Layers { kind: "layers", diff_ids: vec![diff_id] },
        }
    }
}

fn index(manifest: &Blob, name: &str) -> Index {
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let mut descriptor = manifest.descriptor();
    descriptor.annotations = BTreeMap::from([
        // The one is read by containerd and podman, the other by the rest.
        ("io.containerd.image.name", name.to_owned()),
        ("org.opencontainers.image.ref.name", tag.to_owned()),
    ]);
    descriptor.platform = Some(Platform { architecture: architecture(), os: "linux" });
    Index { schema_version: 2, media_type: INDEX, manifests: vec![descriptor] }
}

/// A name with its registry and tag, as containerd and the kubelet write it: `docker.io/library/weft:1.0` for `weft:1.0`.
///
/// # Errors
/// A name that is no image's name.
fn full_name(name: &str) -> Result<String> {
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let good_tag = !tag.is_empty()
        && tag.len() <= 128
        && !tag.starts_with(['.', '-'])
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c))
    };
    // A first part with a dot or a port, or `localhost`, is a registry.
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", path.to_owned()),
        None => ("docker.io", format!("library/{path}")),
    };
    if !good_tag || !rest.split('/').all(part) || registry.contains(char::is_whitespace) {
        bail!("`{name}` is no name of an image (such as weft:1.0 or registry.example/mesh/weft:1.0)");
    }
    Ok(format!("{registry}/{rest}:{tag}"))
}

/// This machine's architecture in the words of Go, which image tools use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The digest of bytes, `sha256:` and hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8], fast: bool) -> Result<Vec<u8>> {
    let level = if fast { Compression::fast() } else { Compression::best() };
    // 255: the operating system is not told.
    let mut writer = flate2::GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), level);
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().copied().map(str::to_owned).collect()
}

/// A file that is named by its digest.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    fn json(media_type: &'static str, value: &impl Serialize) -> Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(value)?))
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type,
            digest: self.digest.clone(),
            size: self.bytes.len(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

// The documents. Structures rather than `json!`, whose order of keys depends on a feature of serde_json.

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

#[derive(Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
struct Config<'a> {
    created: String,
    architecture: &'static str,
    os: &'static str,
    config: &'a Run,
    rootfs: Layers,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Layers {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

#[cfg(test)]
#[path = "oci_tests.rs"]
mod tests;
