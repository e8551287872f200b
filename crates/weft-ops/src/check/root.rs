//! What mints certificates: is it still the mesh's first root, and how long does it last?

use rustls::pki_types::CertificateDer;

use super::installed::Installed;
use super::proxies::span;
use super::report::{Finding, Vantage};
use crate::scrape::ControlMetrics;
use crate::view::View;
use crate::words::counted;

/// Between the beginning of a root's life and the creation of the Secret that it was made for: the CA backdates roots by an
/// hour, for clocks that are behind; and some minutes for the way.
const BORN_WITH: i64 = 70 * 60;
/// The last weeks of the issuer's certificate, in seconds, where a CA does not say itself that they have begun.
const LAST_WEEKS: f64 = 30.0 * 86_400.0;

/// Tells of a root that was made because the former one was gone: the Secret and the root are of the same hour, and pods
/// with sidecars are older than both. A Secret that was put back has the former root in it, and a rotation leaves the
/// Secret where it is, so neither is taken for that. Who may not read the Secret is told what the CA says of itself. None
/// where it cannot be known.
pub(super) fn renewed(installed: &Installed, view: &View, control: &[ControlMetrics]) -> Option<Finding> {
    let id = "bundle.root";
    let cure = format!(
        "the former root and the new one do not vouch for each other. With a backup of the Secret weft-ca: kubectl -n {0} scale deployment/weft-control --replicas=0, \
         kubectl replace the Secret, and scale up again. Without: restart the workloads that are older than the root, all of them soon",
        installed.own
    );
    let (Some(bundle), Some(made)) = (installed.root.known(), installed.secret_made) else {
        let lost = control.iter().any(|metrics| metrics.roots_lost > 0.0);
        let summary = "weft-control has made a new root while there was a mesh: the former one is lost";
        return lost.then(|| Finding::warning(id, Vantage::Proxies, summary, cure));
    };
    let born = bundle.certificates().filter_map(valid_from).min()?;
    let older = view.injected(None).filter(|(_, pod)| pod.made.is_some_and(|pod| pod < made));
    let older: Vec<String> = older.map(|(key, _)| key.to_string()).collect();
    if made - born > BORN_WITH || older.is_empty() {
        return Some(Finding::ok(id, Vantage::Api, "no pod with a sidecar is older than the root"));
    }
    let summary = format!(
        "the root was made anew while {} with a sidecar {} running: the former one is lost",
        counted(older.len(), "pod", "pods"),
        if older.len() == 1 { "was" } else { "were" }
    );
    Some(Finding::warning(id, Vantage::Api, summary, cure).details(older))
}

/// Unix time in seconds.
fn valid_from(certificate: &CertificateDer<'static>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_before.timestamp())
}

/// Judges how long the certificate lasts that leaves are signed with, by what the pods of `weft control` tell. Where a root
/// signs by itself it is that root; an issuer below a root has an end of its own, and may have a short life, so that the CA
/// itself says when its last weeks begin. `leaf` is the life of a leaf in seconds. None where no pod tells.
pub(super) fn issuer(control: &[ControlMetrics], now: f64, leaf: f64) -> Option<Finding> {
    let id = "ca.expiry";
    let ends = control.iter().filter_map(|metrics| metrics.issuer_expires);
    let left = ends.min_by(f64::total_cmp)? - now;
    let said: Vec<bool> = control.iter().filter_map(|metrics| metrics.issuer_ends_soon).collect();
    let soon = if said.is_empty() { left < LAST_WEEKS } else { said.contains(&true) };
    let summary = format!("the certificate that leaves are signed with lasts for {}", span(left));
    let cure = "put a new one into the Secret weft-ca: docs/reference/control.md. No leaf outlives it, so renewals come faster and faster before its end";
    Some(if left <= 0.0 {
        let summary = "the certificate that leaves are signed with has ended: nobody gets a certificate";
        Finding::failed(id, Vantage::Proxies, summary, cure)
    } else if left < leaf {
        Finding::failed(id, Vantage::Proxies, summary, cure)
    } else if soon {
        Finding::warning(id, Vantage::Proxies, summary, cure)
    } else {
        Finding::ok(id, Vantage::Proxies, summary)
    })
}

#[cfg(test)]
mod tests {
    use weft_identity::TrustBundle;

    use super::super::installed::Root;
    use super::super::installed::tests::installed;
    use super::super::report::State;
    use super::*;
    use crate::view::tests::{pod, view};

    /// 2026-01-01, midnight: when the root of these tests begins to be valid.
    const BORN: i64 = 1_767_225_600;
    const HOUR: i64 = 3600;

    fn rooted(secret_made: i64) -> Installed {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        let root = Root::Known(TrustBundle::from_pem(pem.as_bytes()).unwrap());
        Installed { root, secret_made: Some(secret_made), ..installed() }
    }

    #[test]
    fn a_root_that_was_made_anew_while_the_mesh_ran_is_told() {
        let of = |made: &str| {
            let mut pod = pod("shop", "web", "10.0.0.1", true);
            pod["metadata"]["creationTimestamp"] = made.into();
            view(&[pod])
        };
        let (older, younger) = (of("2025-12-31T00:00:00Z"), of("2026-01-02T00:00:00Z"));
        let found = renewed(&rooted(BORN + HOUR), &older, &[]).unwrap();
        assert_eq!((found.state, found.details.len()), (State::Warning, 1));
        assert!(found.summary.contains("1 pod with a sidecar was running"), "{}", found.summary);
        assert_eq!(found.details, ["shop/web-5d4f8-10-0-0-1"]);
        let after_an_installation = renewed(&rooted(BORN + HOUR), &younger, &[]).unwrap();
        assert_eq!(after_an_installation.state, State::Ok);
        let put_back = renewed(&rooted(BORN + 1000 * HOUR), &older, &[]).unwrap();
        assert_eq!(put_back.state, State::Ok, "the Secret was put back with the root that the mesh had");

        assert_eq!(renewed(&installed(), &older, &[]), None, "the Secret may not be read");
        let lost = ControlMetrics { roots_lost: 1.0, ..ControlMetrics::default() };
        assert_eq!(renewed(&installed(), &older, &[lost]).unwrap().state, State::Warning);
    }

    #[test]
    fn the_last_weeks_of_the_issuing_certificate_are_told() {
        const DAY: f64 = 86_400.0;
        let now = 1000.0;
        let says = |left: f64, soon: Option<bool>| ControlMetrics {
            issuer_expires: Some(now + left * DAY),
            issuer_ends_soon: soon,
            ..ControlMetrics::default()
        };
        let judge = |left: f64, soon: Option<bool>| {
            let control = [says(left, soon), says(4000.0, soon), ControlMetrics::default()];
            issuer(&control, now, DAY).unwrap().state
        };
        assert_eq!((judge(400.0, None), judge(20.0, None)), (State::Ok, State::Warning));
        assert_eq!((judge(0.5, None), judge(-1.0, None)), (State::Failed, State::Failed));
        // An issuer that lives for a week is not in its last weeks for all its life.
        assert_eq!((judge(6.0, Some(false)), judge(2.0, Some(true))), (State::Ok, State::Warning));
        assert_eq!(issuer(&[ControlMetrics::default()], now, DAY), None, "the CA runs elsewhere");
    }
}
