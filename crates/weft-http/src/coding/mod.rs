//! Content codings: which one a client takes ([`Accepted`]), and a body in one ([`Body::encoded`](crate::Body::encoded)).

mod accept;
mod encoded;

pub use accept::Accepted;
pub use encoded::{Encoded, Encoding, Encodings};
