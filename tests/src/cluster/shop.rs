//! The demo's services as they are deployed: `web` → `orders` → `inventory` (gRPC) → redis.

use std::time::Duration;

use anyhow::Result;

use super::{Namespace, Workload};
use crate::wait::eventually;

/// How long a mode may be under way: the controller, the kubelet's delay for mounted files, the proxy.
const SOON: Duration = Duration::from_secs(150);

/// A TCP connection that went to a pod whose application has just ended cannot be tried elsewhere, as a request can: the
/// application goes on until its pod's last mention in DNS (a TTL of 5 s) has run out.
const OPAQUE_PRE_STOP_SECONDS: u32 = 6;

/// The services in a namespace.
#[derive(Debug, Clone, Copy)]
pub struct Shop<'a> {
    namespace: Namespace<'a>,
}

impl<'a> Shop<'a> {
    /// All Deployments, callers before callees.
    pub const ALL: [&'static str; 4] = ["web", "orders", "inventory", "redis"];

    /// Deploys them and waits until they answer `client`, a pod beside them.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn open(namespace: Namespace<'a>) -> Result<Self> {
        let app = |kind: &str, port: u16, service: u16| {
            let workload = Workload::deployment(kind).app(kind, port).service(service, port);
            workload.env("SHOP_NAMESPACE", namespace.name())
        };
        for workload in [
            Self::redis(),
            app("inventory", 50051, 50051),
            app("orders", 8080, 80),
            app("web", 8080, 80),
            Workload::deployment("client").client(),
        ] {
            namespace.apply(&workload)?;
        }
        namespace.ready(&["redis", "inventory", "orders", "web", "client"])?;
        let shop = Self { namespace };
        namespace.serves("deploy/client", &shop.url())?;
        Ok(shop)
    }

    /// The services of a namespace in which they are.
    pub fn of(namespace: Namespace<'a>) -> Self {
        Self { namespace }
    }

    /// A real redis, from the same image.
    fn redis() -> Workload {
        let words = ["--port", "6379", "--save", "", "--protected-mode", "no", "--bind", "*", "-::*"];
        Workload::deployment("redis")
            .container("app", &words, |container| {
                container["command"] = serde_json::json!(["/usr/bin/redis-server"]);
                container["readinessProbe"] =
                    serde_json::json!({ "tcpSocket": { "port": 6379 }, "periodSeconds": 1 });
                container["lifecycle"]["preStop"]["sleep"]["seconds"] = OPAQUE_PRE_STOP_SECONDS.into();
            })
            .service(6379, 6379)
    }

    /// Waits until each of the services refuses a plaintext client: one that is outside of the mesh, in a namespace that is
    /// made for it. Inbound strictness has then reached every pod.
    ///
    /// # Errors
    /// One goes on serving it.
    pub fn until_refused(&self) -> Result<()> {
        let name = format!("{}-outside", self.namespace.name());
        let outside = self.namespace.cluster().namespace(&name, &[])?;
        outside.apply(&Workload::deployment("client").client())?;
        outside.ready(&["client"])?;
        for (service, port) in [("web", 80), ("orders", 80), ("inventory", 50051), ("redis", 6379)] {
            let url = format!("http://{service}.{}:{port}/", self.namespace.name());
            eventually(&format!("{service} to refuse plaintext"), SOON, || {
                Ok(self.refuses(outside, service, &url)?.then_some(()))
            })?;
        }
        Ok(())
    }

    /// Whether a connection is closed without an answer, and counted as refused.
    fn refuses(&self, outside: Namespace<'_>, service: &str, url: &str) -> Result<bool> {
        let answered = outside.http("deploy/client", url).is_ok();
        let pods = self.namespace.pod_names(service)?;
        let refused =
            pods.iter().map(|pod| Ok(self.namespace.plaintext(pod)?.refused)).sum::<Result<f64>>()?;
        Ok(!answered && refused > 0.0)
    }

    /// What a shopper asks for.
    pub fn url(&self) -> String {
        format!("http://web.{}/checkout", self.namespace.name())
    }

    /// The namespace.
    pub fn namespace(&self) -> Namespace<'a> {
        self.namespace
    }
}
