//! What the CA needs of Kubernetes: somebody who knows whose token it is, and a place for the root.
//!
//! A pod proves who it is with a projected service account token that is good for the CA only (audience `weft-ca`). The
//! API server judges it (TokenReview), so that the token of a deleted pod is refused within seconds and no key of the
//! cluster has to be known here. The root is in one Secret that all replicas share: whoever starts first makes it.
//!
//! | module | |
//! |---|---|
//! | `jwt` | what can be told of a token without asking anybody |
//! | `review` | TokenReview |
//! | `secret` | the Secret `weft-ca` |

mod jwt;
mod review;
mod secret;

pub use crate::names::CA_SECRET as SECRET;
pub use review::{AUDIENCE, TokenReviewer};
pub use secret::IssuerSecret;
