//! Leaves kept fresh, with the CA there, away, and wrong.

use std::time::{Duration, SystemTime};

use weft_identity::CaSource;

use crate::support::{CA_ID, Client, ORDERS_TOKEN, RunningCa, Site, WEB_TOKEN, eventually, log, tokens};

/// A leaf of this life is renewed after 2 to 3 seconds.
const SHORT: &str = "leafLifetime: 4s";

#[tokio::test]
async fn a_leaf_is_renewed_before_its_end() {
    let site = Site::new();
    let ca = site.ca(SHORT).await;
    let client = site.client(ca.address, WEB_TOKEN);
    let first = client.ready().await;
    client.generation(first.generation + 1).await;
    let second = client.identity.current().unwrap();
    assert_ne!(second.serial, first.serial);
    assert_eq!(second.own, first.own);
    assert!(SystemTime::now() < first.not_after, "the old leaf was still good");
    let status = client.identity.status();
    assert!(status.renewals_ok >= 1, "{status:?}");
    assert_eq!((status.renewals_failed, status.last_error), (0, None));
    assert!(status.next_renewal.unwrap() > SystemTime::now());
}

#[tokio::test]
async fn a_ca_that_is_away_costs_nothing_and_is_found_again() {
    let site = Site::new();
    let ca = site.ca(SHORT).await;
    let address = ca.address;
    let client = site.client(address, WEB_TOKEN);
    let first = client.ready().await;
    ca.stop().await;
    client.failure("unreachable").await;
    let kept = client.identity.current().unwrap();
    assert_eq!(kept.own, first.own);
    let generation = kept.generation;

    let again = RunningCa::start(&site.config(address, SHORT)).await;
    client.generation(generation + 1).await;
    let renewed = client.identity.current().unwrap();
    assert_ne!(renewed.serial, kept.serial);
    assert_eq!(renewed.bundle_hash, kept.bundle_hash, "the same root after a restart");
    assert_eq!(client.identity.status().last_error, None);
    again.stop().await;
}

#[tokio::test]
async fn who_starts_while_the_ca_is_away_says_so_once_and_is_ready_soon_after_it_is_back() {
    let site = Site::new();
    let ca = site.ca("").await;
    let address = ca.address;
    ca.stop().await;
    let client = site.client(address, WEB_TOKEN);
    // Half a second, one, two, four: seven at the most.
    eventually(|| match client.identity.status().renewals_failed {
        4.. => Ok(()),
        few => Err(format!("{few} attempts")),
    })
    .await;
    let said = |part: &str| {
        let text = log().text();
        let about = format!("ca=\"{address}\"");
        text.lines()
            .filter(|line| line.contains(&about) && line.contains(part))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines = said("no identity yet");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", &format!("error=CA {address} unreachable: "), "since=20", "waiting=0s"] {
        assert!(lines[0].contains(part), "{lines:?} lacks {part}");
    }
    let again = RunningCa::start(&site.config(address, "")).await;
    let back = std::time::Instant::now();
    client.ready().await;
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}", back.elapsed());
    assert_eq!(said("has given an identity").len(), 1);
    again.stop().await;
}

#[tokio::test]
async fn a_refused_token_is_said_and_the_file_is_read_again() {
    let site = Site::new();
    let ca = site.ca("").await;
    let client = site.client(ca.address, "wrong-token-0123456789abcdef");
    client.failure("refused the token in").await;
    assert!(client.identity.current().is_none());
    site.write("token-wrong-token-0123456789abcdef", ORDERS_TOKEN);
    assert_eq!(client.ready().await.own.service_account.as_str(), "orders");
}

#[tokio::test]
async fn a_token_that_is_added_later_is_accepted_and_one_that_is_removed_is_not() {
    let site = Site::new();
    let ca = site.ca("").await;
    let late = "late-token-0123456789abcdef";
    let client = site.client(ca.address, late);
    client.failure("refused the token").await;
    // A bad edit keeps the tokens that were good.
    site.write("tokens.yaml", "tokens: [oops");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let web = site.client(ca.address, WEB_TOKEN);
    web.ready().await;
    site.write("tokens.yaml", &tokens(&[(late, "late", "2099-01-01T00:00:00Z")]));
    assert_eq!(client.ready().await.own.service_account.as_str(), "late");
    site.client(ca.address, ORDERS_TOKEN).failure("refused the token").await;
}

#[tokio::test]
async fn what_is_not_the_ca_gets_no_token() {
    let (site, other) = (Site::new(), Site::new());
    let (ca, impostor) = (site.ca("").await, other.ca("").await);
    let source = |address: std::net::SocketAddr, server_id: &str| {
        site.write("token", WEB_TOKEN);
        Client::start(CaSource {
            address: address.to_string(),
            bundle: site.bundle(),
            server_id: server_id.parse().unwrap(),
            token_file: site.path("token"),
            expected_id: Some("spiffe://weft.local/ns/shop/sa/orders".parse().unwrap()),
        })
    };
    // Another mesh's CA at the address.
    let client = source(impostor.address, CA_ID);
    client.failure(&format!("CA {} refused: ", impostor.address)).await;
    client.failure("UnknownIssuer").await;
    // The right root, but not the identity that was named.
    let client = source(ca.address, "spiffe://weft.local/ns/weft-system/sa/other");
    client.failure(&format!("CA {} refused: ", ca.address)).await;
    client.failure("it is for spiffe://weft.local/ns/weft-system/sa/weft-ca").await;
    // The CA, but the token is for another identity than this workload should have.
    let client = source(ca.address, CA_ID);
    client
        .failure("for spiffe://weft.local/ns/shop/sa/web, not for spiffe://weft.local/ns/shop/sa/orders")
        .await;
    assert!(client.identity.current().is_none());
}

#[tokio::test]
async fn nothing_at_the_address_and_no_such_name_are_said() {
    let site = Site::new();
    let ca = site.ca("").await;
    let address = ca.address;
    ca.stop().await;
    site.client(address, WEB_TOKEN).failure(&format!("CA {address} unreachable: ")).await;
    let token_file = site.path("missing");
    let client = Client::start(CaSource {
        address: "no-such-name.invalid:1".to_owned(),
        bundle: site.bundle(),
        server_id: CA_ID.parse().unwrap(),
        token_file: token_file.clone(),
        expected_id: None,
    });
    client.failure("missing: cannot be opened").await;
    std::fs::write(token_file, WEB_TOKEN).unwrap();
    client.failure("CA no-such-name.invalid:1 unreachable: ").await;
}
