//! The kubelet's health checks of an application that takes nothing but mutual TLS.

use weft_testbed::{Mesh, Pod, Request, Response, Result, Sidecar, eventually, story};

use super::shop::SOON;

/// What an injector writes into `WEFT_PROBES`.
fn probes(yaml: &mut serde_json::Value) {
    yaml["probes"] = serde_json::json!([
        {"path": "/probe/app/readiness", "http": {"port": 8080, "path": "/status/204"}},
        {"path": "/probe/app/startup", "http": {"port": 8080, "path": "who's \"<there>?q=<é>\"`#x",
            "headers": [{"name": "x-custom", "value": "kept"}]}},
        {"path": "/probe/app/liveness", "http": {"port": 8080, "path": "/status/500"}},
        {"path": "/probe/moved/readiness", "http": {"port": 8080, "path": "/status/302"}},
        {"path": "/probe/moved/startup", "http": {"port": 8080, "path": "/login"}},
        {"path": "/probe/slow/readiness", "http": {"port": 8080, "path": "/delay/5000"}, "timeoutSeconds": 1},
        {"path": "/probe/tls/readiness", "http": {"port": 8080, "scheme": "HTTPS"}},
        {"path": "/probe/db/readiness", "tcp": {"port": 9000}},
        {"path": "/probe/db/liveness", "tcp": {"port": 9999}},
        {"path": "/probe/api/readiness", "grpc": {"port": 7000}, "timeoutSeconds": 20},
        {"path": "/probe/api/liveness", "grpc": {"port": 7000, "service": "broken"}, "timeoutSeconds": 20},
        {"path": "/probe/api/startup", "grpc": {"port": 8080}},
    ]);
}

struct Scene {
    kubelet: Pod,
    pod: Pod,
    sidecar: Sidecar,
}

impl Scene {
    fn new(mesh: &Mesh) -> Result<Self> {
        let pod = mesh.pod("orders.shop").start()?;
        let sidecar = mesh.sidecar(&pod)?.config(probes).start()?;
        Ok(Self { kubelet: mesh.pod("kubelet.node").start()?, pod, sidecar })
    }

    fn ask(&self, path: &str) -> Result<Response> {
        self.kubelet.get(&format!("http://{}:15021/probe/{path}", self.pod.ip()))
    }
}

#[test]
fn the_proxy_asks_for_the_kubelet() {
    story("probes", |mesh| {
        let scene = Scene::new(mesh)?;
        let down = scene.ask("app/readiness")?;
        assert_eq!(down.status, 503);
        assert!(down.text().contains("took no connection"), "{}", down.text());
        scene.pod.app(8080)?;
        scene.pod.app_of("echo", 9000)?;
        assert_eq!(scene.ask("app/readiness")?.status, 204);
        assert_eq!(scene.ask("app/liveness")?.status, 500, "the application's own status");
        assert_eq!(scene.ask("moved/readiness")?.status, 200);
        assert_eq!(scene.ask("db/readiness")?.status, 200);
        assert_eq!(scene.ask("db/liveness")?.status, 503);
        assert_eq!(scene.ask("app/other")?.status, 404);
        let slow = scene.ask("slow/readiness")?;
        assert!(slow.status == 503 && slow.text().contains("longer than 1s"), "{}", slow.text());
        assert_eq!(scene.ask("tls/readiness")?.status, 503, "the application speaks no TLS");
        Ok(())
    });
}

/// A neighbour comes to the health port with headers that only the mesh may write, and with everything else that a request
/// can have.
#[test]
fn a_neighbours_headers_do_not_reach_the_application() {
    story("probe-headers", |mesh| {
        let scene = Scene::new(mesh)?;
        let application = scene.pod.python_server("probed_server.py", &["8080"])?;
        let url = |path: &str| format!("http://{}:15021/probe/{path}", scene.pod.ip());
        let forged = |request: Request| {
            [
                ("x-forwarded-client-cert", "URI=spiffe://weft.local/ns/shop/sa/admin"),
                ("authorization", "Bearer forged"),
                ("cookie", "forged=1"),
                ("host", "forged.example"),
                ("user-agent", "forged"),
                ("accept", "forged/forged"),
                ("x-custom", "forged"),
                ("connection", "x-custom"),
            ]
            .into_iter()
            .fold(request, |request, (name, value)| request.header(name, value))
        };
        let asked = [
            scene.kubelet.send(forged(Request::get(&url("app/startup?forged=1"))))?,
            scene.kubelet.send(forged(Request::get(&url("moved/startup")).body("forged")))?,
        ];
        for answer in asked {
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""));
            for name in ["set-cookie", "x-internal", "location", "server"] {
                assert_eq!(answer.header(name), "", "{name}");
            }
        }
        assert_eq!(scene.kubelet.send(forged(Request::post(&url("app/startup"), "forged")))?.status, 405);
        let log = application.log();
        let seen: Vec<serde_json::Value> = log
            .lines()
            .filter_map(|line| line.strip_prefix("asked: "))
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()?;
        let host = format!("{}:8080", scene.pod.ip());
        let kubelets = [["Host", &host], ["User-Agent", "kube-probe/1.32"], ["Accept", "*/*"]];
        let head = |target: &str, more: &[[&str; 2]]| {
            let headers = [&kubelets[..], more, &[["Connection", "close"]]].concat();
            serde_json::json!([format!("GET {target} HTTP/1.1"), headers])
        };
        let from = format!("http://{host}/login");
        let wanted = [
            head("/who%27s%20%22%3Cthere%3E?q=<é>\"`", &[["X-Custom", "kept"]]),
            head("/login", &[]),
            head("/logged-in?by=redirect", &[["Referer", &from]]),
        ];
        assert_eq!(seen, wanted, "{log}");
        // The application itself is as closed as before.
        let plain = scene.kubelet.get(&format!("http://{host}/"));
        assert!(plain.is_err(), "{plain:?}");
        let labels = [("outcome", "refused")];
        eventually("the caller to be counted", SOON, || {
            let refused = scene.sidecar.metrics()?.sum("weft_plaintext_connections_total", &labels);
            Ok((refused > 0.0).then_some(()))
        })
    });
}

#[test]
fn grpc_health_is_asked_in_its_own_protocol() {
    story("probe-grpc", |mesh| {
        let scene = Scene::new(mesh)?;
        scene.pod.python_server("health_server.py", &["7000"])?;
        let healthy = scene.ask("api/readiness")?;
        assert_eq!((healthy.status.as_u16(), healthy.text().trim()), (200, "SERVING"));
        let broken = scene.ask("api/liveness")?;
        assert!(broken.status == 503 && broken.text().contains("status 2"), "{}", broken.text());
        scene.pod.app(8080)?;
        let other = scene.ask("api/startup")?;
        assert_eq!(other.status, 503, "no gRPC server answers there: {}", other.text());
        Ok(())
    });
}
