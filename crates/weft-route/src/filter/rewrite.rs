//! Other hosts and paths for the backend.

use crate::table::PathRule;

/// What the backend sees instead of what the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The Host; `None`: the client's.
    pub host: Option<http::HeaderValue>,
    /// The path; `None`: the client's.
    pub path: Option<PathRewrite>,
}

/// How a path changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This one.
    Full(Box<str>),
    /// This in place of the prefix that was matched; without a slash at the end, the root is empty.
    Prefix(Box<str>),
}

impl PathRewrite {
    /// The path that takes the place of `path`. Where the match was no prefix, its prefix is the whole path (the Gateway API allows
    /// a prefix to be replaced only behind a prefix match; `compile` refuses the rest).
    pub fn apply(&self, path: &str, matched: &PathRule) -> String {
        match self {
            Self::Full(full) => match full.is_empty() {
                true => "/".to_owned(),
                false => full.to_string(),
            },
            Self::Prefix(new) => {
                let rest = match matched {
                    PathRule::Prefix(prefix) => path.strip_prefix(&**prefix).unwrap_or_default(),
                    _ => "",
                };
                // `/foo` with `/` in its place: `/foo/bar` is `/bar`, and `/foo` is `/`.
                match (new.is_empty(), rest.is_empty()) {
                    (true, true) => "/".to_owned(),
                    _ => format!("{new}{rest}"),
                }
            }
        }
    }
}
