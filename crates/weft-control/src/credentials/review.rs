//! TokenReview: the API server says whose token it is.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::timeout;
use weft_ca::{Credentials, Looking, PodRef, Proof, Proving, Unproven};
use weft_core::{SpiffeId, TrustDomain};
use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Registry};

use super::jwks::{ClusterKeys, Verdict};
use super::jwt::{self, Jwt};
use crate::client::describe;
pub use crate::names::AUDIENCE;

/// One review. With the CA's wait for a turn below its limit for a call, so that the caller hears "unavailable" from us.
const LIMIT: Duration = Duration::from_secs(5);

/// The user name that stands for a service account is this, the namespace, a colon, and the account.
pub(super) const USER_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Judges service account tokens by asking the API server about those that the cluster signed.
///
/// No answer is kept here: a token has to die with its pod, and a proxy asks once an hour. (The API server remembers its
/// own good answers for 10 s.)
pub struct TokenReviewer {
    reviews: Api<TokenReview>,
    keys: ClusterKeys,
    trust_domain: TrustDomain,
    good: Counter,
    refused: Counter,
    unavailable: Counter,
}

impl TokenReviewer {
    /// A reviewer that may `create` `tokenreviews.authentication.k8s.io` and, where it is to spare the API server forged
    /// tokens, `get` `/openid/v1/jwks`. Proven identities are of `trust_domain`.
    pub fn new(client: Client, trust_domain: TrustDomain, registry: &Registry) -> Self {
        let shard = registry.shared();
        let counter = |outcome| shard.counter(&families::CA_TOKEN_REVIEWS, &[outcome]);
        Self {
            reviews: Api::all(client.clone()),
            keys: ClusterKeys::new(client),
            trust_domain,
            good: counter("good"),
            refused: counter("refused"),
            unavailable: counter("unavailable"),
        }
    }

    async fn is_worth_a_review(&self, token: &str) -> Result<(), Unproven> {
        let refuse = |why: &str| Err(Unproven::Refused(why.to_owned()));
        match self.keys.judge(&taken_apart(token)?).await {
            Verdict::Ask => Ok(()),
            Verdict::Forged => {
                refuse("the cluster did not sign the token: its signature is not by the key it names")
            }
            Verdict::Unknown => refuse("the token is signed with a key that the cluster does not publish"),
        }
    }

    async fn review(&self, token: &str) -> Result<Proof, Unproven> {
        let answer = match timeout(LIMIT, self.ask(token)).await {
            Ok(answer) => {
                answer.and_then(|answer| judge(answer, &self.trust_domain).map_err(Unproven::Refused))
            }
            Err(_) => Err(Unproven::Unavailable(format!(
                "the API server has not reviewed the token within {LIMIT:?}"
            ))),
        };
        match &answer {
            Ok(_) => {
                self.good.inc();
                if let Ok(token) = taken_apart(token) {
                    self.keys.found_good(&token);
                }
            }
            Err(Unproven::Refused(_)) => self.refused.inc(),
            Err(Unproven::Unavailable(_)) => self.unavailable.inc(),
        }
        answer
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, Unproven> {
        let unavailable = |reason: String| Unproven::Unavailable(format!("TokenReview: {reason}"));
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        // A refusal of the *question*, such as 403, is our own trouble and not the caller's.
        let answer = self.reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| unavailable(describe(&error)))?;
        answer.status.ok_or_else(|| unavailable("an answer without a status".to_owned()))
    }
}

fn taken_apart(token: &str) -> Result<Jwt<'_>, Unproven> {
    jwt::look(token, AUDIENCE, SystemTime::now()).map_err(|why| Unproven::Refused(why.to_string()))
}

impl Credentials for TokenReviewer {
    fn look<'a>(&'a self, token: &'a str) -> Looking<'a> {
        Box::pin(self.is_worth_a_review(token))
    }

    fn prove<'a>(&'a self, token: &'a str) -> Proving<'a> {
        Box::pin(self.review(token))
    }
}

/// The identity that a review's answer proves, or why none.
fn judge(answer: TokenReviewStatus, trust_domain: &TrustDomain) -> Result<Proof, String> {
    if answer.authenticated != Some(true) {
        let why = answer.error.unwrap_or_default();
        // The API server's words are about the token and do not hold it; they may be long.
        return Err(format!("the API server does not know the token: {why:.300}"));
    }
    // An API server that knows no audiences leaves the list empty: then the token was good for itself, not for us.
    if !answer.audiences.is_some_and(|audiences| audiences.iter().any(|one| one == AUDIENCE)) {
        return Err(format!("the API server does not say that the token is for {AUDIENCE}"));
    }
    let user = answer.user.unwrap_or_default();
    let id = identity(user.username.as_deref().unwrap_or_default(), trust_domain)?;
    Ok(Proof { id, pod: pod(&user) })
}

/// `system:serviceaccount:<namespace>:<account>`, to the letter. Neither part can hold a colon.
fn identity(user: &str, trust_domain: &TrustDomain) -> Result<SpiffeId, String> {
    let stranger = || format!("the token is of the user {user:.300?}, which is no service account");
    let rest = user.strip_prefix(USER_PREFIX).ok_or_else(stranger)?;
    let (namespace, account) = rest.split_once(':').ok_or_else(stranger)?;
    Ok(SpiffeId {
        trust_domain: trust_domain.clone(),
        namespace: namespace.parse().map_err(|_| stranger())?,
        service_account: account.parse().map_err(|_| stranger())?,
    })
}

/// The pod that the token is bound to. A token that somebody made by hand (`kubectl create token`) is bound to none.
fn pod(user: &UserInfo) -> Option<PodRef> {
    let extra = user.extra.as_ref()?;
    let first = |key: &str| extra.get(key)?.first().cloned();
    Some(PodRef { name: first(POD_NAME)?, uid: first(POD_UID).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain() -> TrustDomain {
        "weft.local".parse().unwrap()
    }

    fn good() -> TokenReviewStatus {
        let extra = [(POD_NAME, "web-1"), (POD_UID, "0b57")];
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:web".to_owned()),
                extra: Some(extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into()),
                ..UserInfo::default()
            }),
        }
    }

    #[test]
    fn a_good_answer_proves_the_account_and_names_the_pod() {
        let proof = judge(good(), &domain()).unwrap();
        assert_eq!(proof.id.to_string(), "spiffe://weft.local/ns/shop/sa/web");
        assert_eq!(proof.pod, Some(PodRef { name: "web-1".to_owned(), uid: "0b57".to_owned() }));
        let mut unbound = good();
        unbound.user.as_mut().unwrap().extra = None;
        assert_eq!(judge(unbound, &domain()).unwrap().pod, None);
    }

    #[test]
    fn an_answer_that_is_not_good_in_every_point_proves_nothing() {
        type Change = fn(&mut TokenReviewStatus);
        let cases: [(Change, &str); 6] = [
            (|a| a.authenticated = Some(false), "does not know"),
            (|a| a.authenticated = None, "does not know"),
            (|a| a.audiences = None, "is for weft-ca"),
            (|a| a.audiences = Some(vec![]), "is for weft-ca"),
            (|a| a.audiences = Some(vec!["https://kubernetes.default.svc".to_owned()]), "is for weft-ca"),
            (|a| a.user = None, "no service account"),
        ];
        for (change, expected) in cases {
            let mut answer = good();
            change(&mut answer);
            let error = judge(answer, &domain()).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn only_the_exact_form_of_a_service_account_is_one() {
        for user in [
            "",
            "admin",
            "system:node:a",
            "system:serviceaccount:shop",
            "system:serviceaccount:shop:",
            "system:serviceaccount::web",
            "system:serviceaccount:shop:web:x",
            "system:serviceaccount:shop:web/../x",
            "system:serviceaccount:Shop:web",
            "xsystem:serviceaccount:shop:web",
            "system:serviceaccount:shop:..",
        ] {
            identity(user, &domain()).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_proven_is_what_was_named(ns in "[a-z0-9-]{1,63}", sa in "[a-z0-9][a-z0-9.-]{0,80}") {
            let id = identity(&format!("{USER_PREFIX}{ns}:{sa}"), &domain()).unwrap();
            prop_assert_eq!((id.namespace.as_str(), id.service_account.as_str()), (&*ns, &*sa));
        }

        #[test]
        fn no_user_name_makes_it_panic(user in "\\PC{0,400}") {
            let _ = identity(&user, &domain());
            let _ = identity(&format!("{USER_PREFIX}{user}"), &domain());
        }
    }
}
