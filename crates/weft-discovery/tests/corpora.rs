//! The samples of the fuzz targets, and samples that are nearly them, without a fuzzer.
#![allow(missing_docs, reason = "tests")]

use std::path::Path;

use proptest::prelude::*;
use weft_discovery::{ResolvConf, exercise_names};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let found: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(found.len() > 2, "{target} has no corpus");
    found
}

/// As the fuzz target takes them apart: each packet with its length in front.
fn packets(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut packets = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (packet, next) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        packets.push(packet);
        rest = next;
    }
    packets
}

#[test]
fn mesh_addresses_stay_what_they_are_for_the_corpus_of_names() {
    let before = exercise_names(&[]);
    assert!(before.iter().all(|named| named.as_ref().is_some_and(|named| !named.outside)), "{before:?}");
    for sample in corpus("dns_names") {
        assert_eq!(exercise_names(&packets(&sample)), before);
    }
}

#[test]
fn every_sample_of_a_resolv_conf_has_servers() {
    for sample in corpus("resolv_conf") {
        let conf = ResolvConf::parse(&String::from_utf8_lossy(&sample));
        assert!((1..=3).contains(&conf.servers.len()), "{conf:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mesh_addresses_stay_what_they_are_whatever_bytes_come(
        which in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let all = corpus("dns_names");
        let mut bytes: Vec<u8> = which.iter().flat_map(|which| which.get(&all).clone()).collect();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        prop_assert_eq!(exercise_names(&packets(&bytes)), exercise_names(&[]));
    }
}
