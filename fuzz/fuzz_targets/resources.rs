//! Resources from text: whatever a file has, it is read to the end in bounded time, each mistake has its place in the text, and what is
//! good is the same when it is read again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (resources, errors) = weft_resource::parse(Path::new("fuzz.yaml"), text);
    let lines = u32::try_from(text.split(['\n', '\r']).count()).unwrap_or(u32::MAX);
    for error in &errors {
        assert!(error.line <= lines && !error.reason.is_empty(), "{error}");
    }
    let (again, _) = weft_resource::parse(Path::new("fuzz.yaml"), text);
    assert!(resources == again);
    for resource in &resources {
        assert!(resource.source.line >= 1 && resource.source.line <= lines);
        assert!(weft_resource::locate(text, &resource.id, "spec.rules[0].matches[0]").is_some());
    }
});
