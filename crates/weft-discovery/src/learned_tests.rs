use std::sync::Arc;

use proptest::prelude::*;
use weft_core::MtlsMode;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const TTL: Duration = Duration::from_secs(30);

fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn known(learned: &Learned, address: &str, now: Instant) -> Option<String> {
    learned.name_of(ip(address), now).map(|named| named.name.to_string())
}

/// `service.namespace.mesh` is inside, permissive for the service `soft`; `.late` is inside from version 1 on.
#[derive(Clone, Default)]
struct Mesh(Arc<AtomicU64>);

impl Judge for Mesh {
    fn version(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn standing(&self, name: &DnsName) -> Standing {
        let labels: Vec<&str> = name.labels().collect();
        let (service, namespace) = match labels[..] {
            [service, namespace, "mesh"] => (service, namespace),
            [service, namespace, "late"] if self.version() > 0 => (service, namespace),
            _ => return Standing::Outside,
        };
        let mode = if service == "soft" { MtlsMode::Permissive } else { MtlsMode::Strict };
        Standing::Inside { mode, namespace: namespace.parse().unwrap() }
    }
}

fn judged(capacity: usize) -> Learned {
    let learned = Learned::new(capacity, HOUR);
    learned.judge_by(Mesh::default());
    learned
}

#[tokio::test(start_paused = true)]
async fn the_latest_name_wins_and_older_ones_come_back_when_it_runs_out() {
    let learned = Learned::new(100, HOUR);
    let start = Instant::now();
    learned.remember(&name("a.x"), &[ip("10.0.0.1")], 3 * HOUR, start);
    learned.remember(&name("b.x"), &[ip("::ffff:10.0.0.1")], TTL, start);
    assert_eq!(known(&learned, "10.0.0.1", start).as_deref(), Some("b.x"));
    assert_eq!(known(&learned, "10.0.0.1", start + 2 * HOUR).as_deref(), Some("a.x"));
    assert_eq!(known(&learned, "10.0.0.1", start + 5 * HOUR), None);
    assert_eq!(known(&learned, "10.0.0.2", start), None);
}

#[tokio::test(start_paused = true)]
async fn a_name_of_lower_rank_neither_covers_nor_pushes_out_another() {
    let learned = judged(100);
    let now = Instant::now();
    let others = |text: &str| {
        for i in 0..2 * NAMES_PER_ADDRESS {
            learned.remember(&name(&format!("{text}{i}")), &[ip("10.0.0.1")], TTL, now);
        }
    };
    others("evil.x");
    let found = learned.name_of(ip("10.0.0.1"), now).unwrap();
    assert_eq!((found.name, found.outside), (name("evil.x7"), true));
    learned.remember(&name("soft.shop.mesh"), &[ip("10.0.0.1")], TTL, now);
    others("more.x");
    let found = learned.name_of(ip("10.0.0.1"), now).unwrap();
    assert_eq!((found.name, found.outside), (name("soft.shop.mesh"), false));
    learned.remember(&name("a.shop.mesh"), &[ip("10.0.0.1")], TTL, now);
    for i in 0..NAMES_PER_ADDRESS {
        learned.remember(&name(&format!("soft.n{i}.mesh")), &[ip("10.0.0.1")], TTL, now);
    }
    others("last.x");
    assert_eq!(known(&learned, "10.0.0.1", now).as_deref(), Some("a.shop.mesh"));
}

/// Ten look-ups of names with 4,000 addresses each: more than the whole store has room for.
#[tokio::test(start_paused = true)]
async fn answers_of_thousands_push_out_nothing() {
    let learned = judged(16_384);
    let now = Instant::now();
    learned.remember(&name("orders.shop.mesh"), &[ip("10.0.0.1")], TTL, now);
    learned.remember(&name("friend.x"), &[ip("10.0.0.2")], TTL, now);
    for i in 0..10_u32 {
        let all: Vec<IpAddr> =
            (0..4000).map(|n| IpAddr::from((0xc000_0000 + i * 4000 + n).to_be_bytes())).collect();
        learned.remember(&name(&format!("evil{i}.x")), &all, TTL, now);
    }
    assert_eq!(known(&learned, "10.0.0.1", now).as_deref(), Some("orders.shop.mesh"));
    assert_eq!(known(&learned, "10.0.0.2", now).as_deref(), Some("friend.x"));
    assert_eq!(learned.len(), 2 + 10 * OUTSIDE_ADDRESSES);
}

/// Whoever may create services can give one thousands of addresses, and lead there from outside.
#[tokio::test(start_paused = true)]
async fn aliases_from_outside_leave_room_in_the_store_of_the_mesh() {
    let learned = judged(1000);
    let now = Instant::now();
    learned.remember(&name("orders.shop.mesh"), &[ip("10.0.0.1")], TTL, now);
    for i in 0..100_u32 {
        let all: Vec<IpAddr> =
            (0..400).map(|n| IpAddr::from((0xc000_0000 + i * 400 + n).to_be_bytes())).collect();
        learned.remember_led(&name("e.x"), &name(&format!("trap{i}.evil.mesh")), all, TTL, now);
    }
    assert_eq!(known(&learned, "10.0.0.1", now).as_deref(), Some("orders.shop.mesh"));
    assert_eq!(known(&learned, "192.0.0.1", now).as_deref(), Some("trap0.evil.mesh"));
    assert!((500..600).contains(&learned.len()), "{}", learned.len());
}

#[tokio::test(start_paused = true)]
async fn a_name_in_use_outlives_its_ttl() {
    let learned = Learned::new(100, HOUR);
    let start = Instant::now();
    learned.remember(&name("a.x"), &[ip("10.0.0.1")], TTL, start);
    let step = HOUR - TTL;
    for steps in 1..50 {
        let now = start + steps * step;
        assert_eq!(known(&learned, "10.0.0.1", now).as_deref(), Some("a.x"), "{steps}");
    }
    learned.sweep(start + 49 * step);
    assert_eq!(learned.len(), 1);
    learned.sweep(start + 51 * step);
    assert_eq!(learned.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mesh_address_outlives_idleness_until_its_own_name_lets_it_go() {
    let learned = judged(100);
    let start = Instant::now();
    let orders = name("orders.shop.mesh");
    learned.remember(&orders, &[ip("10.0.0.1"), ip("10.0.0.2")], TTL, start);
    learned.remember(&name("gone.shop.mesh"), &[ip("fd00::3")], TTL, start);
    assert_eq!(learned.unsure(10, start + HOUR), []);
    let mut now = start + 5 * HOUR;
    learned.sweep(now);
    learned.remember(&name("evil.x"), &[ip("10.0.0.1")], TTL, now);
    let mut unsure = learned.unsure(10, now);
    unsure.sort();
    assert_eq!(unsure, [(name("gone.shop.mesh"), true), (orders.clone(), false)]);
    assert_eq!(learned.unsure(1, now).len(), 1);
    // One address it has still; the other was given back. A name that is denied may come back.
    let again = |key: (DnsName, bool), again| HashMap::from([(key, again)]);
    learned.settle(&again((orders, false), Again::Has(vec![ip("10.0.0.1")], TTL)), now);
    let denied = again((name("gone.shop.mesh"), true), Again::Denied);
    learned.settle(&denied, now);
    assert_eq!(known(&learned, "10.0.0.1", now).as_deref(), Some("orders.shop.mesh"));
    assert_eq!(known(&learned, "10.0.0.2", now), None);
    assert_eq!(learned.unsure(10, now), []);
    now += 2 * HOUR;
    assert_eq!(learned.unsure(10, now).len(), 2);
    assert_eq!(learned.len(), 3);
    learned.settle(&denied, now);
    assert_eq!(known(&learned, "fd00::3", now), None);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_enters_or_leaves_the_mesh_is_judged_anew() {
    let learned = Learned::new(4, HOUR);
    let mesh = Mesh::default();
    learned.judge_by(mesh.clone());
    let now = Instant::now();
    learned.remember(&name("a.shop.late"), &[ip("10.0.0.1")], TTL, now);
    assert!(learned.name_of(ip("10.0.0.1"), now).unwrap().outside);
    mesh.0.store(1, Relaxed);
    assert!(!learned.name_of(ip("10.0.0.1"), now).unwrap().outside);
    learned.sweep(now);
    for i in 0..100_u32 {
        learned.remember(&name(&format!("evil{i}.x")), &[IpAddr::from(i.to_be_bytes())], TTL, now);
    }
    assert!(!learned.name_of(ip("10.0.0.1"), now).unwrap().outside);
    mesh.0.store(0, Relaxed);
    assert!(learned.name_of(ip("10.0.0.1"), now).unwrap().outside);
    learned.sweep(now + 3 * HOUR);
    assert_eq!(known(&learned, "10.0.0.1", now), None);
}

#[tokio::test(start_paused = true)]
async fn both_stores_are_bounded() {
    let learned = judged(64);
    let now = Instant::now();
    for (kind, domain) in [(1, "x"), (2, "shop.mesh")] {
        for i in 0..1000_u32 {
            let address = IpAddr::from(i.to_be_bytes());
            let text = format!("n{i}.{domain}");
            learned.remember(&name(&text), &[address, ip("10.9.9.9")], TTL, now);
            assert_eq!(known(&learned, &address.to_string(), now), Some(text));
        }
        assert!(learned.len() <= kind * 64);
    }
    assert_eq!(known(&learned, "10.9.9.9", now).as_deref(), Some("n999.shop.mesh"));
}

/// One answer: the chain of names from the question on, and addresses.
type Lesson = (Vec<String>, Vec<u8>, u64);

fn lesson(first: &'static str) -> impl Strategy<Value = Lesson> {
    let any = "[a-c]\\.(x|shop\\.mesh|bank\\.mesh|shop\\.mesh\\.x)";
    let chain = (first, prop::collection::vec(any, 0..4));
    let chain = chain.prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect());
    (chain, prop::collection::vec(0u8..12, 0..80), 0u64..100)
}

/// As the server does, with a mesh name that has every address of its own as well.
fn teach(learned: &Learned, (chain, addresses, ttl): &Lesson, now: Instant) {
    let chain: Vec<DnsName> = chain.iter().map(|text| name(text)).collect();
    let all: Vec<IpAddr> = addresses.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect();
    let ttl = Duration::from_secs(*ttl);
    match learned.meant(&chain, &[name("x"), name("shop.mesh.x")]).unwrap() {
        Meant::Name(name) => learned.remember(name, &all, ttl, now),
        Meant::Led { to, otherwise } => {
            learned.remember_led(otherwise, to, all.clone(), ttl, now);
            learned.remember(otherwise, &all, ttl, now);
        }
    }
}

proptest! {
    /// No sequence of answers for outside names changes the verdict on a mesh address, whatever aliases they have, however
    /// long it takes.
    #[test]
    fn outside_answers_change_no_mesh_address(
        mesh in prop::collection::vec(lesson("[a-c]\\.(shop|bank)\\.mesh"), 1..4),
        outside in prop::collection::vec((lesson("[a-c]\\.(x|shop\\.mesh\\.x)"), 0u64..4000), 0..40),
    ) {
        let learned = judged(16);
        let mut now = Instant::now();
        mesh.iter().for_each(|lesson| teach(&learned, lesson, now));
        let verdicts = |now| -> Vec<_> {
            let all = (0u8..12).map(|last| learned.name_of(IpAddr::from([10, 0, 0, last]), now));
            all.map(|named| named.filter(|named| !named.outside)).collect()
        };
        let before = verdicts(now);
        for (lesson, pause) in &outside {
            now += Duration::from_secs(*pause);
            teach(&learned, lesson, now);
            learned.sweep(now);
            for (was, is) in before.iter().zip(verdicts(now)) {
                prop_assert!(was.is_none() || *was == is, "{:?} became {:?}", was, is);
            }
        }
    }
}
