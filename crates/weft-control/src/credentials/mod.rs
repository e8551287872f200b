//! What the CA needs of Kubernetes: somebody who knows whose token it is, and a place for the root.
//!
//! A pod proves who it is with a projected service account token that is good for the CA only (audience `weft-ca`). The
//! API server judges it (TokenReview), so that the token of a deleted pod is refused within seconds; what the cluster did
//! not sign is refused here, by the keys that it publishes. The root is in one Secret that all replicas share: whoever
//! starts first makes it.
//!
//! | module | |
//! |---|---|
//! | `jwt` | what can be told of a token without asking anybody |
//! | `jwks` | whether the cluster signed it |
//! | `review` | TokenReview |
//! | `secret` | the Secret `weft-ca` |

mod jwks;
mod jwt;
mod review;
mod secret;

pub(crate) use jwks::PATH as KEYS_PATH;

pub use crate::names::CA_SECRET as SECRET;
pub use review::{AUDIENCE, TokenReviewer};
pub use secret::IssuerSecret;
