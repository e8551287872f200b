use proptest::prelude::*;

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
    let (_, next) = modes.observe(Instant::now(), std::iter::once(seen));
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
    let mut next = Modes::remembering(read(&text).unwrap());
    assert!(look(&mut next, HALF).0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_deleted_is_forgotten_even_unseen() {
    let strict = || Modes::remembering([orders()].into());
    let mut modes = strict();
    modes.observe(Instant::now(), std::iter::empty());
    assert!(!look(&mut modes, MESHED).0);
    // Deleted and made again between two looks.
    let mut modes = strict();
    assert!(look_at(&mut modes, HALF, "1", false).0);
    assert!(!look_at(&mut modes, HALF, "2", false).0);
    let mut modes = Modes::default();
    look_at(&mut modes, MESHED, "1", false);
    pass(30).await;
    assert!(!look_at(&mut modes, MESHED, "2", false).0);
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
    let strict = Modes::remembering([orders()].into());
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
                    modes = Modes::remembering(read(&write(modes.strict())).unwrap());
                    whole = None;
                }
                Turn::Pods(seconds, pods, inbound_strict) => {
                    now += Duration::from_secs(seconds);
                    let key = orders();
                    let seen = Observed { key: &key, uid: "1", pods, inbound_strict };
                    modes.observe(now, std::iter::once(seen));
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
