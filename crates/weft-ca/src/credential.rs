//! The seam between a bearer token and the identity it proves.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use weft_core::SpiffeId;

/// What a token proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The identity to sign for; nothing else decides it.
    pub id: SpiffeId,
    /// The pod that the token is bound to, for the audit log.
    pub pod: Option<PodRef>,
}

impl Proof {
    /// A proof of `id` that says nothing of a pod.
    pub fn of(id: SpiffeId) -> Self {
        Self { id, pod: None }
    }
}

/// A pod, as the audit log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its name, in the namespace of the identity.
    pub name: String,
    /// Its UID, or empty where it is not known: another pod may have had the name before.
    pub uid: String,
}

/// Why a token proved nothing. Either text is for the audit log only and must not quote the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unproven {
    /// It proves nothing, and asking again will not change that. The caller learns just that it was refused.
    Refused(String),
    /// It could not be checked: who could say is away. The caller is told to come again.
    Unavailable(String),
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(reason) | Self::Unavailable(reason)) = self;
        f.write_str(reason)
    }
}

/// The answer of [`Credentials::look`].
pub type Looking<'a> = Pin<Box<dyn Future<Output = Result<(), Unproven>> + Send + 'a>>;

/// The answer of [`Credentials::prove`], in time.
pub type Proving<'a> = Pin<Box<dyn Future<Output = Result<Proof, Unproven>> + Send + 'a>>;

/// A way to tell whose token it is: join tokens, or a reviewer such as the Kubernetes API server.
///
/// An implementation has a time limit of its own for each answer. The CA gives up on a call after ten seconds, of which
/// up to four are spent waiting for a turn to ask.
pub trait Credentials: Send + Sync + 'static {
    /// Whether `token` is worth the question that [`Credentials::prove`] asks: a cheap look, which tells a forged token
    /// from a genuine one where that can be told here. Whoever calls waits for no turn to have this done.
    fn look<'a>(&'a self, token: &'a str) -> Looking<'a> {
        let _ = token;
        Box::pin(std::future::ready(Ok(())))
    }

    /// What `token` proves now. It is the text after `Bearer `, of visible ASCII, from a caller that nothing is known of.
    fn prove<'a>(&'a self, token: &'a str) -> Proving<'a>;
}
