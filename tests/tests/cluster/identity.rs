//! Who can get which identity: the CA on the cluster, asked with tokens of all kinds.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_testbed::cluster::{CONTROL, Cluster, Namespace, WEFT_NAMESPACE, Workload, cluster_story};
use weft_testbed::eventually;

use crate::SOON;

/// The audience of the tokens that the CA takes.
pub(crate) const AUDIENCE: &[&str] = &["--audience", "weft-ca"];
/// What the API server takes, and every pod has by default.
const API_AUDIENCE: &[&str] = &["--audience", "https://kubernetes.default.svc.cluster.local"];
/// The one call of interest.
const SIGN: &str = "weft.identity.v1.Identity/Sign";

/// A signing request in DER that claims names which nobody asked about.
fn request() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key.pem");
    let words =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-outform", "DER"];
    let output = Command::new("openssl")
        .args(words)
        .args(["-subj", "/CN=bank-admin", "-addext"])
        .arg("subjectAltName=URI:spiffe://weft.local/ns/bank/sa/admin")
        .arg("-keyout")
        .arg(&key)
        .output()?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// What a proxy sends (gRPC).
fn call() -> Result<Vec<u8>> {
    let csr = request()?;
    let length = u8::try_from(csr.len() & 0x7f)? | 0x80;
    // Field 1, bytes, of a SignRequest; a request is 128 to 16383 bytes long.
    let mut message = vec![0x0a, length, u8::try_from(csr.len() >> 7)?];
    message.extend(&csr);
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message);
    Ok(body)
}

/// Asks the CA as a proxy does, by curl: what it says, headers and trailers included.
pub(crate) fn ask(port: u16, token: &str) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let (file, header) = (dir.path().join("body"), dir.path().join("header"));
    std::fs::write(&file, call()?)?;
    // Not on a command line, which everybody can read.
    std::fs::write(&header, format!("authorization: Bearer {token}\n"))?;
    let url = format!("https://127.0.0.1:{port}/{SIGN}");
    let mut command = Command::new("curl");
    command.args(["-sk", "--http2", "--max-time", "20", "-D", "-", "-H", "content-type: application/grpc"]);
    command.args(["-H", "te: trailers", "-H", &format!("@{}", header.display())]);
    command.args(["--data-binary", &format!("@{}", file.display()), &url]);
    let output = command.output().context("curl")?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

/// Signed for this account of this namespace, and for nothing that the request itself wished for.
fn signed_for(said: &str, namespace: &str, account: &str) -> Result<()> {
    let id = format!("spiffe://weft.local/ns/{namespace}/sa/{account}");
    ensure!(said.contains("grpc-status: 0") && said.contains(&id), "not {id}: {said}");
    for wish in ["bank-admin", "ns/bank"] {
        ensure!(!said.contains(wish), "the request's own name was signed: {said}");
    }
    Ok(())
}

/// The lines of the audit log of all replicas.
fn audit(cluster: &Cluster) -> Result<String> {
    let control = cluster.existing(WEFT_NAMESPACE);
    let mut log = String::new();
    for pod in control.pod_names_of("")? {
        log += &control.logs(&format!("pod/{pod}"), "weft-control")?;
    }
    Ok(log
        .lines()
        .filter(|line| line.contains("weft::audit"))
        .fold(String::new(), |all, line| all + line + "\n"))
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
        let good = cluster.token("tokens", "web", AUDIENCE)?;
        signed_for(&ask(forward.port(), &good)?, "tokens", "web").context("a good token")?;

        let other = cluster.token("tokens", "web", API_AUDIENCE)?;
        refused("another audience", &ask(forward.port(), &other)?)?;
        let late = cluster.token("tokens", "gone", AUDIENCE)?;
        namespace.run(&["delete", "serviceaccount", "gone"])?;
        refused("an account that is gone", &ask(forward.port(), &late)?)?;
        let forged = format!("{}x", &good[..good.len() - 1]);
        refused("a forged token", &ask(forward.port(), &forged)?)?;
        refused("no token of anybody", &ask(forward.port(), "x")?)?;

        let log = audit(cluster)?;
        let lines = log.lines().filter(|line| line.contains("refused"));
        ensure!(lines.count() >= 4, "the audit log does not have the refusals of {CONTROL}: {log}");
        Ok(())
    });
}

/// A pod without a sidecar that has the tokens of a Secret, one of its own for the CA, and one as every pod has it.
fn thief(tokens: &[(&str, String)]) -> Result<(Workload, Value)> {
    let data: serde_json::Map<_, _> =
        tokens.iter().map(|(name, token)| ((*name).to_owned(), token.as_str().into())).collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "loot" },
        "stringData": data, "data": { "call": STANDARD.encode(call()?) },
    });
    let projected = |audience: &str| {
        let token = json!({ "path": "token", "audience": audience, "expirationSeconds": 600 });
        json!([{ "serviceAccountToken": token }])
    };
    let workload = Workload::deployment("thief").account("mallory").client().edit(|pod| {
        pod["spec"]["volumes"] = json!([
            { "name": "loot", "secret": { "secretName": "loot" } },
            { "name": "own", "projected": { "sources": projected("weft-ca") } },
            { "name": "api", "projected": { "sources": projected(API_AUDIENCE[1]) } },
        ]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            { "name": "loot", "mountPath": "/loot" }, { "name": "own", "mountPath": "/own" },
            { "name": "api", "mountPath": "/api" },
        ]);
    });
    Ok((workload, secret))
}

/// Asks the CA from inside that pod, with the token of a file.
fn ask_inside(namespace: Namespace<'_>, file: &str) -> Result<String> {
    let script = format!(
        "printf 'authorization: Bearer %s\\n' \"$(/bin/busybox cat {file})\" | /usr/bin/curl -sSk --http2 --max-time 20 \
         -D - -H @- -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @/loot/call \
         https://weft-ca.{WEFT_NAMESPACE}:15012/{SIGN}"
    );
    let output = namespace.exec("deploy/thief", &["/bin/sh", "-c", &script])?.ok();
    Ok(output.with_context(|| format!("with {file}"))?.stdout)
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn a_pod_with_tokens_of_others_gets_nothing_by_those_that_are_not_for_the_ca() {
    cluster_story("loot", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("loot", &[])?;
        namespace.apply(&Workload::deployment("web").client())?;
        namespace.apply(&Workload::pod("victim").client())?;
        namespace.wait("pod/victim", "condition=ready")?;
        let web = cluster.token("loot", "web", AUDIENCE)?;
        let hour = |claims: &mut Value, offset: i64| {
            let start = claims["iat"].as_i64().unwrap_or_default() + offset;
            (claims["iat"], claims["nbf"], claims["exp"]) = (json!(start), json!(start), json!(start + 3600));
        };
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", "victim"];
        let tokens = [
            // The same hand-made token with its time now and two hours ago: that only its time is wrong with it.
            ("remade", cluster.resigned(&web, |claims| hour(claims, 0))?),
            ("expired", cluster.resigned(&web, |claims| hour(claims, -7200))?),
            ("elsewhere", cluster.resigned(&web, |claims| claims["iss"] = "https://other.example".into())?),
            ("gone", cluster.token("loot", "victim", &[AUDIENCE, &bound].concat())?),
            ("stolen", cluster.token("loot", "web", API_AUDIENCE)?),
            ("nonsense", "let-me-in".to_owned()),
        ];
        let (workload, secret) = thief(&tokens)?;
        namespace.apply_object(secret)?;
        namespace.apply(&workload)?;
        namespace.ready(&["thief"])?;
        let pods = namespace.pods("app=thief")?;
        let pod = pods.first().context("no thief")?;
        let address = pod["status"]["podIP"].as_str().context("no address")?;

        // Its own token is its own name, and a token that somebody lent it for the CA is its lender's: the token decides, and
        // never what the request wishes for.
        signed_for(&ask_inside(namespace, "/own/token")?, "loot", "mallory")?;
        signed_for(&ask_inside(namespace, "/loot/remade")?, "loot", "web")?;
        namespace.run(&["delete", "pod", "victim", "--grace-period=1"])?;
        eventually("the token of a pod that is gone to be dead", SOON, || {
            Ok(refused("gone", &ask_inside(namespace, "/loot/gone")?).ok())
        })?;
        let mut answers = Vec::new();
        let bad = [
            "/loot/expired",
            "/loot/elsewhere",
            "/loot/gone",
            "/loot/stolen",
            "/loot/nonsense",
            "/api/token",
        ];
        for file in bad {
            let said = ask_inside(namespace, file)?;
            refused(file, &said)?;
            answers.push((file, said.lines().filter(|line| !line.starts_with("date:")).collect::<String>()));
        }
        // Whatever was wrong, the caller cannot tell it from the answer.
        let (_, first) = answers.first().context("nothing was asked")?;
        ensure!(answers.iter().all(|(_, said)| said == first), "they differ: {answers:#?}");

        let log = audit(cluster)?;
        let mine: Vec<&str> = log.lines().filter(|line| line.contains(&format!("{address}:"))).collect();
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let has = |words: &[&str]| mine.iter().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(has(&["signed", "ns/loot/sa/mallory", name]), "not in the audit log: {mine:#?}");
        ensure!(has(&["signed", "ns/loot/sa/web"]), "not in the audit log: {mine:#?}");
        for reason in ["audience", "expired", "not a JWT"] {
            ensure!(has(&["refused", reason]), "{reason:?} is not in the audit log: {mine:#?}");
        }
        let refusals = mine.iter().filter(|line| line.contains("refused")).count();
        ensure!(refusals >= bad.len(), "{refusals} refusals in the audit log: {mine:#?}");
        Ok(())
    });
}
