use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::facts::Inject;
use super::super::world::tests::{Draft, no_change};
use super::*;

#[test]
fn who_asks_for_little_gets_it_and_who_asks_for_much_shares_the_rest() {
    assert_eq!(level([10, 20, 30].into_iter(), 60), usize::MAX);
    assert_eq!(level([10, 2_000].into_iter(), 100), 90);
    assert_eq!(level([10, 2_000, 3_000].into_iter(), 100), 45);
    assert_eq!(level(std::iter::empty(), 0), usize::MAX);
}

proptest! {
    #[test]
    fn the_level_is_fair_and_fits(demands in proptest::collection::vec(0usize..1_000, 0..20), room in 0usize..5_000) {
        let level = level(demands.iter().copied(), room);
        let used: usize = demands.iter().map(|demand| (*demand).min(level)).sum();
        prop_assert!(used <= room);
        if let Some(highest) = demands.iter().max()
            && *highest > level
        {
            // A little more for each would not fit.
            prop_assert!(used + demands.len() > room);
        }
    }

    #[test]
    fn taking_turns_loses_nothing(items in proptest::collection::vec((0u8..5, any::<u16>()), 0..40), first in 0usize..9) {
        let named: Vec<(String, u16)> = items.into_iter().map(|(ns, item)| (ns.to_string(), item)).collect();
        let mut mixed = in_turn(named.clone(), |(ns, _)| ns, first);
        let namespaces: std::collections::BTreeSet<String> = named.iter().map(|(ns, _)| ns.clone()).collect();
        let begin: std::collections::BTreeSet<String> =
            mixed.iter().take(namespaces.len()).map(|(ns, _)| ns.clone()).collect();
        prop_assert_eq!(begin, namespaces);
        let mut all = named;
        all.sort();
        mixed.sort();
        prop_assert_eq!(mixed, all);
    }
}

#[test]
fn the_newest_of_too_many_services_are_held_back_and_no_other_namespace_is() {
    let mut draft = Draft::default()
        .namespace("greedy", Inject::Enabled, None)
        .namespace("shop", Inject::Enabled, None)
        .service("shop", "orders", no_change);
    for number in 0..SERVICES + 10 {
        // The names say the opposite of their age.
        let name = format!("s{:05}", 99_999 - number);
        draft = draft.service("greedy", &name, |service| service.created = number as i64);
    }
    let world = draft.world();
    let looks = look(&world);
    let by: BTreeMap<&str, usize> = looks.mesh.iter().fold(BTreeMap::new(), |mut by, look| {
        *by.entry(look.key.namespace.as_str()).or_default() += 1;
        by
    });
    assert_eq!(by, [("greedy", SERVICES), ("shop", 1)].into());
    assert_eq!(looks.held.counts()["services"], 10);
    assert!(looks.mesh.iter().any(|look| look.key.name == "s99999"));
    assert!(looks.unseen.contains(&Key::new("greedy", format!("s{:05}", 99_999 - SERVICES))));
    let told = looks.held.told("greedy").unwrap();
    assert!(told.starts_with("10 held back (s") && told.contains("2000 Services"), "{told}");
    assert_eq!(looks.held.told("shop"), None);
}

#[test]
fn services_that_all_select_the_same_pods_cost_no_product() {
    let mut draft = Draft::default().namespace("greedy", Inject::Enabled, None);
    for number in 0..1_000 {
        let same =
            |service: &mut ServiceFacts| service.selector = [("tier".to_owned(), "any".to_owned())].into();
        draft = draft.service("greedy", &format!("s{number}"), same);
        draft = draft.pod("greedy", "x", &format!("10.0.{}.{}", number / 250, number % 250), true, no_change);
    }
    let world = draft.world();
    let looks = look(&world);
    let pairs: usize = looks.mesh.iter().map(|look| look.pods.len()).sum();
    assert_eq!(pairs, PAIRS);
    assert_eq!(looks.held.counts()["pods"], 800);
}
