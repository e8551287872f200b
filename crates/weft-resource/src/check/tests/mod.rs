//! One line a rule of the specification: what is good by it, what is bad, and where the mistake is told.

mod gateway;
mod http_route;
mod others;

use std::path::Path;

/// Good, bad, and what is told of the bad one: the field and the code.
type Row<'r> = (&'r str, String, String, &'r str, &'r str);

fn document(version: &str, kind: &str, spec: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n")
}

fn check(version: &str, kind: &str, rows: Vec<Row<'_>>) {
    for (rule, good, bad, field, code) in rows {
        let told = |spec: &str| {
            let (resources, errors) = crate::parse(Path::new("x"), &document(version, kind, spec));
            assert_eq!(resources.len() + usize::from(!errors.is_empty()), 1, "{rule}: {errors:?}");
            errors
        };
        let errors = told(&good);
        assert!(errors.is_empty(), "{rule}: good is refused: {errors:?}");
        let errors = told(&bad);
        let found: Vec<(&str, &str)> =
            errors.iter().map(|error| (error.field.as_str(), error.kind.code())).collect();
        assert_eq!(found, [(field, code)], "{rule}: {errors:?}");
    }
}

/// A YAML flow list of so many items.
fn many(count: usize, item: impl Fn(usize) -> String) -> String {
    format!("[{}]", (0..count).map(item).collect::<Vec<_>>().join(", "))
}

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
