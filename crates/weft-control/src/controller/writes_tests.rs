use std::sync::Arc;

use super::super::pass::MeshWrite;
use super::*;

fn mesh(namespace: usize, octets: usize) -> MeshWrite {
    MeshWrite {
        namespace: format!("n{namespace:03}"),
        yaml: Some(Arc::from("x".repeat(octets))),
        ..MeshWrite::default()
    }
}

fn namespaces(chosen: &[Do<'_>]) -> Vec<String> {
    chosen.iter().map(|what| what.namespace().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_large_membership_is_written_at_its_pace_and_everybody_has_a_turn() {
    let text: Arc<str> = Arc::from("x".repeat(900_000));
    let mesh = |number| MeshWrite { yaml: Some(Arc::clone(&text)), ..mesh(number, 0) };
    let work = Work { meshes: (0..50).map(mesh).collect(), ..Work::default() };
    let mut writes = Writes::new(Instant::now());
    let begun = Instant::now();
    let mut order = Vec::new();
    // The text changes all the time, so nobody is ever done.
    while order.len() < 100 {
        let (chosen, next) = writes.choose(&work, "", Instant::now());
        order.extend(namespaces(&chosen));
        tokio::time::sleep_until(next.unwrap()).await;
    }
    let first: std::collections::BTreeSet<&String> = order.iter().take(50).collect();
    assert_eq!(first.len(), 50, "each once before any twice");
    let took = begun.elapsed().as_secs_f64();
    let rate = (order.len() as f64 * 900_000.0 - f64::from(10 << 20)) / took;
    assert!(rate <= f64::from(1 << 20) * 1.02, "{rate}");
}

#[tokio::test(start_paused = true)]
async fn one_namespace_with_many_twins_and_bare_pods_holds_up_nobody() {
    let key = |namespace: &str, number: usize| (Key::new(namespace, format!("p{number:04}")), "u".to_owned());
    let mut work = Work::default();
    work.slips.report = (0..5_000).map(|number| key("a", number)).chain([key("z", 0)]).collect();
    work.twins.remove = (0..5_000).map(|number| key("a", number)).chain([key("z", 0)]).collect();
    work.meshes = vec![mesh(1, 10)];
    let mut writes = Writes::new(Instant::now());
    let (chosen, next) = writes.choose(&work, "", Instant::now());
    assert!(matches!(chosen.first(), Some(Do::Mesh(_))));
    assert_eq!(chosen.len(), 1 + 2 * AT_MOST);
    assert_eq!(next, Some(Instant::now() + SOON));
    let of_z = chosen.iter().filter(|what| what.namespace() == "z").count();
    assert_eq!(of_z, 2);
}
