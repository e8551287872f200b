//! What an X.509-SVID says: the one place that reads a workload's certificate.

use std::time::{Duration, SystemTime};

use weft_core::SpiffeId;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::IdentityError;

/// The tag of `uniformResourceIdentifier` in `GeneralName` (RFC 5280 section 4.2.1.6).
const URI_TAG: u32 = 6;

/// The parts of a leaf that the mesh looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Svid {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Lower-case hex, as logs and `openssl x509 -serial` show it.
    pub(crate) serial: String,
    /// Whether the extended key usage names TLS servers.
    pub(crate) server: bool,
    /// Whether the extended key usage names TLS clients.
    pub(crate) client: bool,
}

/// Which end of a connection a certificate is used at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

impl Svid {
    /// Reads a leaf and checks the rules of X509-SVID section 5.2: one URI name, a SPIFFE id; not a CA; not a key that
    /// signs certificates. Says nothing about who signed it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, IdentityError> {
        let cert = parse_certificate(der)?;
        let refuse = |reason: &str| Err(IdentityError::Certificate(reason.to_owned()));
        if cert.is_ca() {
            return refuse("a CA certificate is not a workload's");
        }
        match cert.key_usage() {
            Ok(Some(usage)) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
                return refuse("its key may sign certificates");
            }
            Ok(Some(usage)) if !usage.value.digital_signature() => {
                return refuse("its key may not sign handshakes");
            }
            Ok(_) => {}
            Err(_) => return refuse("more than one key usage extension"),
        }
        let (server, client) = match cert.extended_key_usage() {
            Ok(Some(usage)) => (usage.value.server_auth, usage.value.client_auth),
            Ok(None) => (false, false),
            Err(_) => return refuse("more than one extended key usage extension"),
        };
        Ok(Self {
            server,
            client,
            id: spiffe_id(&cert)?,
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
            serial: hex(cert.raw_serial()),
        })
    }

    /// Whether the leaf may be used at that end. The extension has to be there: a mesh leaf always has it, and a
    /// certificate without it (RFC 5280 section 4.2.1.12: good for anything) was made for something else.
    pub(crate) fn check_side(&self, side: Side) -> Result<(), IdentityError> {
        match side {
            Side::Server if !self.server => {
                Err(IdentityError::Certificate("its extended key usage does not name TLS servers".to_owned()))
            }
            Side::Client if !self.client => {
                Err(IdentityError::Certificate("its extended key usage does not name TLS clients".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// One DER certificate and nothing after it.
pub(crate) fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(IdentityError::Certificate("bytes after its end".to_owned())),
        Err(error) => Err(IdentityError::Certificate(format!("not X.509: {error}"))),
    }
}

fn spiffe_id(cert: &X509Certificate<'_>) -> Result<SpiffeId, IdentityError> {
    let names = match cert.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        Ok(None) => return Err(IdentityError::UriNames(0)),
        Err(_) => {
            return Err(IdentityError::Certificate(
                "more than one subject alternative name extension".to_owned(),
            ));
        }
    };
    let mut uris = names.iter().filter(|name| match name {
        GeneralName::URI(_) => true,
        // A URI that does not parse still counts, so that it cannot hide beside a good one.
        GeneralName::Invalid(tag, _) => tag.0 == URI_TAG,
        _ => false,
    });
    match (uris.next(), uris.count()) {
        (Some(GeneralName::URI(uri)), 0) => Ok(uri.parse()?),
        (Some(_), 0) => Err(IdentityError::Certificate("its URI name is not text".to_owned())),
        (Some(_), more) => Err(IdentityError::UriNames(more + 1)),
        (None, _) => Err(IdentityError::UriNames(0)),
    }
}

/// A certificate's time. Times before 1970 become 1970: such a certificate is long expired either way.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
