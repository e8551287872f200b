//! The roles that are installed are what the controller asks for, no less and no more.
//!
//! A verb too few is refused and noted as such; a verb too many is asked for by nobody. On a real API server the same is
//! shown by tests/api/controller.rs.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::fake_tests::{Asked, Rules, Running, objects};

/// Rights of the other parts: their tests show what they need.
const OTHERS: &[(&str, &str, &str, &[&str])] = &[
    ("authentication.k8s.io", "tokenreviews", "", &["create"]),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "weft-injector",
        &["get", "list", "watch", "patch"],
    ),
    ("", "secrets", "weft-ca", &["get", "list", "watch"]),
    ("", "secrets", "", &["create"]),
    ("", "limitranges", "", &["list", "watch"]),
];

#[tokio::test(start_paused = true)]
async fn the_controller_asks_for_every_right_that_it_is_given_and_for_no_other() {
    let granted = Rules::rendered().rights();
    let mut remembering = objects();
    let meta = json!({"name": "weft-state", "namespace": "weft-system", "uid": "s"});
    let state = json!({"metadata": meta, "data": {"strict.yaml": "- shop/orders\n"}});
    remembering.insert("/api/v1/namespaces/weft-system/configmaps/weft-state".to_owned(), state);
    let mut used = BTreeSet::new();
    // The first leader of a mesh, and a later one.
    for world in [objects(), remembering] {
        let running = Running::start(world, vec![]);
        // Longer than it takes to become strict, which is a second pass.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let server = running.end().await;
        let server = server.lock().unwrap();
        assert!(server.refused.is_empty(), "missing: {:#?}", server.refused);
        used.extend(server.used.iter().cloned());
    }
    let mut unused: BTreeSet<Asked> = granted.difference(&used).cloned().collect();
    for (group, resource, name, verbs) in OTHERS {
        for verb in *verbs {
            let others = |right: &Asked| {
                (right.group.as_str(), right.resource.as_str(), right.name.as_str(), right.verb.as_str())
                    == (*group, *resource, *name, *verb)
            };
            assert!(granted.iter().any(others), "{resource} {verb} is not granted any more");
            unused.retain(|right| !others(right));
        }
    }
    assert!(unused.is_empty(), "asked for by nobody: {unused:#?}");
}
