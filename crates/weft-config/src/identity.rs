//! The `identity` section.

use weft_core::{SpiffeId, TrustDomain};

use crate::env::Role;
use crate::error::ProblemKind;
use crate::read::{Bad, Section};
use crate::scalar;
use crate::types::{CaSource, FileSource, IdentityConfig, IdentitySource};

/// The trust domain of a mesh that did not choose one.
const TRUST_DOMAIN: &str = "weft.local";

pub(crate) fn identity(s: &Section<'_, '_>) -> Option<IdentityConfig> {
    let trust_domain =
        match s.scalar("trustDomain", scalar::parsed("write lower-case letters, digits, '.', '-', '_'")) {
            Some((trust_domain, _)) => trust_domain,
            None => {
                s.default("trustDomain", &TRUST_DOMAIN);
                TRUST_DOMAIN.parse::<TrustDomain>().ok()?
            }
        };
    let (has_ca, has_files) = (s.has("ca"), s.has("files"));
    // Both are read, so that mistakes in either are told and both have their fields known.
    let from_ca = ca(&s.section("ca"), has_ca, &trust_domain);
    let from_files = files(&s.section("files"), has_files);
    let told = |reason: &str, cure: &str| {
        let bad = Bad { kind: ProblemKind::Conflict, reason: reason.to_owned(), cure: cure.to_owned() };
        s.reader().refuse(s.origin(), s.path(), bad);
    };
    let source = match (has_ca, has_files) {
        (true, false) => IdentitySource::Ca(from_ca?),
        (false, true) => IdentitySource::Files(from_files?),
        (true, true) => {
            told("both ca and files are set, and a workload has one identity", "keep one");
            return None;
        }
        (false, false) if s.reader().role() == Role::Gateway => IdentitySource::None,
        (false, false) => {
            let bad = Bad {
                kind: ProblemKind::Missing,
                reason: "the workload's identity has no source".to_owned(),
                cure: "add ca: (with address, bundle, tokenFile) or files: (with certificate, key, bundle)"
                    .to_owned(),
            };
            s.reader().refuse(s.origin(), s.path(), bad);
            return None;
        }
    };
    Some(IdentityConfig { trust_domain, source })
}

fn ca(s: &Section<'_, '_>, used: bool, trust_domain: &TrustDomain) -> Option<CaSource> {
    let address = scalar::parsed("write host:port, such as weft-ca.weft-system.svc:15012");
    let address =
        if used { s.required("address", address) } else { s.scalar("address", address).map(|(a, _)| a) };
    // The paths are those that the injector mounts.
    let path = |name, default: &str| match s.scalar(name, scalar::path) {
        Some((path, _)) => path,
        None => {
            if used {
                s.default(name, &default);
            }
            default.into()
        }
    };
    let bundle = path("bundle", "/etc/weft/root.pem");
    let token_file = path("tokenFile", "/var/run/secrets/weft/token");
    let server_id = match s
        .scalar("serverId", scalar::parsed("write spiffe://<trust-domain>/ns/<namespace>/sa/<account>"))
    {
        Some((id, _)) => id,
        None => {
            let id = format!("spiffe://{trust_domain}/ns/weft-system/sa/weft-ca");
            if used {
                s.default("serverId", &id);
            }
            id.parse::<SpiffeId>().ok()?
        }
    };
    Some(CaSource { address: address?, bundle, server_id, token_file })
}

fn files(s: &Section<'_, '_>, used: bool) -> Option<FileSource> {
    let path = |name| {
        if used { s.required(name, scalar::path) } else { s.scalar(name, scalar::path).map(|(p, _)| p) }
    };
    let (certificate, key, bundle) = (path("certificate"), path("key"), path("bundle"));
    Some(FileSource { certificate: certificate?, key: key?, bundle: bundle? })
}
