//! The rules of `Gateway`.

use std::net::IpAddr;

use super::Findings;
use crate::gateway::{
    FromNamespaces, FrontendTlsConfig, GatewaySpec, LabelOperator, Listener, ListenerTls, Protocol, TlsMode,
};
use crate::value::PreciseHost;

/// Limits of the CRD.
const MAX_LISTENERS: usize = 64;
const MAX_ADDRESSES: usize = 16;
const MAX_CERTIFICATES: usize = 64;
const MAX_OPTIONS: usize = 16;
const MAX_ROUTE_KINDS: usize = 8;
const MAX_PORTS: usize = 64;
const MAX_CA_REFS: usize = 8;

pub(super) fn gateway(spec: &GatewaySpec, findings: &mut Findings) {
    findings.count("spec.listeners", spec.listeners.len(), 1, MAX_LISTENERS);
    for (index, one) in spec.listeners.iter().enumerate() {
        listener(one, &format!("spec.listeners[{index}]"), findings);
    }
    findings.unique(
        &spec.listeners,
        |one| Some(one.name.clone()),
        |index| format!("spec.listeners[{index}].name"),
        |one, earlier| format!("`{}` is the name of listeners[{earlier}] already", one.name),
    );
    findings.unique(
        &spec.listeners,
        |one| Some((one.port, one.protocol, one.hostname.clone())),
        |index| format!("spec.listeners[{index}]"),
        |_, earlier| format!("listeners[{earlier}] has the same port, protocol and hostname"),
    );
    addresses(spec, findings);
    let Some(tls) = &spec.tls else { return };
    let Some(frontend) = &tls.frontend else { return };
    validation(&frontend.default, "spec.tls.frontend.default", findings);
    findings.count("spec.tls.frontend.perPort", frontend.per_port.len(), 0, MAX_PORTS);
    for (index, port) in frontend.per_port.iter().enumerate() {
        validation(&port.tls, &format!("spec.tls.frontend.perPort[{index}].tls"), findings);
    }
    findings.unique(
        &frontend.per_port,
        |one| Some(one.port),
        |index| format!("spec.tls.frontend.perPort[{index}].port"),
        |one, earlier| format!("port {} is that of perPort[{earlier}] already", one.port),
    );
}

fn listener(listener: &Listener, at: &str, findings: &mut Findings) {
    match (listener.protocol, &listener.tls) {
        (Protocol::Mesh, Some(_)) => {
            let reason = "a mesh listener has the mesh's own certificates, and no `tls`";
            findings.conflict(format!("{at}.tls"), reason, "take it away");
        }
        (Protocol::Http | Protocol::Tcp, Some(_)) => {
            let reason = "a listener of protocol HTTP or TCP has no `tls`";
            findings.conflict(format!("{at}.tls"), reason, "take it away, or use protocol HTTPS or TLS");
        }
        (Protocol::Https | Protocol::Tls, None) => {
            let reason = "a listener of protocol HTTPS or TLS needs `tls`";
            findings.missing(format!("{at}.tls"), reason, "add `tls` with its `certificateRefs`");
        }
        (Protocol::Https, Some(tls)) if tls.mode == TlsMode::Passthrough => {
            let reason = "protocol HTTPS terminates TLS";
            findings.conflict(
                format!("{at}.tls.mode"),
                reason,
                "write `mode: Terminate`, or use protocol TLS",
            );
        }
        (Protocol::Https | Protocol::Tls, Some(tls)) => termination(tls, at, findings),
        (Protocol::Http | Protocol::Tcp | Protocol::Mesh, None) => {}
    }
    if listener.protocol == Protocol::Tcp && listener.hostname.is_some() {
        let reason = "a listener of protocol TCP sees no host name";
        findings.conflict(format!("{at}.hostname"), reason, "take it away");
    }
    let allowed = &listener.allowed_routes;
    findings.count(format!("{at}.allowedRoutes.kinds"), allowed.kinds.len(), 0, MAX_ROUTE_KINDS);
    let namespaces = format!("{at}.allowedRoutes.namespaces");
    match (allowed.namespaces.from, &allowed.namespaces.selector) {
        (FromNamespaces::Selector, None) => {
            findings.missing(format!("{namespaces}.selector"), "`from: Selector` needs a selector", "add it");
        }
        (FromNamespaces::Selector, Some(selector)) => {
            for (index, expression) in selector.match_expressions.iter().enumerate() {
                let wants_values = matches!(expression.operator, LabelOperator::In | LabelOperator::NotIn);
                if wants_values == expression.values.is_empty() {
                    let reason = match wants_values {
                        true => "`In` and `NotIn` need values",
                        false => "`Exists` and `DoesNotExist` have no values",
                    };
                    findings.conflict(
                        format!("{namespaces}.selector.matchExpressions[{index}].values"),
                        reason,
                        "",
                    );
                }
            }
        }
        _ => {}
    }
}

fn termination(tls: &ListenerTls, at: &str, findings: &mut Findings) {
    findings.count(format!("{at}.tls.certificateRefs"), tls.certificate_refs.len(), 0, MAX_CERTIFICATES);
    findings.count(format!("{at}.tls.options"), tls.options.len(), 0, MAX_OPTIONS);
    if tls.mode == TlsMode::Terminate && tls.certificate_refs.is_empty() && tls.options.is_empty() {
        let reason = "who terminates TLS needs `certificateRefs` or `options`";
        findings.missing(
            format!("{at}.tls.certificateRefs"),
            reason,
            "name a Secret of type kubernetes.io/tls, or a Certificate",
        );
    }
}

fn validation(config: &FrontendTlsConfig, at: &str, findings: &mut Findings) {
    if let Some(validation) = &config.validation {
        let count = validation.ca_certificate_refs.len();
        findings.count(format!("{at}.validation.caCertificateRefs"), count, 1, MAX_CA_REFS);
    }
}

fn addresses(spec: &GatewaySpec, findings: &mut Findings) {
    findings.count("spec.addresses", spec.addresses.len(), 0, MAX_ADDRESSES);
    for (index, address) in spec.addresses.iter().enumerate() {
        let Some(value) = &address.value else { continue };
        let field = format!("spec.addresses[{index}].value");
        match address.kind.as_deref() {
            None | Some("IPAddress") if value.parse::<IpAddr>().is_err() => {
                findings.invalid(field, format!("`{value}` is no IP address"), "");
            }
            Some("Hostname") => {
                if let Err(reason) = value.parse::<PreciseHost>() {
                    findings.invalid(field, reason, "");
                }
            }
            _ => {}
        }
    }
    findings.unique(
        &spec.addresses,
        |one| {
            one.value.clone().map(|value| (one.kind.clone().unwrap_or_else(|| "IPAddress".to_owned()), value))
        },
        |index| format!("spec.addresses[{index}]"),
        |_, earlier| format!("addresses[{earlier}] is the same"),
    );
}
