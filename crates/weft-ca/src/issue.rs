//! Leaves: what is in them, and how long they last.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, DnsName};
use weft_core::SpiffeId;

use crate::CaError;

/// How far a leaf's start is set back: a peer whose clock is behind must not find a fresh leaf "not yet valid". NTP
/// keeps clocks within seconds; five minutes cover a machine that has just booted without it.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// RFC 5280 section 4.1.2.2 allows 20 octets; 16 random ones never repeat and cannot be guessed.
const SERIAL_LEN: usize = 16;

/// The life of a server's certificate by DNS name: renewed at half of it, within reach of a working day.
const SERVER_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Whose leaf it is, and thereby what it may be used for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A workload: it accepts and dials mesh links.
    Workload(&'a SpiffeId),
    /// The CA's own server: it accepts only.
    Ca(&'a SpiffeId),
    /// A server that is known by DNS names. Without a SPIFFE id no mesh peer takes it for a workload.
    Dns(&'a [&'a str]),
}

/// A certificate that was just signed.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The leaf, then the issuing certificate where it is not itself a root of the bundle.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Lower-case hex.
    pub(crate) serial: String,
    /// In whole seconds.
    pub(crate) not_after: SystemTime,
}

/// Signs leaves with one CA certificate.
pub(crate) struct LeafIssuer {
    issuer: Issuer<'static, KeyPair>,
    /// The end of the issuing certificate.
    ends: SystemTime,
    lifetime: Duration,
    intermediates: Vec<CertificateDer<'static>>,
    random: SystemRandom,
    /// So that the log says once that leaves have become shorter than configured.
    shortened: AtomicBool,
}

impl LeafIssuer {
    pub(crate) fn new(
        issuer: Issuer<'static, KeyPair>,
        ends: SystemTime,
        lifetime: Duration,
        intermediates: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            issuer,
            ends,
            lifetime,
            intermediates,
            random: SystemRandom::new(),
            shortened: AtomicBool::new(false),
        }
    }

    /// Signs `key` for exactly `subject`.
    pub(crate) fn issue(
        &self,
        subject: Subject<'_>,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let fail = |error: rcgen::Error| CaError::Sign(error.to_string());
        let not_after = self.end(now, subject.lifetime(self.lifetime))?;
        let mut serial = [0; SERIAL_LEN];
        self.random
            .fill(&mut serial)
            .map_err(|_| CaError::Sign("the system has no randomness".to_owned()))?;
        // The first octet is made 0x40..0x7f: a positive number of always the same length.
        if let Some(first) = serial.first_mut() {
            *first = (*first & 0x7f) | 0x40;
        }
        let mut params = CertificateParams::default();
        // No subject: the name extension is the identity, and rcgen marks it critical then (RFC 5280 section 4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = subject.names()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = subject.usages();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = now.checked_sub(BACKDATE).unwrap_or(SystemTime::UNIX_EPOCH).into();
        params.not_after = not_after.into();
        let leaf = params.signed_by(key, &self.issuer).map_err(fail)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Issued { chain, serial: hex(&serial), not_after })
    }

    /// The end of a leaf made now: its life, but not beyond the certificate it is signed with.
    fn end(&self, now: SystemTime, lifetime: Duration) -> Result<SystemTime, CaError> {
        let wanted = whole_seconds(now.checked_add(lifetime).unwrap_or(self.ends));
        let end = wanted.min(self.ends);
        if end <= now {
            return Err(CaError::Root(format!(
                "it expired at {}; nothing can be signed with it",
                humantime::format_rfc3339_seconds(self.ends)
            )));
        }
        if end < wanted && !self.shortened.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                root_ends = %humantime::format_rfc3339_seconds(self.ends),
                "the root ends within a leaf's life: leaves end with it; replace the root"
            );
        }
        Ok(end)
    }
}

impl Subject<'_> {
    fn lifetime(self, leaf: Duration) -> Duration {
        match self {
            Self::Workload(_) | Self::Ca(_) => leaf,
            Self::Dns(_) => SERVER_LIFETIME,
        }
    }

    fn names(self) -> Result<Vec<SanType>, CaError> {
        let text = |text: &str| {
            Ia5String::try_from(text).map_err(|error| CaError::Sign(format!("name {text:?}: {error}")))
        };
        match self {
            Self::Workload(id) | Self::Ca(id) => Ok(vec![SanType::URI(text(&id.to_string())?)]),
            Self::Dns([]) => Err(CaError::Sign("a server without a name".to_owned())),
            Self::Dns(names) => names
                .iter()
                .map(|name| {
                    DnsName::try_from(*name)
                        .map_err(|_| CaError::Sign(format!("{name:?} is not a DNS name")))?;
                    Ok(SanType::DnsName(text(name)?))
                })
                .collect(),
        }
    }

    fn usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Workload(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Self::Ca(_) | Self::Dns(_) => vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
    }
}

/// Certificates count in whole seconds; rounded up, so that a lifetime of one second is not zero.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
