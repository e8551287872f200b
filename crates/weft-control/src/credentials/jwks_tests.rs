//! The reviewer before an API server that counts what it is asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use hyper::{Method, Response, StatusCode};
use kube::client::Body;
use proptest::prelude::*;
use serde_json::{Value, json};
use weft_ca::{Credentials as _, Proof, Unproven};
use weft_telemetry::Registry;

use super::*;
use crate::credentials::TokenReviewer;
use crate::credentials::jwt::Header;

/// A key that signs tokens, by its name.
enum Signer {
    Ec(&'static str, EcdsaKeyPair),
    Rsa(&'static str, RsaKeyPair),
}

impl Signer {
    fn ec(kid: &'static str) -> Self {
        Self::Ec(kid, EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn rsa(kid: &'static str) -> Self {
        Self::Rsa(kid, RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn published(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(kid, key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "kid": kid, "alg": "ES256", "use": "sig", "crv": "P-256",
                    "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Self::Rsa(kid, key) => {
                // RSAPublicKey in DER (RFC 8017 appendix A.1.1), whose places are fixed for 2048 bits and e = 65537.
                let der = key.public_key().as_ref();
                json!({"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig",
                    "n": text(&der[9..265]), "e": text(&der[267..270])})
            }
        }
    }

    fn token(&self) -> String {
        match self {
            Self::Ec(kid, _) => self.token_with(&json!({"alg": "ES256", "kid": kid})),
            Self::Rsa(kid, _) => self.token_with(&json!({"alg": "RS256", "kid": kid})),
        }
    }

    fn token_with(&self, header: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:web",
            "aud": ["weft-ca"], "exp": now + 3600, "nbf": now});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(&claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ec(_, key) => key.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(_, key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What the API server has, and how often it was asked.
#[derive(Default)]
struct Cluster {
    /// `None`: it may not be read.
    list: Mutex<Option<Value>>,
    fetches: AtomicUsize,
    reviews: AtomicUsize,
}

impl Cluster {
    fn publishing(signers: &[&Signer]) -> Arc<Self> {
        let cluster = Arc::new(Self::default());
        cluster.publish(signers);
        cluster
    }

    fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.published()).collect();
        *self.list.lock().unwrap() = Some(json!({ "keys": keys }));
    }

    /// Every token that it is asked about is good.
    fn answer(&self, method: &Method, path: &str) -> (StatusCode, Value) {
        match (method, path) {
            (&Method::GET, PATH) => {
                self.fetches.fetch_add(1, Ordering::Relaxed);
                match self.list.lock().unwrap().clone() {
                    Some(list) => (StatusCode::OK, list),
                    None => (
                        StatusCode::FORBIDDEN,
                        json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "message": "forbidden: no", "reason": "Forbidden", "code": 403}),
                    ),
                }
            }
            (&Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => {
                self.reviews.fetch_add(1, Ordering::Relaxed);
                (
                    StatusCode::CREATED,
                    json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
                    "metadata": {}, "spec": {}, "status": {"authenticated": true, "audiences": ["weft-ca"],
                    "user": {"username": "system:serviceaccount:shop:web"}}}),
                )
            }
            other => panic!("{other:?}"),
        }
    }

    fn reviewer(self: &Arc<Self>) -> TokenReviewer {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let (status, body) = cluster.answer(request.method(), request.uri().path());
            let answer = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(answer.unwrap()) }
        });
        TokenReviewer::new(
            Client::new(service, "default"),
            "weft.local".parse().unwrap(),
            &Registry::default(),
        )
    }

    fn asked(&self) -> (usize, usize) {
        (self.fetches.load(Ordering::Relaxed), self.reviews.load(Ordering::Relaxed))
    }
}

/// As the CA does it: the look first.
async fn prove(reviewer: &TokenReviewer, token: &str) -> Result<Proof, Unproven> {
    reviewer.look(token).await?;
    reviewer.prove(token).await
}

fn refusal(answer: Result<Proof, Unproven>) -> String {
    match answer {
        Err(Unproven::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_signed_is_reviewed_each_time() {
    let (ec, rsa) = (Signer::ec("one"), Signer::rsa("two"));
    let cluster = Cluster::publishing(&[&ec, &rsa]);
    let reviewer = cluster.reviewer();
    for signer in [&ec, &rsa, &ec] {
        let proof = prove(&reviewer, &signer.token()).await.unwrap();
        assert_eq!(proof.id.to_string(), "spiffe://weft.local/ns/shop/sa/web");
    }
    // A token without the name of a key may be of any.
    prove(&reviewer, &ec.token_with(&json!({"alg": "ES256"}))).await.unwrap();
    assert_eq!(cluster.asked(), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_costs_the_api_server_nothing() {
    let (ec, rsa, stranger) = (Signer::ec("one"), Signer::rsa("two"), Signer::ec("one"));
    let cluster = Cluster::publishing(&[&ec, &rsa]);
    let reviewer = cluster.reviewer();
    let good = ec.token();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let other = stranger.token();
    for forged in [
        other.clone(),
        format!("{signed}.{}", other.rsplit_once('.').unwrap().1),
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        format!("{signed}.AAAA"),
        // Another algorithm than the key has, and none.
        ec.token_with(&json!({"alg": "RS256", "kid": "one"})),
        rsa.token_with(&json!({"alg": "ES256", "kid": "two"})),
        rsa.token_with(&json!({"alg": "HS256", "kid": "two"})),
        ec.token_with(&json!({"alg": "none", "kid": "one"})),
        stranger.token_with(&json!({"alg": "ES256"})),
    ] {
        let why = refusal(prove(&reviewer, &forged).await);
        assert!(why.contains("did not sign"), "{why}");
    }
    assert_eq!(cluster.asked(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_and_a_made_up_one_is_not_asked_for_all_the_time() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let cluster = Cluster::publishing(&[&old]);
    let reviewer = cluster.reviewer();
    prove(&reviewer, &old.token()).await.unwrap();
    assert_eq!(cluster.asked(), (1, 1));
    cluster.publish(&[&old, &new]);
    tokio::time::advance(PAUSE).await;
    prove(&reviewer, &new.token()).await.unwrap();
    assert_eq!(cluster.asked(), (2, 2), "the list was fetched for it");

    // A flood of names: one fetch each ten seconds, and one question each twenty.
    let stranger = Signer::ec("stranger");
    tokio::time::advance(PAUSE).await;
    let mut passed = 0;
    for number in 0..600 {
        let token = stranger.token_with(&json!({"alg": "ES256", "kid": format!("made up {number}")}));
        match reviewer.look(&token).await {
            Ok(()) => passed += 1,
            Err(why) => assert!(why.to_string().contains("does not publish"), "{why}"),
        }
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!((3..=4).contains(&passed), "{passed} in a minute");
    assert!((5..=7).contains(&(cluster.asked().0 - 2)), "{:?}", cluster.asked());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_behind_stops_nobody_for_long() {
    let (listed, missing) = (Signer::ec("listed"), Signer::ec("missing"));
    let cluster = Cluster::publishing(&[&listed]);
    let reviewer = cluster.reviewer();
    // The first is passed on in doubt and found good; from then on that key is.
    for _ in 0..3 {
        prove(&reviewer, &missing.token()).await.unwrap();
    }
    let why = refusal(prove(&reviewer, &Signer::ec("other").token()).await);
    assert!(why.contains("does not publish"), "{why}");
    assert_eq!(cluster.asked().1, 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_list_everything_is_reviewed_as_before() {
    let stranger = Signer::ec("stranger");
    for list in [
        None,
        Some(json!({"keys": []})),
        Some(json!("nonsense")),
        Some(json!({"keys": [{"kty": "oct", "k": "AA"}]})),
    ] {
        let cluster = Arc::new(Cluster::default());
        *cluster.list.lock().unwrap() = list;
        let reviewer = cluster.reviewer();
        for _ in 0..5 {
            prove(&reviewer, &stranger.token()).await.unwrap();
        }
        assert_eq!(cluster.asked(), (1, 5), "one fetch a minute");
        tokio::time::advance(PAUSE_WITHOUT).await;
        cluster.publish(&[&Signer::ec("stranger")]);
        refusal(prove(&reviewer, &stranger.token()).await);
        assert_eq!(cluster.asked(), (2, 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_fetched_again_stays() {
    let key = Signer::ec("key");
    let cluster = Cluster::publishing(&[&key]);
    let reviewer = cluster.reviewer();
    prove(&reviewer, &key.token()).await.unwrap();
    *cluster.list.lock().unwrap() = None;
    tokio::time::advance(PAUSE).await;
    // In doubt, once.
    reviewer.look(&Signer::ec("other").token()).await.unwrap();
    refusal(prove(&reviewer, &Signer::ec("other").token()).await);
    prove(&reviewer, &key.token()).await.unwrap();
    assert_eq!(cluster.asked(), (2, 2));
}

proptest! {
    #[test]
    fn no_list_and_no_signature_makes_it_panic(
        text in "\\PC{0,300}",
        number in "[A-Za-z0-9_-]{0,100}",
        signature in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = Keys::parse(&text);
        for (key, alg) in [
            (json!({"kty": "RSA", "n": &number, "e": &number}), "RS256"),
            (json!({"kty": "EC", "crv": "P-256", "x": &number, "y": &number}), "ES256"),
            (json!({"kty": "EC", "crv": "P-521", "x": &number, "y": &number}), "ES512"),
        ] {
            let Ok(keys) = Keys::parse(&json!({ "keys": [key] }).to_string()) else { continue };
            let header = Header { alg: alg.to_owned(), kid: None };
            let token = Jwt { header, signed: &text, signature: signature.clone() };
            prop_assert_eq!(keys.judge(&token), Verdict::Forged);
        }
    }
}
