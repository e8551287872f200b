//! What is done to requests and answers.
//!
//! Filters are compiled to one value for a rule or backend, so that a request looks at what is there and at nothing else. Their
//! order is fixed, whatever the order in the resource: CORS preflight, redirect, then on the way to the backend header changes,
//! rewrite and mirror (of the request as its backend gets it); on the way back header changes, then CORS.

mod cors;
mod headers;
mod mirror;
mod redirect;
mod rewrite;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use cors::Cors;
pub use headers::HeaderChanges;
pub use mirror::{Mirror, Share};
pub use redirect::{Redirect, Seen};
pub use rewrite::{PathRewrite, Rewrite};

/// The filters of one rule or backend. Most have none, and cost a look at this.
#[derive(Debug, Default)]
pub struct Filters {
    /// Answers what browsers ask before a call.
    pub cors: Option<Arc<Cors>>,
    /// Answers with a redirect.
    pub redirect: Option<Box<Redirect>>,
    /// Copies of the request that go elsewhere.
    pub mirrors: Vec<Mirror>,
    /// Request headers.
    pub request: HeaderChanges,
    /// Host and path.
    pub rewrite: Option<Box<Rewrite>>,
    /// Answer headers.
    pub response: HeaderChanges,
}

impl Filters {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cors.is_none()
            && self.redirect.is_none()
            && self.mirrors.is_empty()
            && self.request.is_empty()
            && self.rewrite.is_none()
            && self.response.is_empty()
    }
}
