//! The mesh's own authority as the signer of the serving certificate.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::Mutex;
use weft_ca::{Authority, AuthorityWatch};

use super::certificate::{ServingCertificate, ServingSigner};

/// Signs with the root that workloads' certificates are signed with.
pub struct AuthoritySigner {
    authority: Authority,
    changes: Mutex<AuthorityWatch>,
}

impl AuthoritySigner {
    /// A signer that follows `authority` through its rotations.
    pub fn new(authority: Authority) -> Self {
        let changes = Mutex::new(authority.watch());
        Self { authority, changes }
    }
}

impl ServingSigner for AuthoritySigner {
    fn sign(&self, name: &str) -> Result<ServingCertificate, String> {
        let signed = self.authority.issue_server(&[name]).map_err(|error| error.to_string())?;
        let weft_ca::ServerCertificate { chain, key, not_after } = signed;
        Ok(ServingCertificate { chain, key: key.into(), not_after })
    }

    fn bundle_pem(&self) -> String {
        self.authority.bundle_pem()
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async { self.changes.lock().await.changed().await })
    }
}
