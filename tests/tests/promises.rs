//! The guide names the test that keeps each promise. Here it is checked that there are such tests.

use std::fs;
use std::path::Path;

/// `[`name`](path)` with a path to Rust code.
fn named(text: &str) -> Vec<(&str, &str)> {
    let ends = text.match_indices("`](").filter_map(|(at, _)| {
        let name = text[..at].rsplit('`').next()?;
        let path = text[at + 3..].split(')').next()?;
        path.ends_with(".rs").then_some((name, path))
    });
    ends.collect()
}

#[test]
fn every_promise_of_the_guide_has_its_test() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide");
    let text = fs::read_to_string(guide.join("security.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 20, "the table is gone: {named:?}");
    for (name, path) in named {
        let code = fs::read_to_string(guide.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (before, _) =
            code.split_once(&format!("fn {name}(")).unwrap_or_else(|| panic!("{path} has no {name}"));
        let attributes = before.lines().rev().take_while(|line| !line.trim().is_empty()).collect::<Vec<_>>();
        assert!(
            attributes.iter().any(|line| line.contains("test")) || before.contains("proptest! {"),
            "{name} is no test: {attributes:?}"
        );
    }
}
