//! The rules of what routes and gateways refer to.

use super::Findings;
use crate::core_kinds::{Secret, ServiceSpec};
use crate::own::{BackendSpec, CertificateSpec};
use crate::pem;
use crate::policy::{BackendTlsPolicySpec, ReferenceGrantSpec};

/// Limits of the CRDs.
const MAX_GRANTS: usize = 16;
const MAX_TARGETS: usize = 16;
const MAX_CA_REFS: usize = 8;
const MAX_ALT_NAMES: usize = 5;
const MAX_OPTIONS: usize = 16;
/// Of ours: as many as a listener may have certificates.
const MAX_ENDPOINTS: usize = 64;

pub(super) fn grant(spec: &ReferenceGrantSpec, findings: &mut Findings) {
    findings.count("spec.from", spec.from.len(), 1, MAX_GRANTS);
    findings.count("spec.to", spec.to.len(), 1, MAX_GRANTS);
}

pub(super) fn backend_tls(spec: &BackendTlsPolicySpec, findings: &mut Findings) {
    findings.count("spec.targetRefs", spec.target_refs.len(), 1, MAX_TARGETS);
    for (index, target) in spec.target_refs.iter().enumerate() {
        let earlier = spec.target_refs.iter().take(index).find(|earlier| {
            (&earlier.group, &earlier.kind, &earlier.name) == (&target.group, &target.kind, &target.name)
                && (earlier.section_name == target.section_name
                    || earlier.section_name.is_none()
                    || target.section_name.is_none())
        });
        if earlier.is_some() {
            let reason = format!("`{}` is a target twice, and nothing tells the two apart", target.name);
            findings.conflict(
                format!("spec.targetRefs[{index}]"),
                reason,
                "keep one, or give each a `sectionName` of its own",
            );
        }
    }
    let validation = &spec.validation;
    findings.count("spec.validation.caCertificateRefs", validation.ca_certificate_refs.len(), 0, MAX_CA_REFS);
    findings.count("spec.validation.subjectAltNames", validation.subject_alt_names.len(), 0, MAX_ALT_NAMES);
    findings.count("spec.options", spec.options.len(), 0, MAX_OPTIONS);
    let either = "`caCertificateRefs` and `wellKnownCACertificates`";
    match (validation.ca_certificate_refs.is_empty(), validation.well_known) {
        (true, None) => {
            findings.missing("spec.validation", format!("one of {either} must be there"), "add one");
        }
        (false, Some(_)) => {
            findings.conflict("spec.validation", format!("{either} exclude each other"), "keep one");
        }
        _ => {}
    }
}

pub(super) fn service(spec: &ServiceSpec, findings: &mut Findings) {
    let protocol =
        |one: &crate::core_kinds::ServicePort| one.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    findings.unique(
        &spec.ports,
        |one| Some((one.port, protocol(one))),
        |index| format!("spec.ports[{index}].port"),
        |one, earlier| format!("port {} is that of ports[{earlier}] already", one.port),
    );
    findings.unique(
        &spec.ports,
        |one| Some(one.name.clone()),
        |index| format!("spec.ports[{index}].name"),
        |_, earlier| format!("ports[{earlier}] has the same name; of several ports each has its own"),
    );
}

pub(super) fn secret(secret: &Secret, findings: &mut Findings) {
    /// The type that has a certificate (`core/v1`, `SecretTypeTLS`), and its keys.
    const TLS: &str = "kubernetes.io/tls";
    if secret.kind != TLS {
        return;
    }
    let mut value = |name: &str| {
        let value = secret.data.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            findings.missing("data", format!("a Secret of type {TLS} needs `{name}`"), "add it");
        }
        value
    };
    let (chain, key) = (value("tls.crt"), value("tls.key"));
    if let (Some(chain), Some(key)) = (chain, key)
        && let Err(reason) = pem::check_pair(chain, key)
    {
        findings.add(crate::ErrorKind::Certificate, "data", reason, "");
    }
}

pub(super) fn backend(spec: &BackendSpec, findings: &mut Findings) {
    findings.count("spec.endpoints", spec.endpoints.len(), 1, MAX_ENDPOINTS);
    findings.unique(
        &spec.endpoints,
        |one| Some(one.clone()),
        |index| format!("spec.endpoints[{index}]"),
        |one, _| format!("{}:{} is there already", one.host, one.port),
    );
}

pub(super) fn certificate(spec: &CertificateSpec, findings: &mut Findings) {
    match (&spec.certificate_file, &spec.key_file, &spec.ca_file) {
        (None, None, None) => {
            findings.missing(
                "spec",
                "a Certificate names at least one file",
                "add `certificateFile` and `keyFile`, or `caFile`",
            );
        }
        (Some(_), None, _) => {
            findings.missing("spec.keyFile", "`certificateFile` needs `keyFile`", "add it");
        }
        (None, Some(_), _) => {
            findings.missing("spec.certificateFile", "`keyFile` needs `certificateFile`", "add it");
        }
        _ => {}
    }
}
