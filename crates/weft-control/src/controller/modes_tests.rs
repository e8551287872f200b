use std::sync::Arc;

use proptest::prelude::*;

use super::super::world::tests::{Draft, no_change};
use super::*;

const MESHED: Pods = Pods { all: 2, meshed: 2, ready: 1 };
const HALF: Pods = Pods { all: 2, meshed: 1, ready: 2 };
const NONE: Pods = Pods { all: 0, meshed: 0, ready: 0 };

fn orders() -> Key {
    Key::new("shop", "orders")
}

/// One look at one Service; whether it is strict afterwards.
fn look(modes: &mut Modes, pods: Pods) -> (bool, Option<Instant>) {
    look_at(modes, pods, "1", false)
}

fn look_at(modes: &mut Modes, pods: Pods, uid: &str, inbound_strict: bool) -> (bool, Option<Instant>) {
    let key = orders();
    let seen = Observed { key: &key, uid, pods, inbound_strict };
    let (due, next) = modes.observe(Instant::now(), std::iter::once(seen));
    modes.confirm(&due, BTreeSet::new());
    (modes.towards(&seen, None) == MtlsMode::Strict, next)
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn thirty_seconds_without_a_break_make_strict() {
    let mut modes = Modes::default();
    let start = Instant::now();
    assert_eq!(look(&mut modes, MESHED), (false, Some(start + SETTLING)));
    pass(29).await;
    assert_eq!(look(&mut modes, MESHED), (false, Some(start + SETTLING)));
    pass(1).await;
    assert_eq!(look(&mut modes, MESHED), (true, None));
}

#[tokio::test(start_paused = true)]
async fn a_break_begins_the_time_anew() {
    for broken in [HALF, NONE] {
        let mut modes = Modes::default();
        look(&mut modes, MESHED);
        pass(29).await;
        assert_eq!(look(&mut modes, broken), (false, None));
        pass(1).await;
        assert!(!look(&mut modes, MESHED).0);
        pass(29).await;
        assert!(!look(&mut modes, MESHED).0);
        pass(1).await;
        assert!(look(&mut modes, MESHED).0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_ready_pod_is_needed_once() {
    let mut modes = Modes::default();
    let unready = Pods { ready: 0, ..MESHED };
    assert_eq!(look(&mut modes, unready), (false, None));
    pass(100).await;
    assert_eq!(look(&mut modes, unready), (false, None));
    assert_eq!(look(&mut modes, MESHED), (true, None));
}

#[tokio::test(start_paused = true)]
async fn strict_outlives_bare_pods_no_pods_and_the_leader() {
    let mut modes = Modes::default();
    look(&mut modes, MESHED);
    pass(30).await;
    assert!(look(&mut modes, MESHED).0);
    for pods in [HALF, NONE, Pods { all: 1, meshed: 0, ready: 1 }] {
        pass(1000).await;
        assert!(look(&mut modes, pods).0);
    }
    // The next leader reads what this one wrote.
    let text = write(modes.strict());
    assert_eq!(text, "- shop/orders\n");
    let mut next = Modes::remembering(read(&text).unwrap(), BTreeSet::new());
    assert!(look(&mut next, HALF).0);
}

fn shop() -> Draft {
    Draft::default().namespace("shop", Inject::Enabled, None).service("shop", "orders", no_change)
}

fn remembered() -> Modes {
    Modes::remembering([orders()].into(), BTreeSet::new())
}

#[test]
fn a_service_that_was_deleted_is_forgotten_even_unseen() {
    let mut modes = remembered();
    modes.settle(&shop().world());
    assert!(modes.is_strict(&orders()));
    let mut gone = modes.clone();
    gone.settle(&Draft::default().namespace("shop", Inject::Enabled, None).world());
    assert!(!gone.is_strict(&orders()));
    // Deleted and made again between two looks.
    modes.settle(&shop().service("shop", "orders", |service| service.uid = "another".to_owned()).world());
    assert!(!modes.is_strict(&orders()));
}

#[test]
fn a_new_leader_forgets_nothing_that_it_has_never_seen() {
    // Its watch is late: the Service is there, but not in what it sees.
    let mut modes = remembered();
    let late = || Draft::default().namespace("shop", Inject::Enabled, None).world();
    modes.settle(&late());
    modes.settle(&late());
    assert_eq!(modes.unseen().collect::<Vec<_>>(), [&orders()]);
    modes.settle(&shop().world());
    assert!(modes.is_strict(&orders()) && modes.unseen().next().is_none());
    // Only the API server's own word, or what it has seen itself, ends it.
    let mut modes = remembered();
    modes.gone(&orders());
    assert!(!modes.is_strict(&orders()));
}

#[test]
fn strict_outlives_what_is_scaled_to_zero_also_where_pods_alone_ask_for_sidecars() {
    let asking = |pod: &mut PodFacts| pod.inject = Inject::Enabled;
    let data =
        || Draft::default().namespace("shop", Inject::Unsaid, None).service("shop", "orders", no_change);
    let mut modes = remembered();
    modes.settle(&data().pod("shop", "orders", "10.0.0.1", true, asking).world());
    assert!(modes.by_pods().contains("shop"));
    // No pod, and no pod that asks: it stays strict, and the namespace a member.
    let mut world = data().pod("shop", "orders", "10.0.0.2", false, no_change).world();
    modes.settle(&world);
    assert!(world.members.is_empty());
    world.keep(modes.by_pods());
    assert!(modes.is_strict(&orders()) && world.members.contains("shop"));
    // The next leader knows it too.
    let text = (write(modes.strict()), write_namespaces(modes.by_pods().iter()));
    let mut next = Modes::remembering(read(&text.0).unwrap(), read_namespaces(&text.1).unwrap());
    next.settle(&data().world());
    assert!(next.is_strict(&orders()));
    // People end it, by label.
    let mut out = data();
    Arc::make_mut(out.0.namespaces.get_mut(&Key::new("", "shop")).unwrap()).inject = Inject::Disabled;
    next.settle(&out.world());
    assert!(!next.is_strict(&orders()) && next.by_pods().is_empty());
}

#[test]
fn a_label_that_is_taken_away_ends_what_was_remembered() {
    let mut modes = remembered();
    modes.settle(&shop().world());
    let mut out = shop();
    Arc::make_mut(out.0.namespaces.get_mut(&Key::new("", "shop")).unwrap()).inject = Inject::Unsaid;
    modes.settle(&out.world());
    assert!(!modes.is_strict(&orders()));
}

#[test]
fn what_a_service_of_the_mesh_becomes_meanwhile_is_no_end() {
    let changes: [fn(&mut ServiceFacts); 4] = [
        |service| service.mesh_disabled = true,
        |service| service.selector.clear(),
        |service| service.mode = Some(MtlsMode::Permissive),
        |service| service.oversized = true,
    ];
    for change in changes {
        let mut modes = remembered();
        modes.settle(&shop().world());
        modes.settle(&shop().service("shop", "orders", change).world());
        modes.settle(&shop().world());
        assert!(modes.is_strict(&orders()));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_due_is_strict_only_once_it_is_written_down() {
    let mut modes = Modes::default();
    let key = orders();
    let seen = Observed { key: &key, uid: "1", pods: MESHED, inbound_strict: false };
    modes.observe(Instant::now(), std::iter::once(seen));
    pass(30).await;
    for _ in 0..3 {
        let (due, next) = modes.observe(Instant::now(), std::iter::once(seen));
        assert_eq!((due, next), (vec![orders()], None));
        assert_eq!(modes.towards(&seen, None), MtlsMode::Permissive);
    }
    modes.confirm(&[orders()], BTreeSet::new());
    assert_eq!(modes.towards(&seen, None), MtlsMode::Strict);
}

#[tokio::test(start_paused = true)]
async fn where_pods_refuse_plaintext_anyway_nothing_is_waited_for() {
    let mut modes = Modes::default();
    // Not a pod yet, and so nobody who would need plaintext; but nothing to remember either.
    assert!(look_at(&mut modes, NONE, "1", true).0);
    assert!(!modes.is_strict(&orders()));
    assert!(!look_at(&mut modes, HALF, "1", true).0);
    assert!(look_at(&mut modes, MESHED, "1", true).0);
    assert!(modes.is_strict(&orders()));
}

#[test]
fn the_annotation_wins_both_ways() {
    let key = orders();
    let seen = Observed { key: &key, uid: "1", pods: HALF, inbound_strict: false };
    let strict = remembered();
    assert_eq!(strict.towards(&seen, Some(MtlsMode::Permissive)), MtlsMode::Permissive);
    assert_eq!(strict.towards(&seen, Some(MtlsMode::Disable)), MtlsMode::Disable);
    assert_eq!(Modes::default().towards(&seen, Some(MtlsMode::Strict)), MtlsMode::Strict);
    assert_eq!(Modes::default().towards(&seen, None), MtlsMode::Permissive);
}

#[test]
fn what_is_remembered_is_read_back_and_what_cannot_be_read_is_refused() {
    let keys: BTreeSet<Key> = [Key::new("b", "x"), Key::new("a", "1"), Key::new("a", "0x1")].into();
    let text = write(keys.iter());
    assert_eq!(text, "- a/0x1\n- a/1\n- b/x\n");
    assert_eq!(read(&text).unwrap(), keys);
    assert_eq!(read(&write(std::iter::empty())).unwrap(), BTreeSet::new());
    for bad in ["- shop", "- shop/", "- a/b/c", "shop/orders: 1", "- [a]", "- a\n  b: ["] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

/// A step of a history: time that passes, and the pods that are seen then; or a change of leader.
#[derive(Clone, Debug)]
enum Turn {
    Pods(u64, Pods, bool),
    Leader,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let pods = (0usize..4, 0usize..4, 0usize..4).prop_map(|(all, meshed, ready)| Pods {
        all,
        meshed: meshed.min(all),
        ready: ready.min(all),
    });
    let meshed = (1usize..4).prop_map(|all| Pods { all, meshed: all, ready: 1 });
    let seen = (0u64..40, prop_oneof![pods, meshed], any::<bool>()).prop_map(|(t, p, s)| Turn::Pods(t, p, s));
    proptest::collection::vec(prop_oneof![8 => seen, 1 => Just(Turn::Leader)], 1..60)
}

proptest! {
    /// Whatever happens to the pods: once remembered, always strict; and never remembered before all pods had a
    /// sidecar for the whole time, by a naive model that looks at the whole history.
    #[test]
    fn strict_stays_and_never_comes_early(turns in turns()) {
        let mut modes = Modes::default();
        let mut now = Instant::now();
        let mut was_strict = false;
        // Since the last break or change of leader: when, and whether a pod was ready.
        let mut whole: Option<(Instant, bool)> = None;
        for turn in turns {
            match turn {
                Turn::Leader => {
                    modes = Modes::remembering(read(&write(modes.strict())).unwrap(), BTreeSet::new());
                    whole = None;
                }
                Turn::Pods(seconds, pods, inbound_strict) => {
                    now += Duration::from_secs(seconds);
                    let key = orders();
                    let seen = Observed { key: &key, uid: "1", pods, inbound_strict };
                    let (due, _) = modes.observe(now, std::iter::once(seen));
                    modes.confirm(&due, BTreeSet::new());
                    whole = match whole {
                        _ if pods.all == 0 || pods.meshed < pods.all => None,
                        None => Some((now, pods.ready > 0)),
                        Some((since, ready)) => Some((since, ready || pods.ready > 0)),
                    };
                    let may = whole.is_some_and(|(since, ready)| ready && (inbound_strict || now - since >= SETTLING));
                    let strict = modes.is_strict(&key);
                    prop_assert_eq!(strict, was_strict || may);
                    was_strict = strict;
                    if strict {
                        prop_assert_eq!(modes.towards(&seen, None), MtlsMode::Strict);
                    }
                }
            }
        }
    }
}

/// What may happen around one Service, whose object and settings stay as they are.
#[derive(Clone, Debug)]
enum Event {
    /// Pods: with a sidecar, without, and whether those ask for one by their own label.
    Pods { meshed: u8, bare: u8, asking: bool, ready: bool },
    /// Another leader, which reads what was written; its watch may be late for so many looks.
    Leader { late: u8 },
    /// Other Services come and go.
    Others(u8),
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let pods = (0u8..3, 0u8..3, any::<bool>(), any::<bool>())
        .prop_map(|(meshed, bare, asking, ready)| Event::Pods { meshed, bare, asking, ready });
    let leader = (0u8..3).prop_map(|late| Event::Leader { late });
    let event = prop_oneof![6 => pods, 2 => leader, 1 => (0u8..5).prop_map(Event::Others)];
    proptest::collection::vec((0u64..60, event), 1..60)
}

/// The world as it is, or as a leader sees it whose watch of Services is late.
fn seen_now(by_label: bool, pods: (u8, u8, bool, bool), others: u8, late: bool) -> World {
    let inject = if by_label { Inject::Enabled } else { Inject::Unsaid };
    let mut draft = Draft::default().namespace("shop", inject, None);
    if !late {
        draft = draft.service("shop", "orders", no_change);
    }
    for other in 0..others {
        draft = draft.service("shop", &format!("other-{other}"), no_change);
    }
    let (meshed, bare, asking, ready) = pods;
    for pod in 0..meshed + bare {
        draft = draft.pod("shop", "orders", &format!("10.0.0.{pod}"), pod < meshed, |facts| {
            facts.ready = ready;
            facts.inject = if asking { Inject::Enabled } else { Inject::Unsaid };
        });
    }
    draft.world()
}

proptest! {
    /// While a Service lives and nobody changes its settings, no sequence of pods, leaders and late watches makes it
    /// less than strict, nor its namespace one that clients call in plaintext.
    #[test]
    fn strict_lives_as_long_as_the_service(by_label in any::<bool>(), events in events()) {
        let mut modes = Modes::default();
        let mut now = Instant::now();
        let (mut pods, mut others, mut late) = ((0, 0, false, false), 0, 0u8);
        let mut was_strict = false;
        for (seconds, event) in events {
            now += Duration::from_secs(seconds);
            match event {
                Event::Pods { meshed, bare, asking, ready } => pods = (meshed, bare, asking, ready),
                Event::Others(count) => others = count,
                Event::Leader { late: looks } => {
                    let text = (write(modes.strict()), write_namespaces(modes.by_pods().iter()));
                    modes = Modes::remembering(read(&text.0).unwrap(), read_namespaces(&text.1).unwrap());
                    late = looks;
                }
            }
            let mut world = seen_now(by_label, pods, others, late > 0);
            late = late.saturating_sub(1);
            modes.settle(&world);
            world.keep(modes.by_pods());
            let looks = super::super::budget::look(&world);
            let recall = super::super::memory::recall(&world, &looks, &mut modes, now);
            modes.confirm(&recall.due, recall.by_pods);
            let strict = modes.is_strict(&orders());
            prop_assert!(strict || !was_strict, "{by_label}");
            was_strict = strict;
            if strict {
                prop_assert!(world.members.contains("shop"));
                if let Some(look) = looks.mesh.iter().find(|look| *look.key == orders()) {
                    prop_assert_eq!(modes.towards(&look.seen, None), MtlsMode::Strict);
                }
            }
        }
    }
}
