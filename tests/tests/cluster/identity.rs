//! Who can get which identity: the CA on the cluster, asked with tokens of all kinds.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use weft_testbed::cluster::{CONTROL, Cluster, WEFT_NAMESPACE, Workload, cluster_story};

/// A signing request in DER that claims a name which nobody asked about.
fn request() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key.pem");
    let words =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-outform", "DER"];
    let output = Command::new("openssl")
        .args(words)
        .args(["-subj", "/CN=bank-admin", "-keyout"])
        .arg(&key)
        .output()?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Asks the CA as a proxy does (gRPC), by curl: what it says, headers and trailers included.
fn ask(port: u16, token: &str) -> Result<String> {
    let csr = request()?;
    let length = u8::try_from(csr.len() & 0x7f)? | 0x80;
    // Field 1, bytes, of a SignRequest; a request is 128 to 16383 bytes long.
    let mut message = vec![0x0a, length, u8::try_from(csr.len() >> 7)?];
    message.extend(&csr);
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message);
    let dir = tempfile::tempdir()?;
    let (file, header) = (dir.path().join("body"), dir.path().join("header"));
    std::fs::write(&file, body)?;
    // Not on a command line, which everybody can read.
    std::fs::write(&header, format!("authorization: Bearer {token}\n"))?;
    let url = format!("https://127.0.0.1:{port}/weft.identity.v1.Identity/Sign");
    let mut command = Command::new("curl");
    command.args(["-sk", "--http2", "--max-time", "20", "-D", "-", "-H", "content-type: application/grpc"]);
    command.args(["-H", "te: trailers", "-H", &format!("@{}", header.display())]);
    command.args(["--data-binary", &format!("@{}", file.display()), &url]);
    let output = command.output().context("curl")?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn token(cluster: &Cluster, account: &str, audience: &str) -> Result<String> {
    let words = ["create", "token", account, "-n", "tokens", "--audience", audience];
    Ok(cluster.kubectl().run(&words)?.trim().to_owned())
}

/// gRPC's UNAUTHENTICATED, and no word about why.
fn refused(what: &str, said: &str) -> Result<()> {
    if !said.contains("grpc-status: 16") || said.contains("spiffe://") {
        bail!("{what}: {said}");
    }
    for word in ["audience", "expired", "account", "TokenReview"] {
        ensure!(!said.contains(word), "{what}: the caller is told {word:?}: {said}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn a_token_gives_its_own_identity_or_none() {
    cluster_story("tokens", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("tokens", &[])?;
        namespace.apply(&Workload::deployment("web").client())?;
        namespace.apply(&Workload::deployment("gone").client())?;
        let forward = cluster.kubectl().forward(WEFT_NAMESPACE, "svc/weft-ca", 15012)?;
        let good = token(cluster, "web", "weft-ca")?;
        let said = ask(forward.port(), &good)?;
        ensure!(said.contains("spiffe://weft.local/ns/tokens/sa/web"), "a good token: {said}");
        ensure!(!said.contains("bank-admin"), "the request's own name was signed");

        let other = token(cluster, "web", "https://kubernetes.default.svc.cluster.local")?;
        refused("another audience", &ask(forward.port(), &other)?)?;
        let late = token(cluster, "gone", "weft-ca")?;
        namespace.run(&["delete", "serviceaccount", "gone"])?;
        refused("an account that is gone", &ask(forward.port(), &late)?)?;
        let forged = format!("{}x", &good[..good.len() - 1]);
        refused("a forged token", &ask(forward.port(), &forged)?)?;
        refused("no token of anybody", &ask(forward.port(), "x")?)?;

        let control = cluster.existing(WEFT_NAMESPACE);
        let mut log = String::new();
        for pod in control.pod_names_of("")? {
            log += &control.logs(&format!("pod/{pod}"), "weft-control")?;
        }
        let lines = log.lines().filter(|line| line.contains("weft::audit") && line.contains("refused"));
        ensure!(lines.count() >= 4, "the audit log does not have the refusals of {CONTROL}: {log}");
        for token in [&good, &other, &late, &forged] {
            // The part that makes it valid.
            let secret = token.rsplit('.').next().unwrap_or(token);
            ensure!(!log.contains(secret), "a token is in the log");
        }
        ensure!(!log.contains("PRIVATE KEY"), "a key is in the log");
        Ok(())
    });
}
