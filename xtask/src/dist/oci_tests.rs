use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;

use super::*;

fn image() -> Image {
    Image::new()
        .file("/usr/bin/b", "b", 0o755)
        .file("/usr/bin/a", "a", 0o755)
        .symlink("/usr/bin/c", "a")
        .directory("/run", 0o1777)
        .entrypoint(&["/usr/bin/a"])
        .command(&["proxy"])
        .env("PATH", "/usr/bin")
        .user("2102")
        .label("b", "2")
        .label("a", "1")
        .epoch(1_700_000_000)
}

/// The files of an archive, in order.
fn files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    };
    archive.entries().unwrap().map(read).collect()
}

/// The blob that a descriptor names, after its digest and size were held against it.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let named = descriptor["digest"].as_str().unwrap();
    let bytes = &files[&format!("blobs/{}", named.replace(':', "/"))];
    assert_eq!(digest(bytes), named);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let reordered = Image::new()
        .label("a", "1")
        .directory("/run", 0o1777)
        .label("b", "2")
        .symlink("/usr/bin/c", "a")
        .file("/usr/bin/a", "other", 0o644)
        .file("/usr/bin/a", "a", 0o755)
        .file("/usr/bin/b", "b", 0o755)
        .env("PATH", "/usr/bin")
        .user("2102")
        .command(&["proxy"])
        .entrypoint(&["/usr/bin/a"])
        .epoch(1_700_000_000);
    let (first, written) = image().archive("weft:1").unwrap();
    assert_eq!((first.clone(), written), reordered.archive("weft:1").unwrap());
    let (other, _) = image().file("/usr/bin/a", "A", 0o755).archive("weft:1").unwrap();
    assert_ne!(digest(&first), digest(&other));
}

#[test]
fn every_reference_in_the_archive_holds() {
    let (archive, written) = image().archive("mesh/weft:1.0").unwrap();
    let list = files(&archive);
    let names: Vec<&String> = list.iter().map(|(name, _)| name).collect();
    assert!(names.is_sorted(), "{names:?}");
    let files: BTreeMap<String, Vec<u8>> = list.iter().cloned().collect();
    assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");

    let index = json(&files["index.json"]);
    let entry = &index["manifests"][0];
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/mesh/weft:1.0");
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.0");
    assert_eq!(entry["digest"], written.digest);

    let manifest = json(blob(&files, entry));
    let config_bytes = blob(&files, &manifest["config"]);
    let layer = blob(&files, &manifest["layers"][0]);
    assert_eq!(written.compressed, config_bytes.len() + layer.len());
    let config = json(config_bytes);
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["config"]["User"], "2102");
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/a");
    assert_eq!(config["config"]["Cmd"][0], "proxy");
    assert_eq!(config["config"]["Env"][0], "PATH=/usr/bin");
    assert_eq!(config["config"]["Labels"], serde_json::json!({"a": "1", "b": "2"}));

    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));

    // For `docker load` of old, over the same blobs; nothing else is in the archive.
    let docker = json(&files["manifest.json"]);
    assert_eq!(docker[0]["RepoTags"][0], "docker.io/mesh/weft:1.0");
    for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
        assert!(files.contains_key(path.as_str().unwrap()), "{path}");
    }
    assert_eq!(files.len(), 6);
}

#[test]
fn a_layer_is_sorted_and_says_nothing_about_the_machine() {
    let tree = image().rootfs;
    let tar = tree.tar(7).unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 7));
        assert_eq!(header.username_bytes(), Some(&[][..]));
        seen.push((entry.path().unwrap().display().to_string(), header.mode().unwrap()));
    }
    let expected = [
        ("run/", 0o1777),
        ("usr/", 0o755),
        ("usr/bin/", 0o755),
        ("usr/bin/a", 0o755),
        ("usr/bin/b", 0o755),
        ("usr/bin/c", 0o777),
    ];
    assert_eq!(seen, expected.map(|(path, mode)| (path.to_owned(), mode)));
}

#[test]
fn paths_that_leave_the_image_are_refused() {
    for path in ["", "/", "/../etc/passwd", "/usr/./a", "/usr//a"] {
        let result = Image::new().file(path, "", 0o644).archive("weft:1");
        assert!(result.is_err(), "{path}");
    }
    let below_a_file = Image::new().file("/a", "", 0o644).file("/a/b", "", 0o644);
    assert!(below_a_file.archive("weft:1").is_err());
}

#[test]
fn names_become_full() {
    for (name, full) in [
        ("weft", "docker.io/library/weft:latest"),
        ("weft:1.0", "docker.io/library/weft:1.0"),
        ("mesh/weft:a", "docker.io/mesh/weft:a"),
        ("localhost/weft:a", "localhost/weft:a"),
        ("registry.example:5000/mesh/weft", "registry.example:5000/mesh/weft:latest"),
        ("registry.example:5000/mesh/weft:1", "registry.example:5000/mesh/weft:1"),
    ] {
        assert_eq!(full_name(name).unwrap(), full);
    }
    for name in ["", ":1", "weft:", "Weft:1", "we ft:1", "weft:a b", "a//b:1", "weft:-x"] {
        assert!(full_name(name).is_err(), "{name}");
    }
}
