//! Service account tokens of all kinds, good and bad: what whoever asks the CA may come with.

use std::fs;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::Cluster;
use super::node::entries;

/// Where a node's kubelet has the volumes of its pods.
const PODS: &str = "var/lib/kubelet/pods";

impl Cluster {
    /// A token of a service account, for an hour, by `kubectl create token` with further words such as `--audience=x`.
    ///
    /// # Errors
    /// There is no such account.
    pub fn token(&self, namespace: &str, account: &str, words: &[&str]) -> Result<String> {
        let words = [&["create", "token", account, "-n", namespace], words].concat();
        Ok(self.kubectl().run(&words)?.trim().to_owned())
    }

    /// The same token with other claims, signed by the cluster's own key as the API server would: what cannot be had by
    /// asking, such as a token whose time is over.
    ///
    /// # Errors
    /// It is no token, or the cluster's key cannot be read.
    pub fn resigned(&self, token: &str, edit: impl FnOnce(&mut Value)) -> Result<String> {
        let file = self.dir().join("pki/service-accounts.key");
        let key = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        resign(token, &key, edit)
    }

    /// The tokens that kubelets have put into the pods that run now.
    ///
    /// # Errors
    /// A node's volumes cannot be read, or there is none at all.
    pub fn projected_tokens(&self) -> Result<Vec<String>> {
        let mut tokens = Vec::new();
        for holder in self.holders()? {
            // Mounted where only the node's own processes see it.
            for pod in entries(format!("/proc/{holder}/root/{PODS}")) {
                for volume in entries(pod.join("volumes/kubernetes.io~projected")) {
                    tokens.extend(fs::read_to_string(volume.join("token")).ok());
                }
            }
        }
        ensure!(!tokens.is_empty(), "no pod of the cluster has a token");
        Ok(tokens)
    }
}

/// JWS compact serialization (RFC 7515 section 3.1) with ES256, whose signature is r and s as they are.
fn resign(token: &str, key: &str, edit: impl FnOnce(&mut Value)) -> Result<String> {
    let mut parts = token.split('.');
    let (header, claims) = parts.next().zip(parts.next()).context("not a JWT")?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    edit(&mut claims);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &STANDARD.decode(body)?)?;
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).context("signing")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_token_is_changed_and_the_signature_is_true() {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let key = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(pkcs8.as_ref())
        );
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.x", part(r#"{"alg":"ES256"}"#), part(r#"{"exp":2,"sub":"a"}"#));
        let changed = resign(&token, &key, |claims| claims["exp"] = 1.into()).unwrap();
        let (signed, signature) = changed.rsplit_once('.').unwrap();
        let claims = URL_SAFE_NO_PAD.decode(signed.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(claims, br#"{"exp":1,"sub":"a"}"#);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
        public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        assert!(resign("no token", &key, |_| {}).is_err());
    }
}
