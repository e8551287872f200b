//! One reading of a request's target and host, made where a request comes in.
//!
//! Two programs that read one path differently let a request past: the first sees `/public/..;/admin` and takes it for public, the
//! second serves `/admin`. So a path is brought into one form before anything looks at it, routes see that form, and the
//! upstream gets that form and no other. What has no form that everybody agrees on is refused with 400.
//!
//! [`path`] and [`host`] say what is done, and borrow where there is nothing to do.

mod host;
mod path;

pub use host::{BadHost, Host, host};
pub use path::{BadPath, Target, path, target};
