//! The kubelet's health checks of an application that takes nothing but mutual TLS.

use weft_testbed::{Mesh, Pod, Request, Response, Result, Sidecar, eventually, story};

use super::shop::SOON;

/// What stands between `/probe/` and the name of each check: without it there is none.
const SECRET: &str = "9f3c5e0a7b1d4826c0e5a9d37f6b1284";

/// What an injector writes into `WEFT_PROBES`.
fn probes(yaml: &mut serde_json::Value) {
    let mut list = serde_json::json!([
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
    for probe in list.as_array_mut().into_iter().flatten() {
        let path = probe["path"].as_str().unwrap_or_default();
        probe["path"] = path.replacen("/probe", &format!("/probe/{SECRET}"), 1).into();
    }
    yaml["probes"] = list;
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

    fn url(&self, path: &str) -> String {
        format!("http://{}:15021/probe/{SECRET}/{path}", self.pod.ip())
    }

    /// Asks, and holds that a status is all that is told.
    fn ask(&self, path: &str) -> Result<Response> {
        let answer = self.kubelet.get(&self.url(path))?;
        assert_eq!(answer.text(), "", "{path}: {answer:?}");
        Ok(answer)
    }
}

#[test]
fn the_proxy_asks_for_the_kubelet() {
    story("probes", |mesh| {
        let scene = Scene::new(mesh)?;
        assert_eq!(scene.ask("app/readiness")?.status, 503);
        scene.sidecar.process().wait_for_log("took no connection", SOON)?;
        assert!(!scene.sidecar.log().contains(SECRET), "the secret is in the log");
        scene.pod.app(8080)?;
        scene.pod.app_of("echo", 9000)?;
        assert_eq!(scene.ask("app/readiness")?.status, 204);
        assert_eq!(scene.ask("app/liveness")?.status, 500, "the application's own status");
        assert_eq!(scene.ask("moved/readiness")?.status, 200);
        assert_eq!(scene.ask("db/readiness")?.status, 200);
        assert_eq!(scene.ask("db/liveness")?.status, 503);
        assert_eq!(scene.ask("app/other")?.status, 404);
        assert_eq!(scene.ask("slow/readiness")?.status, 503);
        scene.sidecar.process().wait_for_log("longer than 1s", SOON)?;
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
        let url = |path: &str| scene.url(path);
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

/// A neighbour knows the names of containers and of probes, and can reach the health port.
#[test]
fn nobody_but_the_kubelet_has_a_check_carried_out() {
    story("probe-secret", |mesh| {
        let scene = Scene::new(mesh)?;
        let application = scene.pod.python_server("probed_server.py", &["8080"])?;
        let nothing = scene.kubelet.get(&format!("http://{}:15021/nothing", scene.pod.ip()))?;
        for path in ["probe/app/startup", "probe/app/other", &format!("probe/{}/app/startup", "0".repeat(32))]
        {
            let answer = scene.kubelet.get(&format!("http://{}:15021/{path}", scene.pod.ip()))?;
            assert_eq!((answer.status, answer.text()), (nothing.status, nothing.text()), "{path}");
            let headers = |answer: &Response| answer.header("content-length").to_owned();
            assert_eq!(headers(&answer), headers(&nothing), "{path}");
        }
        assert!(!application.log().contains("asked: "), "{}", application.log());
        assert_eq!(scene.ask("app/startup")?.status, 200);
        // Other containers of the pod can reach the admin pages: they do not learn the path there.
        let shown = scene.sidecar.admin("/config")?.text();
        assert!(shown.contains("/probe/***/app/startup") && !shown.contains(SECRET), "{shown}");
        Ok(())
    });
}

#[test]
fn grpc_health_is_asked_in_its_own_protocol() {
    story("probe-grpc", |mesh| {
        let scene = Scene::new(mesh)?;
        scene.pod.python_server("health_server.py", &["7000"])?;
        assert_eq!(scene.ask("api/readiness")?.status, 200);
        assert_eq!(scene.ask("api/liveness")?.status, 503);
        scene.sidecar.process().wait_for_log("status 2", SOON)?;
        scene.pod.app(8080)?;
        assert_eq!(scene.ask("api/startup")?.status, 503, "no gRPC server answers there");
        Ok(())
    });
}
