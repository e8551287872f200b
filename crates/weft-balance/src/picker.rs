//! Choosing an endpoint.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::{Availability, Endpoint, Timestamp};

/// How many random draws look for a usable endpoint before a scan does. A scan alone would give the neighbour of an
/// endpoint that is away all of its share; with four draws that matters only when most of a set is away.
const DRAWS: usize = 4;

/// How the next endpoint is chosen.
///
/// The seam for the other families: one that needs state (a ring, a table) carries it in its variant, built with the
/// endpoint snapshot; one that needs a key of the request takes it in a `pick` of its own beside this one, with the same
/// rules for `skip` and availability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Picker {
    /// Two different endpoints at random, and of these the one with the lower [`Endpoint::cost`]. As good as looking at
    /// all of them within a small constant, and workers with slightly old numbers do not all run to the same endpoint.
    #[default]
    PowerOfTwo,
    /// Any endpoint with the same chance.
    Random,
    /// For the client with this key always the same endpoint, as long as it is available: of the weights that key and
    /// address give together the highest one (Thaler and Ravishankar, 1998). An endpoint that comes or goes changes nothing
    /// for clients of others.
    Rendezvous(u64),
}

impl Picker {
    /// The index of the endpoint for the next request.
    ///
    /// `skip` names indexes that must not be chosen (already tried by this request); none of them ever is. Endpoints
    /// that are not [available](Availability) are chosen only when every one that may be chosen is away. `None` if the
    /// set is empty or everything is skipped. With a single endpoint no randomness is used.
    pub fn pick(
        self,
        endpoints: &[Arc<Endpoint>],
        rng: &mut fastrand::Rng,
        now: Timestamp,
        skip: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if endpoints.len() < 2 {
            return (!endpoints.is_empty() && !skip(0)).then_some(0);
        }
        let usable = |i: usize| {
            !skip(i) && endpoints.get(i).is_some_and(|e| e.availability(now) == Availability::Available)
        };
        if let Self::Rendezvous(key) = self {
            let weight = |i: &usize| endpoints.get(*i).map(|endpoint| weight(key, endpoint));
            let best =
                |fits: &dyn Fn(usize) -> bool| (0..endpoints.len()).filter(|i| fits(*i)).max_by_key(weight);
            return best(&usable).or_else(|| best(&|i| !skip(i)));
        }
        let len = endpoints.len();
        let Some(first) = draw(len, rng, usable) else {
            return draw(len, rng, |i| !skip(i));
        };
        match self {
            Self::Random | Self::Rendezvous(_) => Some(first),
            Self::PowerOfTwo => {
                let Some(second) = draw(len, rng, |i| i != first && usable(i)) else { return Some(first) };
                let cost = |i: usize| endpoints.get(i).map_or(f32::INFINITY, |e| e.cost(now));
                Some(if cost(second) < cost(first) { second } else { first })
            }
        }
    }
}

/// How much an endpoint is a client's. Every process has to come to the same.
fn weight(key: u64, endpoint: &Endpoint) -> u64 {
    // Keys that are the same everywhere, unlike those of `RandomState`.
    let mut hasher = DefaultHasher::new();
    (key, endpoint.addr().get()).hash(&mut hasher);
    hasher.finish()
}

/// A random index that `usable` agrees to, if there is one.
fn draw(len: usize, rng: &mut fastrand::Rng, usable: impl Fn(usize) -> bool) -> Option<usize> {
    for _ in 0..DRAWS {
        let i = rng.usize(..len);
        if usable(i) {
            return Some(i);
        }
    }
    let start = rng.usize(..len);
    (start..len).chain(0..start).find(|i| usable(*i))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::prelude::*;
    use weft_core::EndpointAddr;

    use super::*;
    use crate::{InFlight, Outcome, SEED_LATENCY};

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn endpoints(count: usize) -> Vec<Arc<Endpoint>> {
        (0..count)
            .map(|i| {
                let addr = EndpointAddr::new(([10, 0, (i >> 8) as u8, i as u8], 80).into());
                Arc::new(Endpoint::new(addr, SEED_LATENCY, ms(0)))
            })
            .collect()
    }

    #[test]
    fn one_endpoint_needs_no_randomness() {
        let one = endpoints(1);
        let mut rng = fastrand::Rng::with_seed(1);
        let before = rng.clone();
        assert_eq!(Picker::PowerOfTwo.pick(&one, &mut rng, ms(0), |_| false), Some(0));
        assert_eq!(rng, before);
        assert_eq!(Picker::PowerOfTwo.pick(&one, &mut rng, ms(0), |_| true), None);
        one[0].failed_connect(ms(0));
        assert_eq!(Picker::PowerOfTwo.pick(&one, &mut rng, ms(1), |_| false), Some(0));
        assert_eq!(Picker::PowerOfTwo.pick(&[], &mut rng, ms(0), |_| false), None);
    }

    #[test]
    fn of_two_the_cheaper_is_always_chosen() {
        let two = endpoints(2);
        let _busy = two[1].begin(ms(0));
        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..200 {
            assert_eq!(Picker::PowerOfTwo.pick(&two, &mut rng, ms(0), |_| false), Some(0));
        }
    }

    #[test]
    fn random_spreads_evenly() {
        let four = endpoints(4);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut hits = [0u32; 4];
        for _ in 0..8_000 {
            hits[Picker::Random.pick(&four, &mut rng, ms(0), |_| false).unwrap()] += 1;
        }
        assert!(hits.iter().all(|hits| (1_800..2_200).contains(hits)), "{hits:?}");
    }

    #[test]
    fn a_client_keeps_its_endpoint_whatever_others_do() {
        let all = endpoints(10);
        let mut rng = fastrand::Rng::with_seed(5);
        let mut of = |set: &[Arc<Endpoint>], key: u64, skip: Option<EndpointAddr>| {
            let skip = |i: usize| Some(set[i].addr()) == skip;
            let index = Picker::Rendezvous(key).pick(set, &mut rng, ms(1), skip).unwrap();
            set[index].addr()
        };
        let mut spread = HashSet::new();
        for key in 0..200 {
            let own = of(&all, key, None);
            spread.insert(own);
            assert_eq!(of(&all, key, None), own);
            // Others leave, in another order.
            let fewer: Vec<_> =
                all.iter().rev().filter(|e| e.addr() == own || e.addr().port() % 2 == 0).cloned().collect();
            assert_eq!(of(&fewer, key, None), own);
            let second = of(&all, key, Some(own));
            assert_ne!(second, own);
            let without: Vec<_> = all.iter().filter(|e| e.addr() != own).cloned().collect();
            assert_eq!(of(&without, key, None), second);
        }
        assert_eq!(spread.len(), 10, "every endpoint has clients");
        let own = of(&all, 7, None);
        all.iter().find(|e| e.addr() == own).unwrap().failed_connect(ms(0));
        assert_ne!(of(&all, 7, None), own, "an endpoint that cannot be reached keeps nobody");
    }

    /// A closed loop: 16 requests are always in flight; one endpoint of four takes ten times as long.
    #[test]
    fn skewed_latency_sends_the_load_to_the_faster() {
        let set = endpoints(4);
        let mut rng = fastrand::Rng::with_seed(4);
        let mut hits = [0u64; 4];
        let mut flying: Vec<(u64, usize, InFlight)> = Vec::new();
        let mut now = 0u64;
        for _ in 0..20_000 {
            while flying.len() >= 16 {
                let next = (0..flying.len()).min_by_key(|i| flying[*i].0).unwrap();
                let (due, _, guard) = flying.swap_remove(next);
                now = now.max(due);
                guard.finish(ms(now), Outcome::Success);
            }
            let i = Picker::PowerOfTwo.pick(&set, &mut rng, ms(now), |_| false).unwrap();
            hits[i] += 1;
            let takes = if i == 3 { 50 } else { 5 };
            flying.push((now + takes, i, set[i].begin(ms(now))));
        }
        assert!(hits[3] * 10 < hits[0], "{hits:?}");
        let (low, high) = (hits[..3].iter().min().unwrap(), hits[..3].iter().max().unwrap());
        assert!(high * 10 < low * 12, "the equals share equally: {hits:?}");
        drop(flying);
        assert!(set.iter().all(|e| e.in_flight() == 0));
    }

    #[test]
    fn endpoints_in_back_off_come_back() {
        let set = endpoints(3);
        set[1].failed_connect(ms(0));
        let mut rng = fastrand::Rng::with_seed(5);
        let mut picked = |now: u64| -> HashSet<usize> {
            (0..200).filter_map(|_| Picker::PowerOfTwo.pick(&set, &mut rng, ms(now), |_| false)).collect()
        };
        assert_eq!(picked(1), HashSet::from([0, 2]));
        assert!(picked(Duration::from_secs(1).as_millis() as u64).contains(&1));
    }

    proptest! {
        /// Against the rules, said plainly: never a skipped one; an available one if there is any; else any that is
        /// not skipped; none only if there is none.
        #[test]
        fn follows_the_rules(
            shape in prop::collection::vec((any::<bool>(), any::<bool>(), 0u32..4), 0..20),
            seed: u64,
            random: bool,
        ) {
            let set = endpoints(shape.len());
            let mut guards = Vec::new();
            for (endpoint, (_, away, busy)) in set.iter().zip(&shape) {
                if *away {
                    endpoint.failed_connect(ms(0));
                }
                guards.extend((0..*busy).map(|_| endpoint.begin(ms(0))));
            }
            let picker = if random { Picker::Random } else { Picker::PowerOfTwo };
            let mut rng = fastrand::Rng::with_seed(seed);
            let picked = picker.pick(&set, &mut rng, ms(1), |i| shape[i].0);
            let allowed: Vec<usize> = (0..shape.len()).filter(|i| !shape[*i].0).collect();
            let available: Vec<usize> = allowed.iter().copied().filter(|i| !shape[*i].1).collect();
            match picked {
                None => prop_assert!(allowed.is_empty()),
                Some(i) if available.is_empty() => prop_assert!(allowed.contains(&i)),
                Some(i) => {
                    prop_assert!(available.contains(&i));
                    // The single most expensive one loses to whatever it is compared with.
                    let dearest = available.iter().filter(|j| shape[**j].2 >= shape[i].2).count();
                    prop_assert!(random || available.len() == 1 || dearest > 1);
                }
            }
        }
    }
}
