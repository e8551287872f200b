use std::time::Duration;

use tokio::time::Instant;

use super::super::budget::look;
use super::super::facts::{Inject, PodFacts, ServiceFacts};
use super::super::membership::tests::settings;
use super::super::memory::{StateText, recall};
use super::super::world::Seen;
use super::super::world::tests::{Draft, no_change};
use super::super::{BY_PODS_KEY, STATE_CONFIG, STATE_KEY};
use super::*;

const ROOTS: &str = "-----BEGIN CERTIFICATE-----\n";

fn moving() -> Draft {
    Draft::default()
        .namespace("shop", Inject::Enabled, None)
        .namespace("data", Inject::Enabled, Some(MtlsMode::Strict))
        .namespace("left", Inject::Unsaid, None)
        .namespace("plain", Inject::Unsaid, None)
        .service("shop", "orders", no_change)
        .pod("shop", "orders", "10.0.0.1", true, no_change)
        .pod("left", "x", "10.0.0.2", true, no_change)
        .pod("plain", "x", "10.0.0.3", false, no_change)
}

/// What a pass did, its memory included.
#[derive(Debug)]
struct Done {
    work: Work,
    state: Option<StateText>,
    due: Vec<Key>,
    next: Option<Instant>,
}

impl std::ops::Deref for Done {
    type Target = Work;

    fn deref(&self) -> &Work {
        &self.work
    }
}

fn done(world: World, done: &Done) -> Seen {
    let mut seen = world.seen;
    for mesh in &done.meshes {
        let yaml = mesh.yaml.as_deref().unwrap();
        let data = [("weft.yaml", yaml), ("root.pem", ROOTS)];
        let data = data.map(|(key, value)| (key.to_owned(), digest(value.as_bytes()))).into();
        let held = mesh.held.clone();
        let facts =
            ConfigMapFacts { uid: mesh.namespace.clone(), data, labelled: true, held, immutable: false };
        seen.meshes.insert(Key::new(&mesh.namespace, MESH_CONFIG), facts.into());
    }
    if let Some(text) = &done.state {
        let data = [(STATE_KEY, &text.strict), (BY_PODS_KEY, &text.by_pods)];
        let data = data.map(|(key, text)| (key.to_owned(), digest(text.as_bytes()))).into();
        let facts = ConfigMapFacts { data, ..ConfigMapFacts::default() };
        seen.state.insert(Key::new("weft-system", STATE_CONFIG), facts.into());
    }
    seen
}

fn pass(world: &World, modes: &mut Modes, now: Instant) -> Done {
    modes.settle(world);
    let looks = look(world);
    let recall = recall(world, &looks, modes, now);
    modes.confirm(&recall.due, recall.by_pods);
    let work = work(world, &looks, &settings(), ROOTS, Some(modes), recall.held);
    Done { work, state: recall.state, due: recall.due, next: recall.next }
}

fn written(work: &Work) -> Vec<&str> {
    work.meshes.iter().map(|mesh| mesh.namespace.as_str()).collect()
}

fn yaml(mesh: &MeshWrite) -> &str {
    mesh.yaml.as_deref().unwrap()
}

#[test]
fn members_and_whoever_has_sidecars_get_membership_and_then_nothing_is_written() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let first = pass(&world, &mut modes, now);
    assert_eq!(written(&first), ["data", "left", "shop"]);
    assert!(
        yaml(&first.meshes[0]).contains("mode: strict\n")
            && yaml(&first.meshes[2]).contains("mode: permissive\n")
    );
    let nothing = StateText { strict: "[]\n".to_owned(), by_pods: "[]\n".to_owned() };
    assert_eq!(first.state, Some(nothing));
    let world = World::new("weft-system", done(world, &first));
    let second = pass(&world, &mut modes, now);
    assert!(
        second.meshes.is_empty() && second.state.is_none() && second.remove_meshes.is_empty(),
        "{second:?}"
    );
}

#[test]
fn an_edit_is_put_back_with_what_was_added() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let first = pass(&world, &mut modes, now);
    let edits: [fn(&mut ConfigMapFacts); 6] = [
        |map| map.labelled = false,
        |map| *map.data.get_mut("weft.yaml").unwrap() ^= 1,
        |map| assert!(map.data.remove("root.pem").is_some()),
        |map| assert!(map.data.insert("more".to_owned(), 1).is_none()),
        |map| map.held = Some("everything".to_owned()),
        |map| map.immutable = true,
    ];
    let mut seen = done(world, &first);
    for (number, edit) in edits.into_iter().enumerate() {
        let key = Key::new("shop", MESH_CONFIG);
        let good = Arc::clone(&seen.meshes[&key]);
        let mut edited = (*good).clone();
        edit(&mut edited);
        seen.meshes.insert(key.clone(), edited.into());
        let world = World::new("weft-system", seen);
        let found = pass(&world, &mut modes, now);
        assert_eq!(written(&found), ["shop"], "edit {number}");
        assert_eq!(found.meshes[0].extra, if number == 3 { vec!["more".to_owned()] } else { vec![] });
        assert_eq!(found.meshes[0].unsay, number == 4);
        let fixed = (number == 5).then(|| "shop".to_owned());
        assert_eq!(found.meshes[0].replaces, fixed);
        assert_eq!(found.notices.iter().any(|notice| notice.reason == "ImmutableUndone"), number == 5);
        seen = world.seen;
        seen.meshes.insert(key, good);
    }
}

#[test]
fn membership_goes_with_the_last_sidecar() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let first = pass(&world, &mut modes, now);
    let mut seen = done(world, &first);
    // `left` has not the label any more; its pod ends.
    seen.pods.retain(|key, _| key.namespace != "left");
    // Somebody else's ConfigMap of the name, in a namespace that is none of ours.
    seen.meshes.insert(Key::new("plain", MESH_CONFIG), Arc::new(ConfigMapFacts::default()));
    let world = World::new("weft-system", seen);
    let found = pass(&world, &mut modes, now);
    assert_eq!(found.remove_meshes, [("left".to_owned(), "left".to_owned())]);
    assert!(found.meshes.is_empty());
}

#[test]
fn without_roots_and_in_a_namespace_that_ends_nothing_is_written() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let without = work(&world, &look(&world), &settings(), "", Some(&modes), Held::default());
    assert!(without.meshes.is_empty());
    let mut draft = moving();
    Arc::make_mut(draft.0.namespaces.get_mut(&Key::new("", "shop")).unwrap()).ending = true;
    assert_eq!(written(&pass(&draft.world(), &mut modes, now)), ["data", "left"]);
}

#[test]
fn strict_is_remembered_in_the_pass_that_tells_it_and_wakes_itself() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let first = pass(&world, &mut modes, now);
    let due = now + Duration::from_secs(30);
    assert_eq!(first.next, Some(due));
    assert_eq!((first.figures.services["permissive"], first.figures.services["strict"]), (1, 0));
    let world = World::new("weft-system", done(world, &first));
    let then = pass(&world, &mut modes, due);
    assert_eq!(then.state.as_ref().map(|text| text.strict.as_str()), Some("- shop/orders\n"));
    assert_eq!(written(&then), ["data", "left", "shop"]);
    assert!(then.meshes.iter().all(|mesh| yaml(mesh).contains("modes: []")));
    assert_eq!(then.due, [Key::new("shop", "orders")]);
    assert_eq!(then.figures.services["strict"], 1);
}

#[test]
fn one_namespace_with_thousands_of_services_is_held_back_alone() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let mut draft = moving().namespace("greedy", Inject::Enabled, None);
    for number in 0..9_000 {
        draft = draft.service("greedy", &format!("service-{number:04}"), |service| service.created = number);
    }
    let in_already = ConfigMapFacts { labelled: true, ..ConfigMapFacts::default() };
    draft.0.meshes.insert(Key::new("greedy", MESH_CONFIG), in_already.into());
    let world = draft.world();
    let found = pass(&world, &mut modes, now);
    assert_eq!(written(&found), ["data", "greedy", "left", "shop"]);
    assert!(
        found.meshes.iter().all(|mesh| yaml(mesh).len() < 410_000 && yaml(mesh).contains("orders.shop."))
    );
    // Told in the namespace: an Event, and an annotation that can be read.
    let told: Vec<&Notice> = found.notices.iter().filter(|notice| notice.reason == "HeldBack").collect();
    assert_eq!(told.iter().map(|notice| notice.tenant()).collect::<Vec<_>>(), ["greedy"]);
    for mesh in &found.meshes {
        let says = mesh.held.as_ref().is_some_and(|held| held.contains("7000 held back (service-2000"));
        assert_eq!(says, mesh.namespace == "greedy", "{:?}", mesh.held);
    }
    assert_eq!(found.figures.held["services"], 7_000);
    assert!(found.work.held.contains("greedy") && !found.stuck);
    // And then nothing is written.
    let world = World::new("weft-system", done(world, &found));
    let again = pass(&world, &mut modes, now);
    assert!(again.meshes.is_empty(), "{:?}", written(&again));
}

/// The section `proxy` alone, or the names of ten thousand namespaces, can be more than a ConfigMap holds.
#[test]
fn where_no_membership_can_be_written_the_trust_bundle_is() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let first = pass(&world, &mut modes, now);
    let mut seen = done(world, &first);
    seen.meshes.remove(&Key::new("data", MESH_CONFIG));
    let key = Key::new("shop", MESH_CONFIG);
    let mut old = (*seen.meshes[&key]).clone();
    *old.data.get_mut("root.pem").unwrap() ^= 1;
    seen.meshes.insert(key, old.into());
    let mut settings = settings();
    settings.proxy.0.insert("x".to_owned(), "y".repeat(MAX_MESH).into());
    let world = World::new("weft-system", seen);
    let large = work(&world, &look(&world), &settings, ROOTS, Some(&modes), Held::default());
    let what: Vec<_> =
        large.meshes.iter().map(|mesh| (mesh.namespace.as_str(), mesh.yaml.is_none(), mesh.exists)).collect();
    assert_eq!(what, [("data", true, false), ("shop", true, true)]);
    assert!(large.notices.iter().any(|notice| notice.reason == "MembershipTooLarge"));
    assert!(large.stuck);
    // The same where it is not known what is remembered; and nothing is removed then.
    let mut seen = world.seen;
    seen.pods.retain(|key, _| key.namespace != "left");
    let world = World::new("weft-system", seen);
    let unknown = work(&world, &look(&world), &self::settings(), ROOTS, None, Held::default());
    assert_eq!(unknown.meshes, large.meshes);
    assert!(unknown.remove_meshes.is_empty() && unknown.twins.remove.is_empty());
}

#[test]
fn figures_are_told_for_members_without_slips_too() {
    let world = moving()
        .pod("shop", "bare", "10.0.0.9", false, |_: &mut PodFacts| {})
        .service("shop", "off", |service: &mut ServiceFacts| service.mode = Some(MtlsMode::Disable))
        .world();
    let found = pass(&world, &mut Modes::default(), Instant::now()).work.figures;
    assert_eq!(found.uninjected, [("data".to_owned(), 0), ("shop".to_owned(), 1)].into());
    assert_eq!(found.injected, [("left".to_owned(), 1), ("shop".to_owned(), 1)].into());
    assert_eq!(found.services["disable"], 1);
}
