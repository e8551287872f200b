//! The last weeks of the certificates that everything stands on.
//!
//! Nothing renews a root or the certificate that leaves are signed with; a mesh whose root has ended is down at once and
//! as a whole. So their last weeks are a state of their own: in the metrics, and in the log once a day.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::{Authority, AuthorityWatch};

/// Long enough to notice, and to replace a root in its three steps with leaves of any life that is allowed.
const WEEKS: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of a certificate with a short life, such as an intermediate that something renews: this part of its life, which is
/// where renewals are usually due.
const PART: u32 = 3;
/// Between two looks; timers do not notice when the wall clock is set.
const LOOK: Duration = Duration::from_secs(3600);
/// Between two lines about the same certificate.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// The certificate that leaves are signed with, as the metrics call it.
pub(crate) const ISSUER: &str = "issuer";
/// A certificate of the trust bundle.
pub(crate) const ROOT: &str = "root";

/// A certificate in its last weeks, or past them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// [`ISSUER`] or [`ROOT`].
    pub(crate) certificate: &'static str,
    pub(crate) subject: String,
    pub(crate) ends: SystemTime,
}

/// Which certificates are in their last weeks at `now`.
pub(crate) fn ending(authority: &Authority, now: SystemTime) -> Vec<Ending> {
    let signer = authority.signer();
    let bundle = authority.bundle();
    let roots = bundle.subjects().zip(bundle.validity()).map(|((subject, _), times)| (ROOT, subject, times));
    std::iter::once((ISSUER, signer.subject.as_str(), (signer.not_before, signer.not_after)))
        .chain(roots)
        .filter(|(_, _, (begins, ends))| is_late(*begins, *ends, now))
        .map(|(certificate, subject, (_, ends))| Ending { certificate, subject: subject.to_owned(), ends })
        .collect()
}

fn is_late(begins: SystemTime, ends: SystemTime, now: SystemTime) -> bool {
    let life = ends.duration_since(begins).unwrap_or_default();
    let left = ends.duration_since(now).unwrap_or_default();
    left <= WEEKS.min(life / PART)
}

/// Says so in the log, for ever: at once, when something changes, and once a day.
pub(crate) async fn remind(authority: &Authority) {
    let mut changes: AuthorityWatch = authority.watch();
    let mut told: HashMap<(&str, String), Instant> = HashMap::new();
    loop {
        let late = ending(authority, SystemTime::now());
        told.retain(|(certificate, subject), at| {
            at.elapsed() < REMIND
                && late.iter().any(|one| one.certificate == *certificate && one.subject == *subject)
        });
        for Ending { certificate, subject, ends } in late {
            let key = (certificate, subject.clone());
            if told.contains_key(&key) {
                continue;
            }
            told.insert(key, Instant::now());
            let ends = humantime::format_rfc3339_seconds(ends);
            tracing::warn!(
                certificate,
                subject,
                %ends,
                "in its last weeks: replace it before it ends, or the mesh ends with it; a root that nothing is signed \
                 under any more can be taken out of root.pem"
            );
        }
        tokio::select! {
            () = changes.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_telemetry::Registry;

    use super::*;
    use crate::RootPem;
    use crate::metrics::Metrics;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn authority(life: Duration) -> Authority {
        let pem = RootPem::generate(&"weft.local".parse().unwrap(), life).unwrap();
        let id = "spiffe://weft.local/ns/weft-system/sa/weft-ca".parse().unwrap();
        Authority::new(pem, id, Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn issuer_and_root_are_told_in_their_last_month() {
        let authority = authority(365 * DAY);
        let now = SystemTime::now();
        let told = |at| ending(&authority, at).iter().map(|one| one.certificate).collect::<Vec<_>>();
        assert!(told(now + 334 * DAY).is_empty());
        assert_eq!(told(now + 336 * DAY), [ISSUER, ROOT]);
        assert_eq!(told(now + 366 * DAY), [ISSUER, ROOT], "and when it is too late");
        assert_eq!(ending(&authority, now + 336 * DAY)[0].ends, authority.not_after());
    }

    #[test]
    fn the_metrics_tell_both_ends_and_whether_they_are_near() {
        let page = |authority: &Authority| {
            let registry = Registry::default();
            let _metrics = Metrics::new(&registry, authority);
            let mut page = String::new();
            registry.encode(&mut page);
            page
        };
        let (long, short) = (page(&authority(365 * DAY)), page(&authority(2 * DAY / 3)));
        for certificate in [ISSUER, ROOT] {
            let line = |state| format!("weft_ca_expires_soon{{certificate=\"{certificate}\"}} {state}\n");
            assert!(long.contains(&line(0)), "{long}");
            assert!(!short.contains(&line(1)), "16 of 17 hours are left: {short}");
        }
        let late = page(&authority(DAY / 49));
        assert!(late.contains("weft_ca_expires_soon{certificate=\"issuer\"} 1\n"), "{late}");
        assert!(late.contains("weft_ca_bundle_expiry_timestamp_seconds "), "{late}");
    }

    #[test]
    fn of_a_short_life_it_is_the_last_third() {
        let now = SystemTime::now();
        assert!(!is_late(now, now + 9 * DAY, now + 5 * DAY));
        assert!(is_late(now, now + 9 * DAY, now + 7 * DAY));
        assert!(is_late(now, now - DAY, now), "a certificate that ends before it begins");
    }
}
