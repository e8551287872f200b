//! The name store, for fuzzing: chains of aliases from outside into it.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::{DnsName, MtlsMode};

use crate::learned::{Learned, Named};
use crate::standing::{Judge, Meant, Standing};
use crate::wire::exercise_answer;

const HOUR: Duration = Duration::from_secs(3600);
/// Entries of the store: few, so that pushing out is tried as well.
const CAPACITY: usize = 16;

/// `[pod.]service.namespace.m` is in the mesh; the service `s` is permissive.
struct Mesh;

impl Judge for Mesh {
    fn version(&self) -> u64 {
        1
    }

    fn standing(&self, name: &DnsName) -> Standing {
        let labels: Vec<&str> = name.labels().collect();
        let ([service, namespace, "m"] | [_, service, namespace, "m"]) = labels[..] else {
            return Standing::Outside;
        };
        let mode = if service == "s" { MtlsMode::Permissive } else { MtlsMode::Strict };
        namespace.parse().map_or(Standing::Outside, |namespace| Standing::Inside { mode, namespace })
    }
}

/// See [`crate::exercise_names`]. As the server does it, with mesh names that have every address of their own as well.
pub(crate) fn names(answers: &[&[u8]]) -> Vec<Option<Named>> {
    let learned = Learned::new(CAPACITY, HOUR);
    learned.judge_by(Mesh);
    let mut now = Instant::now();
    let name = |text: &str| text.parse::<DnsName>().ok();
    let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
    for (text, last) in [("a.n.m", 1), ("s.n.m", 2), ("p.a.n.m", 3), ("b.o.m", 1)] {
        name(text).iter().for_each(|name| learned.remember(name, &[ip(last)], HOUR, now));
    }
    let search: Vec<DnsName> = ["n.m", "m", "x"].into_iter().filter_map(name).collect();
    for (query, answer) in answers.iter().filter_map(|packet| exercise_answer(packet)) {
        let Some(question) = query.address_name().filter(|name| Mesh.standing(name) == Standing::Outside)
        else {
            continue;
        };
        let chain: Vec<DnsName> = std::iter::once(question).chain(answer.aliases.iter().cloned()).collect();
        match learned.meant(&chain, &search) {
            Some(Meant::Name(name)) => learned.remember(name, &answer.addresses, answer.ttl, now),
            Some(Meant::Led { to, otherwise }) => {
                learned.remember_led(otherwise, to, answer.addresses.to_vec(), answer.ttl, now);
                learned.remember(otherwise, &answer.addresses, answer.ttl, now);
            }
            None => {}
        }
        // Two answers an hour: what is remembered for a while runs out in between.
        now += HOUR / 2;
        learned.sweep(now);
    }
    (1..=3).map(|last| learned.name_of(ip(last), now)).collect()
}
