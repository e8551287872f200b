use std::time::Duration;

use tokio::task::yield_now;
use weft_telemetry::Registry;

use super::*;
use crate::bucket::Rate;
use crate::{Authority, PodRef, RootPem};

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits {
        connections: 6,
        address_connections: 4,
        address_unproven: 3,
        proof: 20 * SECOND,
        idle: 120 * SECOND,
        connection_refusals: 3,
        address_refusals: Rate { burst: 5, every: SECOND },
        address_reviews: Rate { burst: 4, every: SECOND },
        address_reviews_at_once: 2,
        address_waiting: 2,
        reviews_at_once: 3,
        turn: 4 * SECOND,
        ..Limits::default()
    }
}

fn callers(limits: Limits) -> Callers {
    let pem = RootPem::generate(&"weft.local".parse().unwrap(), 3600 * SECOND).unwrap();
    let id = "spiffe://weft.local/ns/weft-system/sa/weft-ca".parse().unwrap();
    let authority = Authority::new(pem, id, 60 * SECOND).unwrap();
    Callers::new(limits, Arc::new(Metrics::new(&Registry::default(), &authority)))
}

/// A caller from the pod with this number.
fn from(pod: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, pod], 40_000))
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://weft.local/ns/shop/sa/{account}").parse().unwrap()
}

/// When a stream has to have ended.
fn later() -> Instant {
    Instant::now() + 3660 * SECOND
}

impl Callers {
    fn proven(&self, pod: u8) -> Seat {
        let seat = self.enter(from(pod)).unwrap();
        let call = seat.call();
        seat.proven(&Proof::of(id("web")));
        drop(call);
        seat
    }
}

/// Whether the connection was told to end by now.
async fn over(seat: &Seat) -> Option<End> {
    tokio::select! {
        biased;
        end = seat.over() => Some(end),
        () = yield_now() => None,
    }
}

#[tokio::test(start_paused = true)]
async fn who_proves_nothing_in_time_ends_and_who_calls_nothing_ends_later() {
    let callers = callers(limits());
    let (silent, slow, proven, busy) = (
        callers.enter(from(1)).unwrap(),
        callers.enter(from(1)).unwrap(),
        callers.proven(2),
        callers.proven(3),
    );
    let _half_a_call = slow.call();
    let _stream = busy.stream(&id("web"), later()).unwrap();
    tokio::time::advance(19 * SECOND).await;
    assert_eq!((over(&silent).await, over(&slow).await), (None, None));
    tokio::time::advance(2 * SECOND).await;
    assert_eq!((over(&silent).await, over(&slow).await), (Some(End::Now), Some(End::Now)));
    assert_eq!(over(&proven).await, None);
    tokio::time::advance(100 * SECOND).await;
    assert_eq!(over(&proven).await, Some(End::Told));
    tokio::time::advance(3500 * SECOND).await;
    assert_eq!(over(&busy).await, None, "an open stream is a call");
    tokio::time::advance(100 * SECOND).await;
    assert_eq!(over(&busy).await, Some(End::Told), "but not for ever, whether its end is taken or not");
}

#[tokio::test(start_paused = true)]
async fn when_full_the_oldest_that_does_nothing_makes_room_and_working_ones_stay() {
    let callers = callers(limits());
    let working = callers.proven(1);
    let _stream = working.stream(&id("web"), later()).unwrap();
    let (idle, unproven) = (callers.proven(2), callers.enter(from(3)).unwrap());
    let _others = [callers.proven(4), callers.proven(5), callers.proven(6)];
    callers.room().await;
    let seventh = callers.enter(from(7)).unwrap();
    assert_eq!(over(&unproven).await, Some(End::Told), "who has proven nothing goes first");
    // The newest of those that have proven nothing is the next, then the oldest idle one.
    drop(unproven);
    seventh.proven(&Proof::of(id("web")));
    let _call = seventh.call();
    let eighth = callers.enter(from(8)).unwrap();
    assert_eq!(
        (over(&idle).await, over(&working).await, over(&seventh).await),
        (Some(End::Told), None, None)
    );
    drop((idle, eighth));
}

#[tokio::test(start_paused = true)]
async fn when_all_work_new_ones_wait_until_a_place_is_free() {
    let callers = callers(Limits { connections: 2, ..limits() });
    let seats = [callers.proven(1), callers.proven(2)];
    let calls = seats.each_ref().map(Seat::call);
    let mut room = Box::pin(callers.room());
    tokio::select! {
        biased;
        () = &mut room => panic!("there is no room"),
        () = yield_now() => {}
    }
    assert_eq!(callers.enter(from(3)).err(), Some(Limit::Connections));
    let [one, two] = calls;
    drop(one);
    room.await;
    let third = callers.enter(from(3)).unwrap();
    assert_eq!((over(&seats[0]).await, over(&seats[1]).await), (Some(End::Told), None));
    drop((two, third));
    drop(seats);
    callers.room().await;
}

#[tokio::test(start_paused = true)]
async fn one_address_takes_from_itself_and_from_nobody_else() {
    let callers = callers(limits());
    let genuine = callers.enter(from(1)).unwrap();
    let mut greedy: Vec<Seat> = Vec::new();
    for _ in 0..100 {
        greedy.push(callers.enter(from(2)).unwrap());
    }
    let mut left = Vec::new();
    for (number, seat) in greedy.iter().enumerate() {
        if over(seat).await.is_none() {
            left.push(number);
        }
    }
    assert_eq!(left, [97, 98, 99], "three that have proven nothing, the newest");
    assert_eq!(over(&genuine).await, None);
    for number in left {
        let seat = &greedy[number];
        seat.proven(&Proof::of(id("web")));
        drop(seat.call());
    }
    let fourth = callers.proven(2);
    let fifth = callers.enter(from(2)).unwrap();
    assert_eq!(over(&greedy[97]).await, Some(End::Told), "the oldest idle one");
    let _calls = [greedy[98].call(), greedy[99].call(), fourth.call()];
    fifth.proven(&Proof::of(id("web")));
    let _call = fifth.call();
    assert_eq!(callers.enter(from(2)).err(), Some(Limit::AddressConnections));
    assert_eq!(over(&genuine).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_address_dials_at_a_pace() {
    let callers = callers(Limits { address_dials: Rate { burst: 3, every: SECOND }, ..limits() });
    let mut seats: Vec<_> = (0..3).map(|_| callers.enter(from(1)).unwrap()).collect();
    assert_eq!(callers.enter(from(1)).err(), Some(Limit::AddressDials));
    seats.push(callers.enter(from(2)).unwrap());
    tokio::time::advance(SECOND).await;
    seats.push(callers.enter(from(1)).unwrap());
    assert_eq!(callers.enter(from(1)).err(), Some(Limit::AddressDials));
}

#[tokio::test(start_paused = true)]
async fn refusals_end_the_connection_and_then_silence_the_address() {
    let callers = callers(limits());
    let (one, two, other) =
        (callers.enter(from(1)).unwrap(), callers.enter(from(1)).unwrap(), callers.enter(from(2)).unwrap());
    one.refused();
    one.refused();
    assert_eq!((one.heard(), over(&one).await), (Ok(()), None));
    one.refused();
    assert_eq!(over(&one).await, Some(End::Told));
    two.refused();
    two.refused();
    assert_eq!(two.heard(), Err(Limit::AddressRefusals));
    assert_eq!(over(&two).await, Some(End::Told));
    assert_eq!(callers.enter(from(1)).err(), Some(Limit::AddressRefusals));
    assert_eq!((other.heard(), over(&other).await), (Ok(()), None));
    tokio::time::advance(SECOND).await;
    assert!(callers.enter(from(1)).is_ok(), "and it is heard again, at a rate");
}

#[tokio::test(start_paused = true)]
async fn streams_have_a_limit_on_each_connection_and_for_each_identity() {
    let callers = callers(Limits { identity_connections: 3, ..limits() });
    let (one, two) = (callers.proven(1), callers.proven(2));
    let first = one.stream(&id("web"), later()).unwrap();
    let _second = one.stream(&id("web"), later()).unwrap();
    assert_eq!(one.stream(&id("web"), later()).err(), Some(Limit::ConnectionStreams));
    let _third = two.stream(&id("web"), later()).unwrap();
    assert_eq!(two.stream(&id("web"), later()).err(), Some(Limit::IdentityStreams));
    assert!(two.stream(&id("orders"), later()).is_ok());
    drop(first);
    assert!(one.stream(&id("web"), later()).is_ok());
}

/// Another connection of an identity or a pod, from an address of its own.
impl Callers {
    fn proven_as(&self, address: u8, proof: &Proof) -> Seat {
        let seat = self.enter(from(address)).unwrap();
        let call = seat.call();
        seat.proven(proof);
        drop(call);
        seat
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_makes_room_for_itself_and_its_working_connections_stay() {
    let callers = callers(Limits { identity_connections: 3, connections: 20, ..limits() });
    let web = Proof::of(id("web"));
    let working = callers.proven_as(1, &web);
    let stream = working.stream(&web.id, later()).unwrap();
    let (idle, other) = (callers.proven_as(2, &web), callers.proven_as(3, &Proof::of(id("orders"))));
    let busy = callers.proven_as(4, &web);
    let _call = busy.call();
    assert_eq!((over(&idle).await, over(&busy).await), (None, None));
    let fourth = callers.proven_as(5, &web);
    assert_eq!(over(&idle).await, Some(End::Told), "the one that does nothing");
    let _stream = fourth.stream(&web.id, later()).unwrap();
    // A second good credential on the same connection is no second connection.
    fourth.proven(&web);
    assert_eq!(over(&fourth).await, None);
    let fifth = callers.proven_as(6, &web);
    assert_eq!(over(&fifth).await, Some(End::Told), "all of them work: the newest goes");
    assert_eq!(fifth.stream(&web.id, later()).err(), Some(Limit::IdentityConnections));
    assert_eq!(
        (over(&working).await, over(&busy).await, over(&fourth).await, over(&other).await),
        (None, None, None, None)
    );
    drop((stream, working));
    let sixth = callers.proven_as(7, &web);
    assert_eq!(over(&sixth).await, None, "a place that came back");
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_its_newest_connections_and_no_more() {
    let callers = callers(Limits { pod_connections: 2, connections: 20, ..limits() });
    let pod = |name: &str, uid: &str| Proof {
        id: id("web"),
        pod: Some(PodRef { name: name.to_owned(), uid: uid.to_owned() }),
    };
    let (mut seats, mut streams) = (Vec::new(), Vec::new());
    for number in 1..=4 {
        let seat = callers.proven_as(number, &pod("web-1", "a"));
        streams.push(seat.stream(&id("web"), later()).unwrap());
        seats.push(seat);
    }
    let mut ended = Vec::new();
    for seat in &seats {
        ended.push(over(seat).await.is_some());
    }
    assert_eq!(ended, [true, true, false, false], "the oldest go, at work or not");
    // Another pod, also of the same name, and one whose UID nobody knows.
    for proof in [pod("web-1", "b"), pod("web-2", "c"), pod("web-1", ""), Proof::of(id("web"))] {
        let one = callers.proven_as(9, &proof);
        let two = callers.proven_as(9, &proof);
        assert_eq!((over(&one).await, over(&two).await, over(&seats[3]).await), (None, None, None));
    }
    let unknown = [(); 3].map(|()| callers.proven_as(10, &pod("web-1", "")));
    assert_eq!((over(&unknown[0]).await, over(&unknown[1]).await), (Some(End::Told), None));
    drop((seats, streams, unknown));
    let table = callers.shared().lock();
    assert!(table.pods.is_empty() && table.identities.is_empty(), "who holds nothing is forgotten");
}

#[tokio::test(start_paused = true)]
async fn turns_are_few_for_an_address_and_shared_by_all() {
    let callers = callers(limits());
    let greedy: Vec<Seat> = (0..3).map(|_| callers.enter(from(1)).unwrap()).collect();
    let (one, two) = (greedy[0].turn().await.unwrap(), greedy[1].turn().await.unwrap());
    // Its third waits for its own first two, and a caller from another address does not.
    let third = greedy[2].turn();
    let genuine = callers.enter(from(2)).unwrap();
    tokio::select! {
        biased;
        _ = third => panic!("a third at once"),
        turn = genuine.turn() => drop(turn.unwrap()),
    }
    // All three of the turns that there are in all are taken: the next waits.
    let held = genuine.turn().await.unwrap();
    let last = callers.enter(from(3)).unwrap();
    assert_eq!(last.turn().await.err(), Some(Limit::Reviews), "and not for ever");
    drop((one, held));
    let turn = last.turn().await.unwrap();
    drop((turn, two));
}

#[tokio::test(start_paused = true)]
async fn what_one_address_asks_has_a_rate_and_its_line_an_end() {
    let callers = callers(limits());
    let seat = callers.enter(from(1)).unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        drop(seat.turn().await.unwrap());
    }
    let took = began.elapsed();
    assert!(took >= 6 * SECOND && took < 7 * SECOND, "four at once and then one a second: {took:?}");
    let waited = at_once(&seat, 5).await;
    let turned_down = waited.iter().filter(|waited| **waited == Some(Limit::Reviews)).count();
    assert!(turned_down >= 3, "two wait, the others are told at once: {waited:?}");
}

/// Several turns at once; how each ended.
async fn at_once(seat: &Seat, count: usize) -> Vec<Option<Limit>> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let seat = seat.clone();
        tasks.spawn(async move { seat.turn().await.err() });
    }
    tasks.join_all().await
}

#[tokio::test(start_paused = true)]
async fn addresses_are_forgotten_when_there_are_many() {
    let callers = callers(Limits { connections: 8, ..limits() });
    let kept = callers.enter(from(1)).unwrap();
    for number in 0..u32::try_from(MAX_ADDRESSES + 100).unwrap() {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + number);
        let seat = callers.enter(SocketAddr::from((address, 1))).unwrap();
        seat.refused();
    }
    let table = callers.shared().lock();
    assert!(table.addresses.len() <= MAX_ADDRESSES, "{}", table.addresses.len());
    assert!(table.addresses.contains_key(&kept.peer().ip()));
    assert_eq!((table.taken, table.places.len()), (1, 1));
}
