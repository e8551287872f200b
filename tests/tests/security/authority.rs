//! The CA as a workload meets it: it signs what the token proves, and nothing else.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use weft_identity::PeerIdentity;
use weft_identity::proto::SignRequest;
use weft_identity::proto::identity_client::IdentityClient;
use weft_testbed::{Mesh, Pod, Service, eventually, story};

use crate::SOON;
use crate::certs::id;
use crate::peers::client;

/// A signing request that asks for everything it may not have.
fn greedy_csr() -> Result<Vec<u8>> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "bank-admin");
    params.subject_alt_names = vec![
        SanType::URI(Ia5String::try_from(id("bank", "admin"))?),
        SanType::DnsName(Ia5String::try_from("admin.bank.svc.cluster.local")?),
    ];
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// Asks the CA from inside a pod; `token` is the whole authorization header.
fn sign(
    mesh: &Mesh,
    pod: &Pod,
    authorization: Option<&str>,
    csr: Vec<u8>,
) -> Result<Result<PeerIdentity, Status>> {
    let address = mesh.ca()?.address_for(pod);
    let tls = client(None, &["h2"])?;
    pod.run(async || {
        let channel = Endpoint::from_static("http://weft-ca").connect_with_connector_lazy(tower::service_fn(
            move |_| {
                let tls = Arc::clone(&tls);
                async move {
                    let tcp = TcpStream::connect(address).await?;
                    let name = ServerName::IpAddress(address.ip().into());
                    TlsConnector::from(tls).connect(name, tcp).await.map(TokioIo::new)
                }
            },
        ));
        let mut request = tonic::Request::new(SignRequest { csr });
        if let Some(authorization) = authorization {
            request.metadata_mut().insert("authorization", authorization.parse()?);
        }
        let answer = match IdentityClient::new(channel).sign(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let chain: Vec<_> = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
        let leaf = PeerIdentity::from_chain(&chain).context("the leaf")?;
        ensure!(
            leaf.id.to_string() == answer.spiffe_id,
            "{leaf:?}, but the answer says {}",
            answer.spiffe_id
        );
        for asked in ["bank", "admin"] {
            let found =
                chain.iter().any(|part| part.windows(asked.len()).any(|bytes| bytes == asked.as_bytes()));
            ensure!(!found, "{asked} is in the certificate");
        }
        Ok(Ok(leaf))
    })
}

#[test]
fn the_ca_signs_the_tokens_identity_whatever_is_asked() {
    story("ca", |mesh| {
        let pod = mesh.pod("web.shop").start()?;
        let ca = mesh.ca()?;
        let token = ca.token("shop", "web")?;
        let expired = ca.token_until("shop", "web", "2020-01-01T00:00:00Z")?;
        let leaf = sign(mesh, &pod, Some(&format!("Bearer {token}")), greedy_csr()?)?
            .map_err(|status| anyhow::anyhow!("a good token was refused: {status}"))?;
        ensure!(leaf.id.to_string() == id("shop", "web"), "{leaf:?}");

        let almost = format!("Bearer {}x", &token[..token.len() - 1]);
        let shapes = [
            ("no token", None),
            ("an unknown token", Some("Bearer 0000000000000000000000000000000000000000".to_owned())),
            ("an expired token", Some(format!("Bearer {expired}"))),
            ("a token with another end", Some(almost)),
            ("half a token", Some(format!("Bearer {}", &token[..20]))),
            ("a token and more", Some(format!("Bearer {token} {token}"))),
            ("another scheme", Some(format!("Basic {token}"))),
            ("only the scheme", Some("Bearer".to_owned())),
        ];
        for (what, authorization) in shapes {
            let status = match sign(mesh, &pod, authorization.as_deref(), greedy_csr()?)? {
                Ok(leaf) => anyhow::bail!("{what}: signed {leaf:?}"),
                Err(status) => status,
            };
            ensure!(status.code() == Code::Unauthenticated, "{what}: {status}");
            // Which of these it was is nobody's business but the operator's.
            ensure!(status.message() == "credential refused", "{what}: {status}");
        }
        let log = ca.process().log();
        for reason in ["unknown token", "expired"] {
            ensure!(log.contains(reason), "the audit log does not say {reason:?}: {log}");
        }
        ensure!(!log.contains(&token) && !log.contains(&expired), "a token is in the CA's log");
        // What is no request at all costs nobody anything.
        for csr in [Vec::new(), vec![0x30, 0x82, 0xff, 0xff], vec![0xff; 4096]] {
            let answer = sign(mesh, &pod, Some(&format!("Bearer {token}")), csr)?;
            ensure!(answer.is_err_and(|status| status.code() == Code::InvalidArgument), "a broken request");
        }
        ensure!(ca.process().is_running(), "the CA has ended");
        Ok(())
    });
}

#[test]
fn a_sidecar_without_a_good_token_takes_no_part() {
    story("no-identity", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
        mesh.sidecar(&orders)?.start()?;
        let expired = mesh.ca()?.token_until("shop", "web", "2020-01-01T00:00:00Z")?;
        let builder = mesh.sidecar(&web)?;
        fs::write(web.dir().join("token"), &expired)?;
        let sidecar = builder.launch()?;
        let said = eventually("the refusal to be told", SOON, || {
            let certs = sidecar.admin("/certs").and_then(|answer| answer.json());
            Ok(certs.ok().and_then(|certs| Some(certs["lastError"]["error"].as_str()?.to_owned())))
        })?;
        ensure!(said.contains("token"), "{said}");
        let ready = web.get("http://127.0.0.1:15021/ready")?;
        ensure!(ready.status == 503, "{ready:?}");
        let answer = web.get("http://orders.shop/")?;
        ensure!(answer.status == 503 && answer.header("weft-error") == "no-identity", "{answer:?}");

        // The token is read again at each attempt: a good one heals it without a restart.
        fs::write(web.dir().join("token"), mesh.ca()?.token("shop", "web")?)?;
        sidecar.wait_ready()?;
        ensure!(web.get("http://orders.shop/")?.status == 200, "after the token was put right");
        ensure!(!sidecar.log().contains(&expired), "the token is in the log");
        Ok(())
    });
}
