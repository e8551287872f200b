use serde_json::Value;

use super::*;

const TREE: &str = "0|weft v0.1.0 (/src/crates/weft)|Apache-2.0\n1|bytes v1.12.0|MIT\n1|weft-core v0.1.0 (/src/crates/weft-core)|Apache-2.0\n\
                    2|bytes v1.12.0|MIT (*)\n2|libc v0.2.1|MIT / Apache-2.0\n1|zstd-sys v2.0.16+zstd.1.5.7|\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"bytes\"\nversion = \"1.12.0\"\nsource = \"registry\"\n\
                    checksum = \"00ff\"\n\n[[package]]\nname = \"weft\"\nversion = \"0.1.0\"\n";

fn subject() -> Subject<'static> {
    Subject {
        name: "docker.io/library/weft:1",
        version: "1",
        digest: "sha256:abcd",
        epoch: 1_700_000_000,
        rust: "1.95.0",
        distribution: "debian-12",
    }
}

fn libc() -> Package {
    Package {
        name: "libc6".into(),
        version: "2.36-9".into(),
        architecture: "amd64".into(),
        source: "glibc".into(),
        source_version: "2.36-9".into(),
        maintainer: "Debian".into(),
    }
}

fn bill() -> Value {
    serde_json::from_slice(&write(subject(), TREE, LOCK, &[libc()]).unwrap()).unwrap()
}

#[test]
fn the_bill_has_what_is_linked_and_what_is_shipped() {
    let bill = bill();
    let components = bill["components"].as_array().unwrap();
    let named: Vec<&str> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["weft-core", "weft", "bytes", "libc", "zstd-sys", "libc6", "rust-std"]);
    let bytes = &components[2];
    assert_eq!(bytes["purl"], "pkg:cargo/bytes@1.12.0");
    assert_eq!(bytes["hashes"], serde_json::json!([{"alg": "SHA-256", "content": "00ff"}]));
    assert_eq!(components[3]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    assert!(components[4].get("licenses").is_none(), "no licence is not an empty one");
    assert_eq!(components[4]["purl"], "pkg:cargo/zstd-sys@2.0.16%2Bzstd.1.5.7");
    assert_eq!(components[1]["type"], "application");
    assert!(components[1].get("purl").is_none(), "ours is in no registry");
    assert_eq!(components[5]["purl"], "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12");
}

/// What the schema asks for, of the parts that are used here.
#[test]
fn the_bill_is_shaped_as_cyclonedx_says() {
    let bill = bill();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    assert_eq!(bill["version"], 1);
    assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let serial = bill["serialNumber"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
    let lengths: Vec<usize> = serial.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    assert!(serial.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c)), "{serial}");

    let mut references = BTreeSet::from([bill["metadata"]["component"]["bom-ref"].as_str().unwrap()]);
    for component in bill["components"].as_array().unwrap() {
        assert!(component["name"].is_string() && component["type"].is_string());
        assert!(references.insert(component["bom-ref"].as_str().unwrap()), "a bom-ref is there once");
    }
    for dependency in bill["dependencies"].as_array().unwrap() {
        assert!(references.contains(dependency["ref"].as_str().unwrap()));
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(on.as_str().unwrap()), "{on}");
        }
    }
}

#[test]
fn who_uses_what_survives_what_cargo_leaves_out() {
    let crates = read_tree(TREE).unwrap();
    let uses = |key: &str| crates[key].uses.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(uses("weft 0.1.0"), ["bytes 1.12.0", "weft-core 0.1.0", "zstd-sys 2.0.16+zstd.1.5.7"]);
    assert_eq!(uses("weft-core 0.1.0"), ["bytes 1.12.0", "libc 0.2.1"]);
    assert!(read_tree("x|y").is_err());
}

#[test]
fn the_serial_number_is_of_the_content() {
    let write = |subject| write(subject, TREE, LOCK, &[libc()]).unwrap();
    assert_eq!(write(subject()), write(subject()));
    let serial = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap()["serialNumber"].clone();
    assert_ne!(serial(write(subject())), serial(write(Subject { version: "2", ..subject() })));
}
