//! YAML files into types, with errors that name file, line and field.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, Spanned};

use crate::CaError;

/// Parses a document. Error messages never quote the document beyond field names: it may hold secrets.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, CaError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let field = line.and_then(|line| key_at(text, line)).unwrap_or_default();
        let message = error.without_snippet().to_string();
        let secret = field == "token" && !message.contains("field");
        CaError::Yaml {
            path: path.to_owned(),
            line,
            reason: if secret { "must be a text in quotes".to_owned() } else { first_line(&message) },
            field,
        }
    })
}

/// An error about one value.
pub(crate) fn invalid(path: &Path, at: Location, field: &str, reason: impl std::fmt::Display) -> CaError {
    CaError::Yaml {
        path: path.to_owned(),
        line: Some(at.line()),
        field: field.to_owned(),
        reason: reason.to_string(),
    }
}

/// A value of a type that parses itself.
pub(crate) fn value<T>(path: &Path, field: &str, raw: &Spanned<String>) -> Result<T, CaError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    raw.value.parse().map_err(|error: T::Err| invalid(path, raw.defined, field, error))
}

/// A field that has no default.
pub(crate) fn required<'a, T>(path: &Path, field: &str, raw: Option<&'a T>) -> Result<&'a T, CaError> {
    raw.ok_or_else(|| CaError::Yaml {
        path: path.to_owned(),
        line: None,
        field: field.to_owned(),
        reason: "is missing and has no default".to_owned(),
    })
}

/// The key on a line of block-style YAML.
fn key_at(text: &str, line: u64) -> Option<String> {
    let line = text.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    let (key, _) = line.split_once(':')?;
    let key = key.trim_start_matches([' ', '-', '{']).trim();
    key.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| key.to_owned())
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}
