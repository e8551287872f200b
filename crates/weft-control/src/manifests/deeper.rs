//! What a schema cannot tell: whether the parts that will read the settings take them.
//!
//! A mistake that only `weft control` finds costs a failed roll-out, and one that only proxies find costs more. So the
//! settings are read here by the same code that reads them there.

use std::path::Path;

use super::Values;
use super::meta::Install;
use crate::KubeError;
use crate::control::ControlConfig;
use crate::inject::InjectSettings;

/// A namespace that any installation could have; what is checked does not depend on it.
const ANYWHERE: &str = "weft-system";

/// Path of the field, as far as it is known, and what is wrong with it.
pub(super) type Found = (Vec<String>, String);

/// Everything that a reader would refuse.
pub(super) fn check(values: &Values) -> Vec<Found> {
    let install = Install { values, namespace: ANYWHERE };
    let text = match serde_saphyr::to_string(&install.settings()) {
        Ok(text) => text,
        Err(error) => return vec![(Vec::new(), error.to_string())],
    };
    let config = match ControlConfig::from_yaml(Path::new("config.yaml"), &text, Some(ANYWHERE)) {
        Ok(config) => config,
        Err(KubeError::Config { field, reason, .. }) => return vec![(value_of(&field), reason)],
        Err(other) => return vec![(Vec::new(), other.to_string())],
    };
    let mut found = Vec::new();
    if let Err(problems) = InjectSettings::from_config(&text) {
        found.extend(problems.into_iter().map(|problem| match problem.split_once(": ") {
            Some((field, reason)) if field.starts_with("injector.") => (steps(field), reason.to_owned()),
            _ => (steps("injector"), problem),
        }));
    }
    found.extend(config.settings().check().err().map(|error| (steps("proxy"), error.to_string())));
    found
}

/// The path of the value that a field of `config.yaml` comes from.
fn value_of(field: &str) -> Vec<String> {
    let mut path = steps(field);
    if path.first().is_some_and(|first| first == "telemetry") {
        path.insert(0, "control".to_owned());
    }
    path
}

fn steps(field: &str) -> Vec<String> {
    field.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect()
}
