use std::time::Duration;

use super::super::facts::{Inject, PodFacts, ServiceFacts};
use super::super::membership::tests::settings;
use super::super::world::Seen;
use super::super::world::tests::{Draft, no_change};
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

fn done(world: World, work: &Work) -> Seen {
    let mut seen = world.seen;
    for mesh in &work.meshes {
        let data = [("weft.yaml", &*mesh.yaml), ("root.pem", ROOTS)];
        let data = data.map(|(key, value)| (key.to_owned(), digest(value.as_bytes()))).into();
        let facts = ConfigMapFacts { uid: mesh.namespace.clone(), data, labelled: true };
        seen.meshes.insert(Key::new(&mesh.namespace, MESH_CONFIG), facts.into());
    }
    if let Some(text) = &work.state {
        let data = [(STATE_KEY.to_owned(), digest(text.as_bytes()))].into();
        let facts = ConfigMapFacts { data, ..ConfigMapFacts::default() };
        seen.state.insert(Key::new("weft-system", STATE_CONFIG), facts.into());
    }
    seen
}

fn pass(world: &World, modes: &mut Modes, now: Instant) -> Work {
    work(world, &settings(), ROOTS, modes, now)
}

fn written(work: &Work) -> Vec<&str> {
    work.meshes.iter().map(|mesh| mesh.namespace.as_str()).collect()
}

#[test]
fn members_and_whoever_has_sidecars_get_membership_and_then_nothing_is_written() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let world = moving().world();
    let first = pass(&world, &mut modes, now);
    assert_eq!(written(&first), ["data", "left", "shop"]);
    assert!(
        first.meshes[0].yaml.contains("mode: strict\n")
            && first.meshes[2].yaml.contains("mode: permissive\n")
    );
    assert_eq!(first.state.as_deref(), Some("[]\n"));
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
    let edits: [fn(&mut ConfigMapFacts); 4] = [
        |map| map.labelled = false,
        |map| *map.data.get_mut("weft.yaml").unwrap() ^= 1,
        |map| assert!(map.data.remove("root.pem").is_some()),
        |map| assert!(map.data.insert("more".to_owned(), 1).is_none()),
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
    assert!(work(&moving().world(), &settings(), "", &mut modes, now).meshes.is_empty());
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
    assert_eq!(then.state.as_deref(), Some("- shop/orders\n"));
    assert_eq!(written(&then), ["data", "left", "shop"]);
    assert!(then.meshes.iter().all(|mesh| mesh.yaml.contains("modes: []")));
    assert!(then.notices.iter().any(|notice| notice.reason == "BecameStrict" && !notice.warning));
    assert_eq!(then.figures.services["strict"], 1);
}

#[test]
fn membership_that_no_config_map_holds_is_told_and_not_written() {
    let (mut modes, now) = (Modes::default(), Instant::now());
    let mut draft = moving();
    for number in 0..9000 {
        draft = draft.service("shop", &format!("service-{number}"), no_change);
    }
    let found = pass(&draft.world(), &mut modes, now);
    assert!(found.meshes.is_empty() && found.remove_meshes.is_empty());
    assert!(found.notices.iter().any(|notice| notice.reason == "MembershipTooLarge"));
}

#[test]
fn figures_are_told_for_members_without_slips_too() {
    let world = moving()
        .pod("shop", "bare", "10.0.0.9", false, |_: &mut PodFacts| {})
        .service("shop", "off", |service: &mut ServiceFacts| service.mode = Some(MtlsMode::Disable))
        .world();
    let found = pass(&world, &mut Modes::default(), Instant::now()).figures;
    assert_eq!(found.uninjected, [("data".to_owned(), 0), ("shop".to_owned(), 1)].into());
    assert_eq!(found.injected, [("left".to_owned(), 1), ("shop".to_owned(), 1)].into());
    assert_eq!(found.services["disable"], 1);
}
