//! The API server away, at the start and later.

use std::time::{Duration, Instant};

use crate::control::Running;
use crate::log::log;
use crate::secret;
use crate::server::ApiServer;
use crate::support::{Proxy, eventually, furnish, page, token};

#[tokio::test]
#[ignore = "needs kube-apiserver: cargo xtask cluster e2e"]
async fn without_the_api_server_nothing_is_refused_and_all_is_found_again() {
    log();
    let mut server = ApiServer::start().await;
    let admin = server.client().await;
    furnish(&admin).await;
    let good = token(&admin, ("shop", "web"), "weft-ca", None).await;

    // Away at the start: alive, not ready, and says what it waits for.
    server.stop();
    let control = Running::start(server.client().await).await;
    eventually(|| {
        let said = log().text().contains("waiting for the API server; not ready");
        if said { Ok(()) } else { Err("not said".to_owned()) }
    })
    .await;
    let (status, why) = page(control.binds.health, "/ready").await;
    assert_eq!(status, 503);
    assert!(
        why.starts_with("ca: waits for the API server: Secret weft-system/weft-ca cannot be read"),
        "{why}"
    );
    assert_eq!(page(control.binds.health, "/live").await.0, 200);
    server.resume().await;
    control.ready().await;

    // Away later: a proxy is told to come again, not that its token is bad.
    let bundle = secret::part(&admin, "root.pem").await;
    server.stop();
    let proxy = Proxy::start(&control.ca(), &bundle, &good, None);
    proxy.failure("the credential cannot be checked now").await;
    assert!(!log().audit(&["outcome=\"unavailable\"", "TokenReview"]).is_empty());
    assert_eq!(page(control.binds.health, "/ready").await.0, 200);
    server.resume().await;
    let back = Instant::now();
    assert_eq!(proxy.ready().await, "spiffe://weft.local/ns/shop/sa/web");
    assert!(back.elapsed() < Duration::from_secs(12), "{:?}", back.elapsed());
    control.stop().await;
}
