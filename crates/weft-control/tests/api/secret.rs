//! The Secret `weft-ca`.

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::ByteString;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::timeout;
use weft_ca::RootPem;
use weft_control::credentials::{IssuerSecret, SECRET};
use weft_core::TrustDomain;
use weft_telemetry::Registry;

use crate::control::{Running, secrets};
use crate::log::log;
use crate::server::ApiServer;
use crate::support::{Proxy, SOON, SYSTEM, create, eventually, token};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn domain() -> TrustDomain {
    "weft.local".parse().unwrap()
}

/// One part of the Secret as it is.
pub(crate) async fn part(client: &Client, key: &str) -> String {
    let secret = secrets(client.clone()).get(SECRET).await.unwrap();
    String::from_utf8(secret.data.unwrap().remove(key).unwrap().0).unwrap()
}

async fn put(client: &Client, pem: &RootPem) {
    let text = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
    let data = json!({"data": {
        "ca.pem": text(&pem.certificate), "ca-key.pem": text(&pem.key), "root.pem": text(&pem.bundle),
    }});
    secrets(client.clone()).patch(SECRET, &PatchParams::default(), &Patch::Merge(data)).await.unwrap();
}

/// Sixteen replicas that start in one instant have one root.
pub(crate) async fn one_root_for_many_replicas(server: &ApiServer) {
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(server.client().await);
    }
    let domain = domain();
    let opened = join_all(clients.into_iter().map(|client| {
        let issuer = IssuerSecret::new(client, SYSTEM.parse().unwrap(), Registry::default());
        let domain = domain.clone();
        async move { issuer.open(&domain, YEAR).await.unwrap() }
    }))
    .await;
    assert!(opened.iter().all(|pem| *pem == opened[0]));
    let admin = server.client().await;
    assert_eq!(part(&admin, "ca-key.pem").await, opened[0].key);
    assert!(log().text().contains("another replica has made the root"), "there was no race");
}

pub(crate) async fn a_secret_that_is_not_whole_stops_the_start(server: &ApiServer) {
    let admin = server.client().await;
    let api = secrets(admin.clone());
    let whole = api.get(SECRET).await.unwrap();
    let data = whole.data.clone().unwrap();
    api.delete(SECRET, &DeleteParams::default()).await.unwrap();
    let text = |key: &str| serde_json::to_value(&data[key]).unwrap();
    create(&api, json!({"metadata": {"name": SECRET}, "data": {"root.pem": text("root.pem"), "ca.pem": text("ca.pem")}})).await;
    let issuer = IssuerSecret::new(admin.clone(), SYSTEM.parse().unwrap(), Registry::default());
    let error = issuer.open(&domain(), YEAR).await.unwrap_err().to_string();
    assert!(error.contains("Secret weft-system/weft-ca is half there, without ca-key.pem"), "{error}");
    let control = Running::start(admin.clone()).await;
    let error = timeout(SOON, control.task).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("is half there"), "{error}");
    api.delete(SECRET, &DeleteParams::default()).await.unwrap();
    create(&api, json!({"metadata": {"name": SECRET}, "data": data})).await;
}

/// A rotation by hand while the CA runs, edits that would hurt, and a deletion.
pub(crate) async fn changes_of_the_secret(server: &ApiServer, control: &Running) {
    let admin = server.client().await;
    let old = RootPem {
        certificate: part(&admin, "ca.pem").await,
        key: part(&admin, "ca-key.pem").await,
        bundle: part(&admin, "root.pem").await,
    };
    let good = token(&admin, ("shop", "orders"), "weft-ca", None).await;
    let proxy = Proxy::start(&control.ca(), &old.bundle, &good, None);
    proxy.ready().await;
    let roots = |count: usize| {
        let identity = proxy.identity.clone();
        eventually(move || {
            let found = identity.status().bundle.unwrap().roots.len();
            if found == count { Ok(()) } else { Err(format!("{found} roots, not {count}")) }
        })
    };
    roots(1).await;
    let new = RootPem::generate(&domain(), YEAR).unwrap();

    // All at once would cut the mesh off.
    put(&admin, &new).await;
    said("lacks the root that leaves are signed with").await;
    let both = format!("{}{}", old.bundle, new.bundle);
    // A bundle with a key that is not the certificate's: the bundle is taken, the key is not.
    put(&admin, &RootPem { bundle: both.clone(), key: new.key.clone(), ..old.clone() }).await;
    said("ca-key.pem: is not the key of ca.pem").await;
    roots(2).await;
    put(&admin, &RootPem { bundle: both.clone(), ..new.clone() }).await;
    said("issuer changed").await;
    put(&admin, &new).await;
    roots(1).await;
    let late = Proxy::start(&control.ca(), &new.bundle, &good, None);
    assert_eq!(late.ready().await, "spiffe://weft.local/ns/shop/sa/orders");

    secrets(admin.clone()).delete(SECRET, &DeleteParams::default()).await.unwrap();
    said("put back").await;
    assert_eq!(part(&admin, "ca-key.pem").await, new.key);
    assert_eq!(part(&admin, "root.pem").await, new.bundle);
}

async fn said(expected: &str) {
    eventually(|| {
        if log().text().contains(expected) { Ok(()) } else { Err(format!("nothing says {expected:?}")) }
    })
    .await;
}
