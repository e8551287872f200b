//! The one form of paths and hosts: it is its own form, and nothing in it can be read in two ways.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_route::normalize::{host, path};

/// What one sees who decodes everything, takes `\` for `/` and cuts elements at `;`.
fn careless(form: &str) -> String {
    let mut text = form.to_owned();
    for (code, plain) in [("%2F", "/"), ("%5C", "/"), ("%3B", ";")] {
        text = text.replace(code, plain);
    }
    text
}

fuzz_target!(|input: &str| {
    if let Ok(form) = path(input) {
        assert!(form.starts_with('/') && !form.contains("//"), "{form}");
        assert!(form.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#' && b != b'?'), "{form}");
        assert_eq!(path(&form).as_deref(), Ok(&*form));
        for element in careless(&form).split('/') {
            let name = element.split(';').next().unwrap_or_default();
            assert!(name != "." && name != "..", "{form}");
        }
    }
    if let Ok(found) = host(input) {
        assert!(!found.name.is_empty() && !found.name.ends_with('.') && found.port != Some(0));
        assert!(!found.name.bytes().any(|b| b.is_ascii_uppercase() || b == b'@' || b == b'/'));
        let again = host(&found.name).map(|again| (again.name.into_owned(), again.port));
        assert_eq!(again, Ok((found.name.to_string(), None)));
    }
});
