//! Certificates and keys as PEM: whether they are what they should be. Nothing here prints them.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Whether a chain and a key can be shown by a server: certificates that can be read, and the key of the first.
///
/// # Errors
/// What is wrong, as a sentence without the content.
pub fn check_pair(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(chain)?;
    let key = match PrivateKeyDer::from_pem_slice(key) {
        Ok(key) => key,
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            return Err("there is no private key as PEM in it".to_owned());
        }
        // What the parser says of its input may quote it.
        Err(_) => return Err("the private key is not PEM that can be read".to_owned()),
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the private key is not that of the first certificate".to_owned())
        }
        Err(error) => Err(format!("the certificate or its key cannot be used: {error}")),
    }
}

/// Whether these are certificates of those who may vouch for others.
///
/// # Errors
/// What is wrong, as a sentence without the content.
pub fn check_roots(roots: &[u8]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(roots)?.into_iter().enumerate() {
        store
            .add(certificate)
            .map_err(|error| format!("certificate {} cannot be used: {error}", index + 1))?;
    }
    Ok(())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate as PEM in it".to_owned()),
        Ok(all) => Ok(all),
        Err(_) => Err("the certificates are not PEM that can be read".to_owned()),
    }
}
