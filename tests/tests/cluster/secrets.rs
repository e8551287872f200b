//! What is in no log, however much is logged and whatever happened.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use weft_testbed::cluster::{
    CONTROL, Cluster, Logs, Secrets, WEFT_NAMESPACE, Workload, cluster_story, figure,
};

use crate::identity::{AUDIENCE, ask};

/// Everything of Weft's own, and what libraries tell to whoever looks for a mistake.
const LOUD: &str = "debug,weft=trace";

fn issuer_key(cluster: &Cluster, secrets: &mut Secrets) -> Result<()> {
    let secret = cluster.kubectl().get(WEFT_NAMESPACE, "secret", "weft-ca")?;
    let coded = secret["data"]["ca-key.pem"].as_str().context("the CA has no key")?;
    let pem = String::from_utf8(STANDARD.decode(coded)?)?;
    ensure!(pem.contains("PRIVATE KEY"), "ca-key.pem is not a key");
    secrets.pem("the CA's key", &pem);
    secrets.text("the CA's key as in the Secret", coded);
    Ok(())
}

/// Takes in the tokens and logs that there are now: both go with their pods.
fn look(cluster: &Cluster, secrets: &mut Secrets, logs: &mut Logs) -> Result<()> {
    for token in cluster.projected_tokens()? {
        secrets.token("a pod's token", &token);
    }
    logs.join(cluster.weft_logs()?);
    Ok(())
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn tokens_and_keys_are_in_no_log() {
    cluster_story("secrets", |cluster| {
        let (mut secrets, mut logs) = (Secrets::default(), Logs::default());
        // A comma separates values, as it does for Helm.
        cluster.install(&[&format!("control.log={}", LOUD.replace(',', "\\,"))])?;
        let namespace = cluster.namespace("secrets", &[("weft.dev/inject", "enabled")])?;
        let orders = Workload::deployment("orders").app("http", 8080).service(80, 8080);
        namespace.apply(&orders.annotate("weft.dev/log", LOUD))?;
        namespace.apply(&Workload::deployment("client").client().annotate("weft.dev/log", LOUD))?;
        namespace.ready(&["orders", "client"])?;
        issuer_key(cluster, &mut secrets)?;

        // What users send.
        let user = "Bearer user-secret-4711-0815";
        secrets.text("a user's credential", user.trim_start_matches("Bearer "));
        namespace.serves("deploy/client", "http://orders/")?;
        for word in [format!("authorization:{user}"), format!("cookie:session={user}")] {
            for more in [&[][..], &["--http2"], &["--post", "user-secret-4711-0815"]] {
                let words = [&["--header", &word], more].concat();
                namespace.http_with("deploy/client", "http://orders/", &words)?;
            }
        }
        // A credential that is taken, and some that are not.
        let good = cluster.token("secrets", "client", AUDIENCE)?;
        let late = cluster.resigned(&good, |claims| claims["exp"] = 1_000_000_000.into())?;
        let other = cluster.token("secrets", "client", &[])?;
        let forward = cluster.kubectl().forward(WEFT_NAMESPACE, "svc/weft-ca", 15012)?;
        for (what, token) in [("a good token", &good), ("an expired one", &late), ("another one", &other)] {
            secrets.token(what, token);
            ask(forward.port(), token)?;
        }
        look(cluster, &mut secrets, &mut logs)?;

        // Everything starts anew once more: identities, the issuer's key out of its Secret, leadership.
        namespace.restart(&["orders", "client"])?;
        namespace.serves("deploy/client", "http://orders/")?;
        look(cluster, &mut secrets, &mut logs)?;
        cluster.existing(WEFT_NAMESPACE).run(&["rollout", "restart", CONTROL])?;
        cluster.control_ready()?;
        namespace.serves("deploy/client", "http://orders/")?;
        look(cluster, &mut secrets, &mut logs)?;

        let mut lines = 0;
        // Each with something that it always tells, or nothing was read.
        for (container, least, word) in
            [("weft-control", 4, "weft::audit"), ("weft-proxy", 4, "DEBUG"), ("weft-init", 4, "rules")]
        {
            let of: Vec<_> = logs.of(container).collect();
            ensure!(of.len() >= least, "only {} logs of {container}", of.len());
            ensure!(of.iter().any(|(_, text)| text.contains(word)), "no {container} says {word:?}: {of:#?}");
            for (name, text) in of {
                let found = secrets.found_in(text);
                ensure!(found.is_empty(), "the log of {name} has {found:#?}");
                lines += text.lines().count();
            }
        }
        // The issuer's key, the tokens of four pods and two replicas twice, and what the story itself sent.
        ensure!(secrets.len() >= 16, "only {} secrets are known", secrets.len());
        figure("lines of log without a token or key", format!("{lines} (of {} known ones)", secrets.len()));
        cluster.install(&[])
    });
}
