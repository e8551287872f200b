//! The examples under `deploy/examples` are what people copy first. They must be good.

use std::path::PathBuf;

use weft_ca::CaConfig;
use weft_config::{Env, ProxyConfig};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name)
}

#[test]
fn the_sidecar_example_loads_without_a_warning() {
    let config =
        ProxyConfig::load(&example("weft.yaml"), &Env::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.identity.trust_domain.as_str(), "weft.local");
}

#[test]
fn the_ca_example_loads() {
    CaConfig::load(&example("ca.yaml")).unwrap_or_else(|error| panic!("{error}"));
}
