use std::sync::Arc;

use super::super::facts::{ConfigMapFacts, Inject};
use super::super::world::tests::{Draft, no_change};
use super::*;

const ON: RecreateSettings = RecreateSettings {
    enabled: true,
    per_minute: 5,
    grace_seconds: 120,
    tries: 3,
    delete_empty_dir_data: false,
};

fn deployment(name: &str) -> Option<Maker> {
    Some(Maker { kind: "Deployment".to_owned(), name: name.to_owned() })
}

/// A cluster that is looked at again and again.
struct Sim {
    recreation: Recreation,
    settings: RecreateSettings,
    pods: BTreeMap<Key, PodFacts>,
    /// Namespaces with their `weft-mesh`.
    meshes: Vec<&'static str>,
    injector: bool,
    made: usize,
}

impl Sim {
    fn new() -> Self {
        Self {
            recreation: Recreation::default(),
            settings: ON,
            pods: BTreeMap::new(),
            meshes: vec!["shop", "data"],
            injector: true,
            made: 0,
        }
    }

    /// A ready pod of `workload`; its uid.
    fn pod(&mut self, namespace: &str, workload: &str, injected: bool) -> String {
        self.made += 1;
        let uid = format!("u{}", self.made);
        let facts = PodFacts {
            uid: uid.clone(),
            ready: true,
            injected,
            maker: deployment(workload),
            ..PodFacts::default()
        };
        self.pods.insert(Key::new(namespace, format!("{workload}-{}", self.made)), facts);
        uid
    }

    fn change(&mut self, uid: &str, change: impl FnOnce(&mut PodFacts)) {
        change(self.pods.values_mut().find(|pod| pod.uid == uid).unwrap());
    }

    fn remove(&mut self, uid: &str) {
        self.pods.retain(|_, pod| pod.uid != uid);
    }

    fn world(&self) -> World {
        let mut draft = Draft::default()
            .namespace("shop", Inject::Enabled, None)
            .namespace("data", Inject::Enabled, None)
            .namespace("weft-system", Inject::Unsaid, None)
            .service("weft-system", "weft-injector", no_change)
            .pod("weft-system", "weft-injector", "10.9.0.1", false, |pod| pod.ready = self.injector);
        for namespace in &self.meshes {
            let key = Key::new(*namespace, MESH_CONFIG);
            draft.0.meshes.insert(key, Arc::new(ConfigMapFacts::default()));
        }
        draft.0.pods.extend(self.pods.iter().map(|(key, pod)| (key.clone(), Arc::new(pod.clone()))));
        draft.world()
    }

    fn plan(&mut self) -> Plan {
        let world = self.world();
        self.recreation.plan(&world, &self.settings, Instant::now())
    }

    /// Passes as the controller makes them, when it is woken, until there is an order or `limit` is over.
    async fn order_within(&mut self, limit: Duration) -> Option<Order> {
        let end = Instant::now() + limit;
        loop {
            let plan = self.plan();
            if plan.order.is_some() {
                return plan.order;
            }
            let wake = plan.wake.filter(|wake| *wake <= end);
            tokio::time::sleep_until(wake.unwrap_or(end)).await;
            wake?;
        }
    }

    async fn order(&mut self) -> Order {
        self.order_within(Duration::from_secs(3_600)).await.expect("an order within the hour")
    }

    fn answer(&mut self, order: Order, answer: &Answer) -> Option<Notice> {
        self.recreation.answered(order, answer, &self.settings, Instant::now())
    }

    /// The pod goes, and another comes.
    fn replace(&mut self, order: Order, injected: bool) -> String {
        let (namespace, maker) = order.id.clone();
        self.remove(&order.uid);
        let notice = self.answer(order, &Answer::Evicted).unwrap();
        assert_eq!((notice.reason, notice.warning), ("SidecarRecreate", false));
        self.pod(&namespace, &maker.name, injected)
    }
}

#[test]
#[expect(clippy::type_complexity, reason = "a table")]
fn who_is_left_where_it_is() {
    let of = |kind: &'static str| {
        move |pod: &mut PodFacts| pod.maker = Some(Maker { kind: kind.to_owned(), name: "a".to_owned() })
    };
    let changes: [(&dyn Fn(&mut PodFacts), Option<Kept>); 9] = [
        (&no_change, Some(Kept::Bare)),
        (&of("ReplicaSet"), None),
        (&of("StatefulSet"), None),
        (&of("AnotherKind"), None),
        (&of("Node"), Some(Kept::Bare)),
        (&of("DaemonSet"), Some(Kept::DaemonSet)),
        (&of("Job"), Some(Kept::Job)),
        (
            &|pod| {
                of("Deployment")(pod);
                pod.local_data = true;
            },
            Some(Kept::LocalData),
        ),
        (
            &|pod| {
                of("Deployment")(pod);
                pod.stays = true;
            },
            Some(Kept::Stays),
        ),
    ];
    for (change, expected) in changes {
        let mut pod = PodFacts::default();
        change(&mut pod);
        assert_eq!(kept(&pod, &ON), expected, "{pod:?}");
        let with_data = RecreateSettings { delete_empty_dir_data: true, ..ON };
        assert_eq!(kept(&pod, &with_data), expected.filter(|kept| *kept != Kept::LocalData), "{pod:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_evicted_after_its_grace_and_once_the_injector_is_settled() {
    for (grace, expected) in [(120, 120), (10, 30)] {
        let mut sim = Sim::new();
        sim.settings.grace_seconds = grace;
        let uid = sim.pod("shop", "web", false);
        sim.pod("shop", "fine", true);
        let begun = Instant::now();
        let order = sim.order().await;
        assert_eq!((order.uid.as_str(), begun.elapsed().as_secs()), (uid.as_str(), expected));
        // While that is under way nothing else is.
        sim.pod("shop", "other", false);
        assert_eq!(sim.order_within(Duration::from_secs(3_600)).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_where_a_replacement_could_not_start() {
    let changes: [&dyn Fn(&mut Sim); 6] = [
        &|sim| sim.settings.enabled = false,
        &|sim| sim.injector = false,
        &|sim| sim.meshes.retain(|namespace| *namespace != "shop"),
        &|sim| sim.change("u1", |pod| pod.maker = None),
        &|sim| sim.change("u1", |pod| pod.finished = true),
        &|sim| sim.change("u1", |pod| pod.ending = true),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut sim = Sim::new();
        sim.pod("shop", "web", false);
        change(&mut sim);
        assert_eq!(sim.order_within(Duration::from_secs(86_400)).await, None, "{number}");
        assert_eq!(sim.plan().notices.len(), usize::from(number == 1), "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_workload_the_next_goes_when_the_replacement_is_ready() {
    let mut sim = Sim::new();
    for _ in 0..3 {
        sim.pod("shop", "web", false);
    }
    let order = sim.order().await;
    let day = Duration::from_secs(86_400);
    assert!(sim.answer(order.clone(), &Answer::Evicted).is_some());
    // It is seen later that the pod is ending, and then gone.
    assert_eq!(sim.order_within(day).await, None);
    sim.change(&order.uid, |pod| pod.ending = true);
    assert_eq!(sim.order_within(day).await, None);
    sim.remove(&order.uid);
    assert_eq!(sim.order_within(day).await, None, "one is missing");
    let new = sim.pod("shop", "web", true);
    sim.change(&new, |pod| pod.ready = false);
    assert_eq!(sim.order_within(day).await, None, "one is not ready");
    sim.change(&new, |pod| pod.ready = true);
    let second = sim.order().await;
    assert_ne!(second.uid, order.uid);
    assert_eq!(second.tries, 1, "the one before was no failure");
}

#[tokio::test(start_paused = true)]
async fn a_ready_pod_stays_while_another_is_not_and_one_that_is_not_ready_goes_first() {
    let mut sim = Sim::new();
    sim.pod("shop", "web", false);
    let sick = sim.pod("shop", "web", false);
    let other = sim.pod("shop", "web", true);
    sim.change(&other, |pod| pod.ready = false);
    assert_eq!(sim.order_within(Duration::from_secs(3_600)).await, None);
    sim.change(&other, |pod| pod.ready = true);
    sim.change(&sick, |pod| pod.ready = false);
    assert_eq!(sim.order().await.uid, sick);

    // Where none of them is ready (callers refuse them, say), they are made anew all the same, one by one.
    let mut sim = Sim::new();
    for _ in 0..2 {
        let uid = sim.pod("shop", "web", false);
        sim.change(&uid, |pod| pod.ready = false);
    }
    let order = sim.order().await;
    let new = sim.replace(order, true);
    sim.change(&new, |pod| pod.ready = false);
    assert_eq!(sim.order_within(Duration::from_secs(3_600)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_asked_ever_more_rarely_and_told_of_once() {
    let mut sim = Sim::new();
    let uid = sim.pod("shop", "web", false);
    let refused =
        Answer::Refused("Cannot evict pod as it would violate the pod's disruption budget.".to_owned());
    let mut asked = Vec::new();
    let mut told = 0;
    for _ in 0..12 {
        let order = sim.order().await;
        assert_eq!((order.uid.as_str(), order.tries), (uid.as_str(), 1));
        asked.push(Instant::now());
        let notice = sim.answer(order, &refused);
        told += usize::from(notice.is_some_and(|notice| notice.reason == "SidecarRecreateWaits"));
    }
    assert_eq!(told, 1);
    let pauses: Vec<u64> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1800, 1800, 1800, 1800, 1800]);
    // Nobody else waits for that.
    sim.pod("shop", "other", false);
    assert_eq!(sim.order_within(Duration::from_secs(130)).await.unwrap().id.1.name, "other");
    assert!(sim.plan().given_up.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_workload_whose_new_pods_slip_by_too_is_given_up() {
    let mut sim = Sim::new();
    sim.pod("shop", "web", false);
    let mut gave_up = 0;
    for number in 1..=3 {
        let order = sim.order().await;
        assert_eq!(order.tries, number);
        sim.replace(order, false);
        gave_up += sim.plan().gave_up;
    }
    assert_eq!(gave_up, 1);
    assert_eq!(sim.order_within(Duration::from_secs(30 * 86_400)).await, None);
    let plan = sim.plan();
    assert_eq!((plan.given_up.len(), plan.gave_up), (1, 0));
    // Somebody restarts it, and that helps: what is left is as any other.
    sim.pod("shop", "web", true);
    let plan = sim.plan();
    assert!(plan.given_up.is_empty());
    assert_eq!(plan.order.unwrap().tries, 1);
}

#[tokio::test(start_paused = true)]
async fn another_leader_knows_who_is_given_up() {
    let mut sim = Sim::new();
    let told = sim.pod("shop", "web", false);
    sim.pod("shop", "web", false);
    sim.pod("shop", "web", true);
    sim.change(&told, |pod| pod.reported = Some(Reported::GivenUp));
    assert_eq!(sim.plan().gave_up, 0, "not counted twice");
    assert_eq!(sim.order_within(Duration::from_secs(86_400)).await, None);
    assert_eq!(sim.plan().given_up.len(), 1);
    sim.pod("shop", "web", true);
    // Its condition is taken back by a write that is still to come.
    let plan = sim.plan();
    assert!(plan.given_up.is_empty() && plan.order.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_injector_has_to_be_there() {
    let mut sim = Sim::new();
    sim.pod("shop", "web", false);
    sim.injector = false;
    assert_eq!(sim.order_within(Duration::from_secs(600)).await, None);
    assert_eq!(sim.plan().notices[0].reason, "SidecarRecreateHeld");
    sim.injector = true;
    let begun = Instant::now();
    let order = sim.order().await;
    assert_eq!(begun.elapsed(), SETTLED);
    // The API server would not call it: looked at again, and told while it lasts.
    assert_eq!(sim.answer(order, &Answer::NotReady("the webhook is gone".to_owned())), None);
    assert!(sim.plan().notices[0].note.contains("the webhook is gone"));
    let begun = Instant::now();
    let order = sim.order().await;
    assert_eq!((begun.elapsed(), order.tries), (SETTLED, 1));
    sim.answer(order, &Answer::Gone);
    assert!(sim.plan().notices.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_counts_unless_the_pod_stays() {
    let lost = Answer::Unsure("no answer".to_owned());
    let mut sim = Sim::new();
    sim.pod("shop", "web", false);
    for _ in 0..10 {
        let order = sim.order().await;
        assert_eq!(order.tries, 1, "it was never evicted");
        assert_eq!(sim.answer(order, &lost), None);
        let begun = Instant::now();
        assert_eq!(sim.order_within(DOUBT - Duration::from_secs(1)).await, None);
        assert!(begun.elapsed() >= DOUBT - Duration::from_secs(1));
    }
    // It is always evicted, and nobody is ever told: that ends too.
    let mut evicted = 0;
    while let Some(order) = sim.order_within(Duration::from_secs(86_400)).await {
        evicted += 1;
        assert!(evicted <= 3);
        sim.remove(&order.uid);
        sim.answer(order, &lost);
        sim.pod("shop", "web", false);
    }
    assert_eq!((evicted, sim.plan().given_up.len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn evictions_have_a_pace_and_namespaces_their_turn() {
    let mut sim = Sim::new();
    for number in 0..100 {
        sim.pod("data", &format!("w{number:03}"), false);
    }
    sim.pod("shop", "web", false);
    let mut order_of = Vec::new();
    let begun = Instant::now();
    for _ in 0..11 {
        let order = sim.order().await;
        order_of.push(order.id.0.clone());
        sim.replace(order, true);
    }
    assert!(order_of[..2].contains(&"shop".to_owned()), "{order_of:?}");
    // Ten pauses of a fifth of a minute, after the grace.
    assert_eq!(begun.elapsed(), Duration::from_secs(120 + 10 * 12));
}

/// A cluster that does what it likes: whatever happens, the promises hold.
#[tokio::test(start_paused = true)]
async fn promises_hold_in_any_cluster() {
    for seed in 0..40_u64 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut sim = Sim::new();
        sim.settings.per_minute = dice.u32(1..=60);
        let workloads: Vec<String> = (0..dice.usize(1..6)).map(|number| format!("w{number}")).collect();
        for workload in &workloads {
            (0..dice.usize(1..5)).for_each(|_| drop(sim.pod("shop", workload, false)));
        }
        // Pods that are to be made, by workload; evictions since one of it was injected; when.
        let mut owed: Vec<String> = Vec::new();
        let mut failed: BTreeMap<String, u32> = BTreeMap::new();
        let mut asked: Vec<Instant> = Vec::new();
        for _ in 0..400 {
            sim.injector = dice.u8(..20) > 0;
            if let Some(order) = sim.plan().order {
                let workload = order.id.1.name.clone();
                let told = |what: &str| format!("{what}: {workload}, WEFT seed {seed}");
                let others = sim
                    .pods
                    .values()
                    .filter(|pod| pod.maker == deployment(&workload) && pod.uid != order.uid);
                let taken = sim.pods.values().find(|pod| pod.uid == order.uid).is_some_and(|pod| pod.ready);
                let mut unready = others.filter(|pod| !pod.ready || pod.ending);
                // One that serves nobody takes nothing away, and waits for those with a sidecar only.
                assert!(unready.all(|pod| !taken && !pod.injected), "{}", told("unready"));
                assert!(!owed.contains(&workload), "{}", told("one is missing"));
                assert!(sim.injector, "{}", told("no injector"));
                asked.push(Instant::now());
                match dice.u8(..6) {
                    0 => drop(sim.answer(order, &Answer::Refused("a budget".to_owned()))),
                    1 => drop(sim.answer(order, &Answer::Gone)),
                    2 => drop(sim.answer(order, &Answer::NotReady("x".to_owned()))),
                    3 if dice.bool() => drop(sim.answer(order, &Answer::Unsure("lost".to_owned()))),
                    lost => {
                        *failed.entry(workload.clone()).or_default() += 1;
                        assert!(failed[&workload] <= sim.settings.tries, "{}", told("a loop"));
                        sim.remove(&order.uid);
                        owed.push(workload);
                        let answer =
                            if lost == 3 { Answer::Unsure("lost".to_owned()) } else { Answer::Evicted };
                        drop(sim.answer(order, &answer));
                    }
                }
            }
            if !owed.is_empty() && dice.bool() {
                let workload = owed.swap_remove(dice.usize(..owed.len()));
                let injected = dice.u8(..3) == 0;
                let uid = sim.pod("shop", &workload, injected);
                sim.change(&uid, |pod| pod.ready = false);
                if injected {
                    failed.remove(&workload);
                }
            }
            for pod in sim.pods.values_mut().filter(|pod| !pod.ready) {
                pod.ready = dice.bool();
            }
            tokio::time::advance(Duration::from_secs(dice.u64(1..40))).await;
        }
        let pace = Duration::from_secs(60) / sim.settings.per_minute;
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= pace), "WEFT seed {seed}");
        assert!(!asked.is_empty(), "WEFT seed {seed}");
    }
}
