//! Good and bad certificates, signed by the mesh's own CA or by a stranger of the same name.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_testbed::Ca;

const HOUR: Duration = Duration::from_secs(3600);

/// Something that signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// A credential that no strict peer may accept, and its name for messages.
pub(crate) struct Bad {
    pub(crate) what: &'static str,
    pub(crate) credential: Credential,
}

impl Authority {
    /// The mesh's own CA: its key is in a file that only this test (and root on its node) can read.
    pub(crate) fn of(ca: &Ca) -> Result<Self> {
        let read = |name: &str| {
            let path = ca.pod().dir().join("data").join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let key = KeyPair::from_pem(&read("ca-key.pem")?).context("the CA's key")?;
        let certificate = read("ca.pem")?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).context("the CA's certificate")?;
        Ok(Self { issuer, certificate })
    }

    /// Another CA that calls itself the same.
    pub(crate) fn stranger(name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).context("a stranger's root")?;
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).context("a stranger's root")?;
        Ok(Self { issuer, certificate: certificate.pem() })
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.certificate
    }

    /// A leaf as the mesh's CA makes them, valid for an hour, with changes.
    pub(crate) fn leaf(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Credential> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(Ia5String::try_from(*uri).context("a URI")?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).context("signing")?;
        Ok(Credential {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A good leaf of an identity in the mesh's trust domain.
    pub(crate) fn good(&self, namespace: &str, account: &str) -> Result<Credential> {
        self.leaf(&[&id(namespace, account)], |_| ())
    }
}

/// An identity of the mesh.
pub(crate) fn id(namespace: &str, account: &str) -> String {
    format!("spiffe://weft.local/ns/{namespace}/sa/{account}")
}

/// Everything that neither a client nor a server may show, all in the name of `shop/<account>`.
pub(crate) fn bad_credentials(ca: &Ca, account: &str) -> Result<Vec<Bad>> {
    let mesh = Authority::of(ca)?;
    let own = id("shop", account);
    let own = own.as_str();
    let bad = |what, credential| Bad { what, credential };
    Ok(vec![
        bad("another CA", Authority::stranger("weft.local")?.leaf(&[own], |_| ())?),
        bad("expired", mesh.leaf(&[own], |leaf| leaf.not_after = (SystemTime::now() - HOUR / 2).into())?),
        bad(
            "not yet valid",
            mesh.leaf(&[own], |leaf| leaf.not_before = (SystemTime::now() + HOUR / 2).into())?,
        ),
        bad("another trust domain", mesh.leaf(&[&own.replace("weft.local", "other.local")], |_| ())?),
        bad("a longer trust domain", mesh.leaf(&[&own.replace("weft.local", "weft.local.evil")], |_| ())?),
        bad(
            "no SPIFFE id",
            mesh.leaf(&[], |leaf| {
                leaf.subject_alt_names.extend(Ia5String::try_from("orders.shop").map(SanType::DnsName));
            })?,
        ),
        bad("two ids", mesh.leaf(&[own, &id("bank", "admin")], |_| ())?),
        bad("an id of another shape", mesh.leaf(&[&format!("{own}/more")], |_| ())?),
        bad(
            "a CA's certificate",
            mesh.leaf(&[own], |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))?,
        ),
        bad(
            "made for signing code",
            mesh.leaf(&[own], |leaf| {
                leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            })?,
        ),
    ])
}
