use super::*;

fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
    let entries: Vec<Value> = bundles
        .iter()
        .enumerate()
        .map(|(i, bundle)| {
            let ca = bundle.map(|text| ByteString(text.as_bytes().to_vec()));
            json!({
                "name": format!("e{i}.weft.dev"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"caBundle": ca, "service": {"name": NAME, "namespace": "weft-system"}},
            })
        })
        .collect();
    serde_json::from_value(json!({"metadata": {"name": NAME}, "webhooks": entries})).unwrap()
}

#[test]
fn only_entries_with_another_bundle_are_written() {
    assert_eq!(missing(&configuration(&[Some("roots"), Some("roots")]), "roots"), None);
    assert_eq!(missing(&configuration(&[]), "roots"), None);
    let patch = missing(&configuration(&[Some("roots"), Some("old"), None]), "roots").unwrap();
    // Base64 of "roots"; the API server merges entries by name.
    let entry = |name: &str| json!({"name": name, "clientConfig": {"caBundle": "cm9vdHM="}});
    assert_eq!(patch, json!({"webhooks": [entry("e1.weft.dev"), entry("e2.weft.dev")]}));
}
