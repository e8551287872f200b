//! Reads an image back from its archive, so that two can be compared.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::oci;

/// What matters of an image: times and layers aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// How it is to be run: the part `config` of the configuration.
    pub(crate) run: Value,
    /// Each path with its kind, mode and digest or target.
    pub(crate) files: BTreeMap<String, String>,
}

/// Reads the one image of an OCI archive.
///
/// # Errors
/// An archive that is not whole.
pub(crate) fn archive(file: &Path) -> Result<Contents> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut blobs = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        blobs.insert(entry.path()?.to_string_lossy().into_owned(), bytes);
    }
    let blob = |descriptor: &Value| -> Result<&Vec<u8>> {
        let digest = descriptor["digest"].as_str().context("a descriptor without digest")?;
        let bytes = blobs.get(&format!("blobs/{}", digest.replace(':', "/"))).context("a blob is missing")?;
        if oci::digest(bytes) != digest {
            bail!("a blob is not what {digest} says");
        }
        Ok(bytes)
    };
    let index: Value = serde_json::from_slice(blobs.get("index.json").context("no index.json")?)?;
    let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])?)?;
    let config: Value = serde_json::from_slice(blob(&manifest["config"])?)?;
    let mut files = BTreeMap::new();
    for layer in manifest["layers"].as_array().context("a manifest without layers")? {
        let mut bytes = blob(layer)?.clone();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
            bytes = plain;
        }
        add_layer(&mut files, &bytes)?;
    }
    Ok(Contents { run: config["config"].clone(), files })
}

fn add_layer(files: &mut BTreeMap<String, String>, layer: &[u8]) -> Result<()> {
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let path = if path == "." { String::new() } else { path };
        let kind = entry.header().entry_type();
        let mode = entry.header().mode()? & 0o7777;
        let described = if kind.is_dir() {
            format!("directory {mode:o}")
        } else if kind.is_symlink() {
            let target = entry.link_name()?.context("a link without target")?;
            format!("link {}", target.display())
        } else if kind.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            format!("file {mode:o} {}", oci::digest(&bytes))
        } else {
            bail!("`{path}` is of a kind that the image should not have");
        };
        // The root itself is in some layers.
        if !path.is_empty() {
            files.insert(path, described);
        }
    }
    Ok(())
}

/// The first few differences between two sets of files, for a message.
pub(crate) fn differences(ours: &Contents, theirs: &Contents) -> Vec<String> {
    let none = "nothing".to_owned();
    let paths = ours.files.keys().chain(theirs.files.keys().filter(|path| !ours.files.contains_key(*path)));
    paths
        .map(|path| (path, ours.files.get(path).unwrap_or(&none), theirs.files.get(path).unwrap_or(&none)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(path, ours, theirs)| format!("{path}: {ours} here, {theirs} there"))
        .take(5)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::oci::Image;

    fn read_back(image: &Image) -> Contents {
        let file = tempfile::NamedTempFile::new().unwrap();
        image.write(file.path(), "weft:1").unwrap();
        archive(file.path()).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let image = Image::new().file("/a/b", "x", 0o640).symlink("/c", "a").user("7");
        let contents = read_back(&image);
        assert_eq!(contents.run["User"], "7");
        let files: Vec<(&str, &str)> = contents.files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let file = format!("file 640 {}", oci::digest(b"x"));
        assert_eq!(files, [("a", "directory 755"), ("a/b", file.as_str()), ("c", "link a")]);
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let one = Image::new().file("/mode", "", 0o644).file("/bytes", "1", 0o644).symlink("/only", "x");
        let other = Image::new().file("/mode", "", 0o600).file("/bytes", "2", 0o644).file("/more", "", 0o644);
        let (one, other) = (read_back(&one), read_back(&other));
        let told = differences(&one, &other).join("\n");
        for path in ["mode: ", "bytes: ", "only: link x here, nothing", "more: nothing here"] {
            assert!(told.contains(path), "{told}");
        }
        assert!(differences(&one, &one).is_empty());
    }

    #[test]
    fn a_damaged_archive_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (layer, at) = (Image::new().file("/a", "x", 0o644), 600);
        layer.write(file.path(), "weft:1").unwrap();
        let mut bytes = std::fs::read(file.path()).unwrap();
        // Within the first blob.
        bytes[at] ^= 1;
        std::fs::write(file.path(), bytes).unwrap();
        assert!(archive(file.path()).is_err());
    }
}
