//! The ConfigMap that `weft control` reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::meta::Install;
use crate::KubeError;
use crate::names::CONTROL_CONFIG;

impl Install<'_> {
    /// `config.yaml` as a value.
    pub(super) fn settings(&self) -> Value {
        let values = self.values;
        canonical(json!({
            "trustDomain": values.trust_domain,
            "clusterDomain": values.cluster_domain,
            "ca": {
                "leafLifetime": values.ca.leaf_lifetime,
                "rootLifetime": values.ca.root_lifetime,
                "identityConnections": values.ca.identity_connections,
            },
            "drainPeriod": format!("{}s", values.control.drain_seconds),
            "webhook": values.webhook,
            "injector": {
                "image": self.image(),
                "imagePullPolicy": values.image.pull_policy,
                "nativeSidecar": values.injector.native_sidecar,
                "resources": values.injector.resources,
                "initResources": values.injector.init_resources,
            },
            "controller": values.controller,
            "mesh": {
                "podCidrs": values.mesh.pod_cidrs,
                "podCidrMode": values.mesh.pod_cidr_mode,
                "serviceCidrs": values.mesh.service_cidrs,
            },
            "proxy": values.proxy,
            "telemetry": values.control.telemetry,
        }))
    }

    /// A change of the settings changes this, and so rolls the Deployment: SHA-256 of their JSON.
    pub(super) fn settings_checksum(&self) -> String {
        // Go escapes these two in JSON, and the chart must come to the same sum.
        let text = self.settings().to_string().replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `weft-config`.
    pub(super) fn config_map(&self) -> Result<ConfigMap, KubeError> {
        let text = serde_saphyr::to_string(&self.settings()).map_err(|error| KubeError::Manifest {
            object: "config.yaml".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(ConfigMap {
            metadata: self.meta(CONTROL_CONFIG),
            data: Some(BTreeMap::from([("config.yaml".to_owned(), text)])),
            ..Default::default()
        })
    }
}

/// Keys sorted, and whole numbers without a fraction, as Helm writes them.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let sorted: BTreeMap<String, Value> =
                entries.into_iter().map(|(k, v)| (k, canonical(v))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        Value::Number(number) => match number.as_f64() {
            // Beyond 2^53 not every whole number is one of f64.
            Some(float)
                if number.is_f64() && float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 =>
            {
                Value::from(float as i64)
            }
            _ => Value::Number(number),
        },
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}
