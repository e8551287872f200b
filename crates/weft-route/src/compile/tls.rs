//! Certificates, those who vouch for them, and `BackendTLSPolicy`.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use weft_resource::policy::{BackendTlsPolicySpec, WellKnown};
use weft_resource::reference::ObjectRef;
use weft_resource::value::PreciseHost;
use weft_resource::{Kind, Resource, ResourceId, ResourceSet, Spec};

use super::notes::Notes;
use super::{Context, grants};
use crate::age::by_precedence;
use crate::program::{Certificate, Verification};

/// PEM material that was read and checked, each once.
#[derive(Default)]
pub(super) struct Pems {
    certificates: HashMap<ResourceId, Result<Arc<Certificate>, String>>,
    roots: HashMap<ResourceId, Result<Vec<u8>, String>>,
}

/// Why a reference to PEM material cannot be followed, with the reason and the cure of a note.
struct Refused {
    reason: &'static str,
    message: String,
    cure: String,
}

/// What a reference may lead to.
#[derive(Clone, Copy)]
enum Wanted {
    /// A chain and its key.
    Certificate,
    /// Certificates of those who vouch.
    Roots,
}

impl Context<'_> {
    /// The certificate that a reference leads to; `None`, with a note: there is none that can be used.
    pub(super) fn certificate(
        &mut self,
        from: &Resource,
        reference: &ObjectRef,
        field: &str,
    ) -> Option<Arc<Certificate>> {
        let found =
            self.target(from, reference, Wanted::Certificate).and_then(|id| self.read_certificate(&id));
        found.map_err(|refused| self.refuse(from, field, refused)).ok()
    }

    /// What those references lead to that can be followed; the others have a note each.
    pub(super) fn roots(&mut self, from: &Resource, references: &[ObjectRef], field: &str) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (at, reference) in references.iter().enumerate() {
            let found = self.target(from, reference, Wanted::Roots).and_then(|id| self.read_roots(&id));
            match found {
                Ok(pem) => all.push(pem),
                Err(refused) => self.refuse(from, &format!("{field}[{at}]"), refused),
            }
        }
        all
    }

    fn refuse(&mut self, from: &Resource, field: &str, refused: Refused) {
        self.notes.error(from, field, refused.reason, refused.message, refused.cure);
    }

    /// Which resource a reference means, if it may be referred to.
    fn target(&self, from: &Resource, reference: &ObjectRef, wanted: Wanted) -> Result<ResourceId, Refused> {
        let group = reference.group.as_deref().unwrap_or_default();
        let usual = match wanted {
            Wanted::Certificate => Kind::Secret,
            Wanted::Roots => Kind::ConfigMap,
        };
        let given = reference.kind.as_deref().unwrap_or(usual.as_str());
        let fits = |kind: &&Kind| kind.group() == group && kind.as_str() == given;
        let kinds: &[Kind] = match wanted {
            Wanted::Certificate => &[Kind::Secret, Kind::Certificate],
            Wanted::Roots => &[Kind::ConfigMap, Kind::Secret, Kind::Certificate],
        };
        let Some(kind) = kinds.iter().find(fits) else {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            return Err(Refused {
                reason: match wanted {
                    Wanted::Certificate => "InvalidCertificateRef",
                    Wanted::Roots => "InvalidKind",
                },
                message: format!("`{given}` of group `{group}` is no kind of a certificate"),
                cure: format!("use one of {} (a Certificate is of group weft.dev)", names.join(", ")),
            });
        };
        let namespace = reference.namespace.as_deref().unwrap_or(&from.id.namespace);
        let id = ResourceId::new(*kind, namespace, &reference.name);
        match self.grants.allow(from, &id) {
            true => Ok(id),
            false => Err(Refused {
                reason: "RefNotPermitted",
                message: format!("{id} is in another namespace, and nothing there grants the reference"),
                cure: grants::cure(from, &id),
            }),
        }
    }

    fn read_certificate(&mut self, id: &ResourceId) -> Result<Arc<Certificate>, Refused> {
        let read = match self.pems.certificates.get(id) {
            Some(read) => read.clone(),
            None => {
                let read = self.load_certificate(id);
                self.pems.certificates.insert(id.clone(), read.clone());
                read
            }
        };
        read.map_err(|message| Refused {
            reason: "InvalidCertificateRef",
            message,
            cure: match id.kind {
                Kind::Certificate => "`certificateFile` and `keyFile` name a PEM chain, leaf first, and its key",
                _ => "a Secret of type kubernetes.io/tls has a PEM chain, leaf first, in `tls.crt` and its key in `tls.key`",
            }
            .to_owned(),
        })
    }

    fn load_certificate(&self, id: &ResourceId) -> Result<Arc<Certificate>, String> {
        let resource = self.set.get(id).ok_or_else(|| format!("there is no {id}"))?;
        let (chain, key) = match &resource.spec {
            Spec::Secret(secret) if secret.kind != "kubernetes.io/tls" => {
                return Err(format!("{id} is of type `{}`, and not kubernetes.io/tls", secret.kind));
            }
            Spec::Secret(secret) => {
                let value =
                    |key: &str| secret.data.get(key).cloned().ok_or_else(|| format!("{id} has no `{key}`"));
                (value("tls.crt")?, value("tls.key")?)
            }
            Spec::Certificate(spec) => {
                let missing = || format!("{id} has no `certificateFile` and `keyFile` that could be read");
                let pair = spec.content.pair.as_ref().ok_or_else(missing)?;
                (pair.chain.clone(), pair.key.clone())
            }
            _ => return Err(format!("{id} has no certificate")),
        };
        check_pair(&chain, &key).map_err(|why| format!("{id}: {why}"))?;
        Ok(Arc::new(Certificate { id: id.clone(), chain, key }))
    }

    fn read_roots(&mut self, id: &ResourceId) -> Result<Vec<u8>, Refused> {
        let read = match self.pems.roots.get(id) {
            Some(read) => read.clone(),
            None => {
                let read = self.load_roots(id);
                self.pems.roots.insert(id.clone(), read.clone());
                read
            }
        };
        read.map_err(|message| Refused {
            reason: "InvalidCACertificateRef",
            message,
            cure: match id.kind {
                Kind::Certificate => "`caFile` names PEM certificates of those who vouch",
                _ => "put PEM certificates of those who vouch into its key `ca.crt`",
            }
            .to_owned(),
        })
    }

    fn load_roots(&self, id: &ResourceId) -> Result<Vec<u8>, String> {
        let resource = self.set.get(id).ok_or_else(|| format!("there is no {id}"))?;
        let missing = || format!("{id} has no `ca.crt`");
        let pem = match &resource.spec {
            Spec::ConfigMap(map) => map.bytes("ca.crt").ok_or_else(missing)?.to_vec(),
            Spec::Secret(secret) => secret.data.get("ca.crt").ok_or_else(missing)?.clone(),
            Spec::Certificate(spec) => {
                let missing = || format!("{id} has no `caFile` that could be read");
                spec.content.roots.as_ref().ok_or_else(missing)?.to_vec()
            }
            _ => return Err(missing()),
        };
        check_roots(&pem).map_err(|why| format!("{id}: {why}"))?;
        Ok(pem)
    }
}

/// Whether these are a chain and the key of its leaf.
fn check_pair(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("the certificate has no PEM block CERTIFICATE".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key is no PEM: {error}"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map(drop)
        .map_err(|error| format!("certificate and key cannot be used together: {error}"))
}

/// Whether there are certificates that can vouch, and nothing else.
fn check_roots(pem: &[u8]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("`ca.crt` is no PEM: {error}"))?;
        store.add(certificate).map_err(|error| format!("`ca.crt` has no usable certificate: {error}"))?;
    }
    match store.is_empty() {
        true => Err("`ca.crt` has no PEM block CERTIFICATE".to_owned()),
        false => Ok(()),
    }
}

/// The policies by service and port, and what came of those that were looked at.
#[derive(Default)]
pub(super) struct Policies<'a> {
    by_target: HashMap<(&'a str, &'a str, Option<&'a str>), &'a Arc<Resource>>,
    resolved: HashMap<ResourceId, Result<ServerIdentity, String>>,
}

/// What a policy says a server must be.
#[derive(Clone)]
pub(super) struct ServerIdentity {
    /// The server name that is sent.
    pub(super) server_name: PreciseHost,
    /// What the certificate must be.
    pub(super) verification: Verification,
}

impl<'a> Policies<'a> {
    /// Sorts policies to their targets; where two have one target, the older holds.
    pub(super) fn new(set: &'a ResourceSet, notes: &mut Notes) -> Self {
        let mut policies: Vec<(&Arc<Resource>, &BackendTlsPolicySpec)> = set.backend_tls().collect();
        policies.sort_by(|(a, _), (b, _)| by_precedence(a, b));
        let mut by_target: HashMap<_, &Arc<Resource>> = HashMap::new();
        for (policy, spec) in policies {
            for option in spec.options.keys() {
                let field = format!("spec.options[{option}]");
                let message = format!("`{option}` is no option that Weft has");
                notes.warning(policy, field, "UnsupportedValue", message, "take it out");
            }
            for (at, target) in spec.target_refs.iter().enumerate() {
                let field = format!("spec.targetRefs[{at}]");
                if !(target.group.is_empty() && target.kind == "Service") {
                    let message =
                        format!("`{}` of group `{}` is no kind of a target", target.kind, target.group);
                    notes.error(
                        policy,
                        field,
                        "InvalidKind",
                        message,
                        "a target is a Service: `group: \"\"`, `kind: Service`",
                    );
                    continue;
                }
                let section = target.section_name.as_ref().map(|name| name.as_str());
                if let Err(message) = exists(set, policy, &target.name, section) {
                    notes.warning(policy, field.clone(), "TargetNotFound", message, "a target is a Service of the policy's namespace, and `sectionName` the name of one of its ports");
                }
                let key = (&*policy.id.namespace, target.name.as_str(), section);
                match by_target.get(&key) {
                    Some(winner) if winner.id != policy.id => {
                        let message =
                            format!("{} has the same target and is older, or the first by name", winner.id);
                        notes.error(
                            policy,
                            field,
                            "Conflicted",
                            message,
                            "take the target out of one of them",
                        );
                    }
                    Some(_) => {}
                    None => {
                        by_target.insert(key, policy);
                    }
                }
            }
        }
        Self { by_target, resolved: HashMap::new() }
    }
}

fn exists(set: &ResourceSet, policy: &Resource, name: &str, section: Option<&str>) -> Result<(), String> {
    let id = ResourceId::new(Kind::Service, &policy.id.namespace, name);
    let Some(Spec::Service(service)) = set.get(&id).map(|service| &service.spec) else {
        return Err(format!("there is no {id}"));
    };
    let is_port = |section: &str| service.ports.iter().any(|port| port.name.as_deref() == Some(section));
    match section {
        Some(section) if !is_port(section) => Err(format!("{id} has no port named `{section}`")),
        _ => Ok(()),
    }
}

impl Context<'_> {
    /// What the server behind a port of a service must be; `None`: no policy is for it. The policy for the port comes before that for the whole.
    pub(super) fn server_identity(
        &mut self,
        service: &ResourceId,
        port_name: Option<&str>,
    ) -> Option<Result<ServerIdentity, String>> {
        let of = |section: Option<&str>| {
            self.policies.by_target.get(&(&*service.namespace, &*service.name, section)).copied()
        };
        let policy = port_name.and_then(|name| of(Some(name))).or_else(|| of(None))?;
        let policy = Arc::clone(policy);
        if let Some(resolved) = self.policies.resolved.get(&policy.id) {
            return Some(resolved.clone());
        }
        let resolved = self.resolve_policy(&policy);
        self.policies.resolved.insert(policy.id.clone(), resolved.clone());
        Some(resolved)
    }

    fn resolve_policy(&mut self, policy: &Resource) -> Result<ServerIdentity, String> {
        let Spec::BackendTlsPolicy(spec) = &policy.spec else {
            return Err(format!("{} is no policy", policy.id));
        };
        let validation = &spec.validation;
        let field = "spec.validation.caCertificateRefs";
        let roots = match (validation.ca_certificate_refs.is_empty(), validation.well_known) {
            (true, Some(WellKnown::System)) => None,
            (false, None) => Some(self.roots(policy, &validation.ca_certificate_refs, field)),
            (empty, _) => {
                let message = match empty {
                    true => "neither `caCertificateRefs` nor `wellKnownCACertificates` is set",
                    false => "`caCertificateRefs` and `wellKnownCACertificates` exclude each other",
                };
                self.notes.error(policy, "spec.validation", "Invalid", message, "set one of them");
                return Err(format!("{}: {message}", policy.id));
            }
        };
        if roots.as_ref().is_some_and(Vec::is_empty) {
            let message = "nobody vouches for the backend: its requests are answered with 500";
            self.notes.error(
                policy,
                field,
                "NoValidCACertificate",
                message,
                "see the notes on each reference",
            );
            return Err(format!("{} has no valid CA certificate", policy.id));
        }
        let verification = Verification { roots, names: validation.subject_alt_names.clone() };
        Ok(ServerIdentity { server_name: validation.hostname.clone(), verification })
    }
}
