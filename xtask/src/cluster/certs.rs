//! The cluster's throw-away authority and what it signs: one key for every component, made anew by each `up`.
//!
//! A component's name and groups are its certificate's subject, and Kubernetes' own default roles are bound to exactly
//! these names. So nothing here gets more than on any other cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::plan::{API_SERVICE, API_SERVICE_V6, Plan, node_name};
use crate::authority::Authority;
use crate::process;

/// Where the files of a cluster are.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    authority: Authority,
}

impl Certificates {
    /// Makes all of them in `directory`, which is new.
    pub(crate) fn make(directory: &Path, plan: &Plan) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let usage = "keyUsage=critical,keyCertSign,cRLSign,digitalSignature";
        let authority = Authority::make(directory, "30", "/CN=weft test cluster", &[usage])?;
        let made = Self { authority };
        let servers = |number: u8| {
            let pair = plan.node(number);
            format!("IP:{},IP:{},DNS:{}", pair.v4, pair.v6, node_name(number))
        };
        let api = format!(
            "{},IP:127.0.0.1,IP:{API_SERVICE},IP:{API_SERVICE_V6},DNS:localhost,DNS:kubernetes,\
             DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local",
            servers(1)
        );
        made.authority.leaf("apiserver", "/CN=kube-apiserver", Some(&api))?;
        made.authority.leaf(
            "apiserver-kubelet",
            "/O=system:masters/CN=kube-apiserver-kubelet-client",
            None,
        )?;
        made.authority.leaf("admin", "/O=system:masters/CN=admin", None)?;
        made.authority.leaf("controller-manager", "/CN=system:kube-controller-manager", None)?;
        made.authority.leaf("scheduler", "/CN=system:kube-scheduler", None)?;
        made.authority.leaf("proxy", "/CN=system:kube-proxy", None)?;
        for number in plan.numbers() {
            let name = node_name(number);
            made.authority.leaf(
                &name,
                &format!("/O=system:nodes/CN=system:node:{name}"),
                Some(&servers(number)),
            )?;
        }
        made.authority.new_key("service-accounts")?;
        process::capture(
            Command::new("openssl")
                .args(["pkey", "-pubout", "-in"])
                .arg(made.key("service-accounts"))
                .arg("-out")
                .arg(made.certificate("service-accounts")),
        )?;
        Ok(made)
    }

    /// A certificate (for `service-accounts`, the public key).
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.authority.certificate(name)
    }

    /// A key (PKCS #8).
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.authority.key(name)
    }

    /// Writes a kubeconfig for the one whom the certificate `name` is for. It carries all it needs, so that it may be
    /// copied anywhere. (It is JSON, which every reader of YAML takes.)
    pub(crate) fn kubeconfig(&self, name: &str, server: &str, context: &str, file: &Path) -> Result<()> {
        let data =
            |path: &Path| process::text(Command::new("openssl").args(["base64", "-A", "-in"]).arg(path));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": context, "cluster": {
                "server": server,
                "certificate-authority-data": data(&self.certificate("ca"))?.trim(),
            }}],
            "users": [{ "name": name, "user": {
                "client-certificate-data": data(&self.certificate(name))?.trim(),
                "client-key-data": data(&self.key(name))?.trim(),
            }}],
            "contexts": [{ "name": context, "context": { "cluster": context, "user": name } }],
            "current-context": context,
        });
        fs::write(file, serde_json::to_vec_pretty(&config)?)
            .and_then(|()| {
                use std::os::unix::fs::PermissionsExt as _;
                fs::set_permissions(file, fs::Permissions::from_mode(0o600))
            })
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;

    #[test]
    fn every_component_gets_its_name() {
        if setup::find_program("openssl").is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let plan = Plan::new("x", 2, true, "").unwrap();
        let made = Certificates::make(&directory.path().join("pki"), &plan).unwrap();
        let subject = |name: &str| {
            let mut command = Command::new("openssl");
            command.args(["x509", "-noout", "-subject", "-ext", "subjectAltName", "-in"]);
            process::text(command.arg(made.certificate(name))).unwrap()
        };
        assert!(subject("node-2").contains("O = system:nodes, CN = system:node:node-2"));
        let api = subject("apiserver");
        assert!(api.contains("IP Address:10.96.0.1") && api.contains("DNS:kubernetes.default.svc"), "{api}");
        process::capture(
            Command::new("openssl")
                .args(["verify", "-CAfile"])
                .arg(made.certificate("ca"))
                .arg(made.certificate("admin")),
        )
        .unwrap();
        let file = directory.path().join("kubeconfig");
        made.kubeconfig("admin", &plan.api_url(), "x", &file).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], plan.api_url());
    }
}
