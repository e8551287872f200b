//! Who may ask: everybody who reaches the port, or only who has the API server's certificate.
//!
//! An API server shows a certificate to webhooks only where its administrator has told it to (AdmissionConfiguration with
//! a kubeconfig), so it is not asked for unless the settings say who vouches for it.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use weft_identity::crypto_provider;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The `webhook` section of `config.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookSettings {
    /// PEM certificates of the authorities that the API server's client certificate is of. Empty: everybody may ask.
    pub client_ca: String,
    /// Names of which the certificate must have one, as common name or DNS name. Empty: any that the authorities vouch
    /// for.
    pub client_names: Vec<String>,
}

/// Judges callers.
#[derive(Clone)]
pub(super) struct Callers {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl WebhookSettings {
    /// The field that cannot be used, and why.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        self.callers().err()
    }

    /// Who may ask; `None` for everybody.
    pub(super) fn callers(&self) -> Result<Option<Callers>, (&'static str, String)> {
        let wrong = |reason: String| ("clientCa", reason);
        if self.client_ca.trim().is_empty() {
            if self.client_names.is_empty() {
                return Ok(None);
            }
            let why = "nobody's certificate is asked for without clientCa; set it, or take the names away";
            return Err(("clientNames", why.to_owned()));
        }
        if self.client_names.iter().any(String::is_empty) {
            return Err(("clientNames", "a name is empty; take it away".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.client_ca.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(format!("this is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| wrong(format!("this is no CA certificate: {error}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("there is no certificate in it; write it as PEM".to_owned()));
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto_provider().clone())
                .build()
                .map_err(|error| wrong(error.to_string()))?;
        Ok(Some(Callers { verifier, names: self.client_names.clone() }))
    }
}

impl Callers {
    /// For the handshake, which fails without a certificate that this takes.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// Whether one of the names is in the certificate that the handshake has verified.
    pub(super) fn expect(&self, chain: Option<&[CertificateDer<'_>]>) -> bool {
        let leaf = chain.and_then(<[_]>::first);
        self.names.is_empty() || leaf.is_some_and(|leaf| self.is_named(leaf))
    }

    fn is_named(&self, leaf: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
        let expected = |name: &str| self.names.iter().any(|expected| expected == name);
        let mut common = certificate.subject().iter_common_name();
        if common.any(|name| name.as_str().is_ok_and(expected)) {
            return true;
        }
        let Ok(Some(alternative)) = certificate.subject_alternative_name() else { return false };
        alternative.value.general_names.iter().any(|name| match name {
            GeneralName::DNSName(name) => expected(name),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(common: &str, dns: &[&str]) -> rcgen::Certificate {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn names_are_common_names_or_dns_names() {
        let settings = |names: &[&str]| WebhookSettings {
            client_ca: certificate("root", &[]).pem(),
            client_names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let takes = |names: &[&str], leaf: &rcgen::Certificate| {
            settings(names).callers().unwrap().unwrap().expect(Some(&[leaf.der().clone()]))
        };
        let leaf = certificate("kube-apiserver", &["api.example"]);
        assert!(
            takes(&["kube-apiserver"], &leaf) && takes(&["x", "api.example"], &leaf) && takes(&[], &leaf)
        );
        assert!(!takes(&["kube-api"], &leaf) && !takes(&["example"], &leaf));
        assert!(!settings(&["a"]).callers().unwrap().unwrap().expect(None));
    }

    #[test]
    fn without_a_ca_everybody_may_ask_and_mistakes_are_told() {
        assert!(WebhookSettings::default().callers().unwrap().is_none());
        let told = |ca: &str, names: &[&str]| {
            let client_names = names.iter().map(|name| (*name).to_owned()).collect();
            WebhookSettings { client_ca: ca.to_owned(), client_names }.problem().unwrap()
        };
        assert_eq!(told("", &["a"]).0, "clientNames");
        assert_eq!(told(&certificate("a", &[]).pem(), &[""]).0, "clientNames");
        assert!(told("text", &[]).1.contains("no certificate"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(told(broken, &[]).0, "clientCa");
    }
}
