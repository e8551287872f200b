//! Connections without a credential, and what the audit log says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use weft_identity::proto::SignRequest;

use crate::support::{EXPIRED_TOKEN, SOON, Site, WEB_TOKEN, csr, log, raw, tls, tokens, with_credential};

#[tokio::test]
async fn who_shows_no_credential_is_closed_and_who_did_may_stay() {
    let site = Arc::new(Site::new());
    let ca = site.ca("").await;
    let mut proven = raw(&site, ca.address).await;
    let sign = || with_credential(SignRequest { csr: csr(|_| {}) }, Some(&format!("Bearer {WEB_TOKEN}")));
    proven.client.sign(sign()).await.unwrap();
    let mut silent = tls(&site, ca.address).await;
    // The server has seen the connection when its HTTP/2 settings arrive.
    let mut settings = [0; 9];
    timeout(SOON, silent.read_exact(&mut settings)).await.unwrap().unwrap();

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    // Closed, cleanly or not.
    let _ = timeout(SOON, silent.read_to_end(&mut rest)).await.expect("still open");
    proven.client.sign(sign()).await.unwrap();
    assert_eq!(proven.connects.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn each_decision_is_one_line_and_no_secret_is_in_the_log() {
    let site = Arc::new(Site::new());
    let ca = site.ca("").await;
    site.write(
        "tokens.yaml",
        &tokens(&[
            (WEB_TOKEN, "web", "2099-01-01T00:00:00Z"),
            // An account that no other test of this program has in the common log.
            (EXPIRED_TOKEN, "audited", "2020-02-02T00:00:00Z"),
        ]),
    );
    let ca = {
        ca.stop().await;
        site.ca("").await
    };
    let client = site.client(ca.address, WEB_TOKEN);
    let serial = client.ready().await.serial.clone();
    let mut raw = raw(&site, ca.address).await;
    let wrong = "wrong-token-0123456789abcdef";
    for token in [EXPIRED_TOKEN, wrong] {
        let request = with_credential(SignRequest { csr: csr(|_| {}) }, Some(&format!("Bearer {token}")));
        raw.client.sign(request).await.unwrap_err();
    }
    let text = log().text();
    let audit: Vec<&str> = text.lines().filter(|line| line.contains("weft::audit")).collect();
    let with = |part: &str| audit.iter().filter(|line| line.contains(part)).copied().collect::<Vec<_>>();
    let signed = with(&serial);
    assert_eq!(signed.len(), 1, "{signed:?}");
    for part in ["outcome=\"signed\"", "identity=spiffe://weft.local/ns/shop/sa/web", "peer=\"127.0.0.1:"] {
        assert!(signed[0].contains(part), "{signed:?} lacks {part}");
    }
    let expired = with("token of spiffe://weft.local/ns/shop/sa/audited expired at 2020-02-02T00:00:00Z");
    assert_eq!(expired.len(), 1, "{expired:?}");
    assert!(expired[0].contains("outcome=\"refused\""), "{expired:?}");
    let peer = expired[0].split_whitespace().find(|word| word.starts_with("peer=")).unwrap();
    let unknown: Vec<_> =
        with(peer).into_iter().filter(|line| line.contains("reason=unknown token")).collect();
    assert_eq!(unknown.len(), 1, "{:?}", with(peer));
    for secret in [WEB_TOKEN, EXPIRED_TOKEN, wrong, "PRIVATE KEY"] {
        // The names of the tests' token files hold the tokens; the log may name the files.
        assert!(!text.replace(&format!("token-{secret}"), "").contains(secret), "{secret} is in the log");
    }
}
