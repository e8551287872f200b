//! What must not be in any log, however much is logged.

use std::fs;

use anyhow::ensure;
use weft_testbed::{Request, Service, story};

use crate::certs::{Authority, bad_credentials};
use crate::peers::{client, request};

#[test]
fn no_token_and_no_key_is_in_any_output() {
    story("secrets", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
        let loud = |yaml: &mut serde_json::Value| yaml["log"] = "debug,weft=trace".into();
        let client_side = mesh.sidecar(&web)?.config(loud).start()?;
        let server_side = mesh.sidecar(&orders)?.config(loud).start()?;

        // What users send, over both versions, to a path that works and to one that does not.
        let user = [("authorization", "Bearer user-secret-1"), ("cookie", "session=user-secret-2")];
        for http2 in [false, true] {
            for url in ["http://orders.shop/?token=user-secret-3", "http://nobody.shop/"] {
                let mut request = Request::post(url, "user-secret-4").header("x-api-key", "user-secret-5");
                for (name, value) in user {
                    request = request.header(name, value);
                }
                // The second name does not exist, and that is told as an error as well.
                let _ = web.send(if http2 { request.http2() } else { request });
            }
        }
        // Handshakes that fail, and a token that is refused.
        let to = std::net::SocketAddr::new(orders.ip(), 8080);
        let mallory = mesh.pod("mallory.shop").start()?;
        for bad in bad_credentials(mesh.ca()?, "web")?.iter().take(2) {
            request(&mallory, to, &client(Some(&bad.credential), &["weft/http"])?, &user)?;
        }
        let bad_token = "not-a-token-of-this-mesh-1234567890";
        let late = mesh.pod("late.shop").start()?;
        let builder = mesh.sidecar(&late)?.config(loud);
        let good_token = fs::read_to_string(late.dir().join("token"))?;
        fs::write(late.dir().join("token"), bad_token)?;
        let late_sidecar = builder.launch()?;
        late_sidecar.process().wait_for_log("credential refused", crate::SOON)?;
        for page in ["/config", "/certs", "/connections", "/endpoints", "/metrics"] {
            let text = client_side.admin(page)?.text();
            ensure!(!text.contains("PRIVATE KEY") && !text.contains("user-secret"), "{page}: {text}");
        }
        ensure!(!late_sidecar.admin("/config")?.text().contains(bad_token), "/config shows the token");

        let mut secrets: Vec<String> = (1..=5).map(|n| format!("user-secret-{n}")).collect();
        secrets.extend([bad_token.to_owned(), good_token, "PRIVATE KEY".to_owned()]);
        for pod in [&web, &orders] {
            secrets.push(fs::read_to_string(pod.dir().join("token"))?);
        }
        let key = fs::read_to_string(mesh.ca()?.pod().dir().join("data/ca-key.pem"))?;
        secrets.extend(key.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
        ensure!(Authority::of(mesh.ca()?).is_ok() && secrets.len() >= 12, "{} secrets", secrets.len());

        let logs = [
            ("web's sidecar", client_side.log()),
            ("orders' sidecar", server_side.log()),
            ("late's sidecar", late_sidecar.log()),
            ("the CA", mesh.ca()?.process().log()),
        ];
        for (whose, log) in logs {
            ensure!(log.lines().count() > 3, "{whose} has logged nothing");
            for secret in &secrets {
                let line = log.lines().find(|line| line.contains(secret.trim()));
                ensure!(line.is_none(), "{whose} has logged {secret:?}: {line:?}");
            }
        }
        Ok(())
    });
}
