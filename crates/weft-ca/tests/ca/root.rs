//! The root's files: made, kept, missed; and `ca.yaml`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use weft_ca::{Ca, CaConfig};
use weft_identity::TrustBundle;

use crate::support::{RunningCa, Site, WEB_TOKEN, eventually, log};

async fn refusal(config: &CaConfig) -> String {
    match Ca::bind(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

fn anywhere() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn the_root_is_made_once_with_a_private_key_file() {
    let site = Site::new();
    site.ca("").await.stop().await;
    let read = |name: &str| fs::read_to_string(site.path(name)).unwrap();
    let (certificate, key) = (read("data/ca.pem"), read("data/ca-key.pem"));
    assert_eq!(read("data/root.pem"), certificate);
    assert_eq!(fs::metadata(site.path("data/ca-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let mut names: Vec<_> =
        fs::read_dir(site.path("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca-key.pem", "ca.pem", "root.pem"]);

    site.ca("").await.stop().await;
    assert_eq!((read("data/ca.pem"), read("data/ca-key.pem")), (certificate, key));
}

#[tokio::test]
async fn files_that_are_half_there_stop_the_start() {
    for missing in ["ca.pem", "ca-key.pem"] {
        let site = Site::new();
        site.ca("").await.stop().await;
        fs::remove_file(site.path("data").join(missing)).unwrap();
        let error = refusal(&site.config(anywhere(), "")).await;
        assert!(error.contains("half there") && error.contains(&format!("{missing} is missing")), "{error}");
        assert!(!site.path("data").join(missing).exists());
    }
    // Only the bundle can be made anew: it follows from the certificate.
    let site = Site::new();
    site.ca("").await.stop().await;
    fs::remove_file(site.bundle()).unwrap();
    site.ca("").await.stop().await;
    assert!(site.bundle().exists());
    // A bundle alone is what is left of a mesh whose key is lost.
    fs::remove_file(site.path("data/ca.pem")).unwrap();
    fs::remove_file(site.path("data/ca-key.pem")).unwrap();
    assert!(refusal(&site.config(anywhere(), "")).await.contains("half there"));
}

#[tokio::test]
async fn files_that_do_not_belong_together_stop_the_start() {
    let (site, other) = (Site::new(), Site::new());
    site.ca("").await.stop().await;
    other.ca("").await.stop().await;
    fs::copy(other.path("data/ca-key.pem"), site.path("data/ca-key.pem")).unwrap();
    let error = refusal(&site.config(anywhere(), "")).await;
    assert!(error.contains("ca-key.pem: is not the key of"), "{error}");
    site.write("data/ca-key.pem", "nonsense");
    let error = refusal(&site.config(anywhere(), "")).await;
    assert!(error.contains("ca-key.pem: no private key"), "{error}");
}

#[tokio::test]
async fn an_intermediate_from_files_signs_and_travels_with_the_leaf() {
    let site = Site::new();
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let params = |name: &str, depth| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let root = params("offline root", 1).self_signed(&root_key).unwrap();
    let issuer = Issuer::from_ca_cert_der(root.der(), root_key).unwrap();
    let certificate = params("mesh", 0).signed_by(&key, &issuer).unwrap();
    fs::create_dir(site.path("data")).unwrap();
    site.write("data/root.pem", &root.pem());
    site.write("ca.pem", &certificate.pem());
    site.write("ca-key.pem", &key.serialize_pem());
    let at = |name: &str| site.path(name).display().to_string();
    let text = format!(
        "trustDomain: weft.local\nlisten: 127.0.0.1:0\ntokensFile: {}\nroot:\n  certificate: {}\n  key: {}\n  bundle: {}\n",
        at("tokens.yaml"),
        at("ca.pem"),
        at("ca-key.pem"),
        at("data/root.pem"),
    );
    let ca = RunningCa::start(&CaConfig::from_yaml(Path::new("ca.yaml"), &text).unwrap()).await;
    let generation = site.client(ca.address, WEB_TOKEN).ready().await;
    assert_eq!(generation.own.to_string(), "spiffe://weft.local/ns/shop/sa/web");
    ca.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let site = Site::new();
    let ca = site.ca("").await;
    let error = refusal(&site.config(ca.address, "")).await;
    assert!(error.contains(&format!("cannot listen on {}", ca.address)), "{error}");
}

#[test]
fn mistakes_in_the_configuration_are_named_with_file_line_and_field() {
    const GOOD: &str = "trustDomain: weft.local\nlisten: 127.0.0.1:15012\ndataDir: /var/lib/weft\ntokensFile: /etc/tokens.yaml\n";
    let load = |text: &str| CaConfig::from_yaml(Path::new("/etc/weft/ca.yaml"), text);
    let good = load(GOOD).unwrap();
    assert_eq!(good.server_id.to_string(), "spiffe://weft.local/ns/weft-system/sa/weft-ca");
    assert_eq!(good.leaf_lifetime.as_secs(), 24 * 3600);
    assert_eq!(good.limits.identity_connections, 16_384);
    let cases = [
        (GOOD.replace("weft.local", "Weft"), "/etc/weft/ca.yaml:1: trustDomain: "),
        (GOOD.replace("127.0.0.1:15012", "localhost"), "/etc/weft/ca.yaml:2: listen: "),
        (GOOD.replace("listen", "lisen"), "/etc/weft/ca.yaml:2: lisen: "),
        (GOOD.replace("dataDir: /var/lib/weft\n", ""), "/etc/weft/ca.yaml: dataDir: is missing"),
        (GOOD.replace("tokensFile: /etc/tokens.yaml\n", ""), "/etc/weft/ca.yaml: tokensFile: is missing"),
        (format!("{GOOD}root:\n  certificate: a\n  key: b\n"), "root: cannot stand beside dataDir"),
        (GOOD.replace("dataDir: /var/lib/weft", "root:\n  certificate: a"), "root.key: is missing"),
        (format!("{GOOD}leafLifetime: 1 day or so\n"), "/etc/weft/ca.yaml:5: leafLifetime: "),
        (format!("{GOOD}leafLifetime: 90days\n"), "/etc/weft/ca.yaml:5: leafLifetime: must be between"),
        (format!("{GOOD}leafLifetime: 100ms\n"), "/etc/weft/ca.yaml:5: leafLifetime: must be between"),
        (format!("{GOOD}leafLifetime: 2h\nrootLifetime: 1h\n"), "leafLifetime: is longer than rootLifetime"),
        (
            format!("{GOOD}serverId: spiffe://b/ns/a/sa/b\n"),
            "/etc/weft/ca.yaml:5: serverId: is not of trust domain",
        ),
        (
            format!("{GOOD}identityConnections: 0\n"),
            "/etc/weft/ca.yaml:5: identityConnections: must be between 1 and 24576",
        ),
        (format!("{GOOD}identityConnections: 24577\n"), "identityConnections: must be between"),
        (format!("{GOOD}identityConnections: many\n"), "/etc/weft/ca.yaml:5: identityConnections: "),
        (format!("{GOOD}serverId: [a]\n"), "/etc/weft/ca.yaml:5: serverId: "),
        (format!("{GOOD}listen: 127.0.0.1:1\n"), "/etc/weft/ca.yaml:5: listen: "),
    ];
    for (text, expected) in cases {
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert_eq!(error.lines().count(), 1, "{error:?}");
    }
    let error = CaConfig::load(Path::new("/nowhere/ca.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/ca.yaml: cannot be read"), "{error}");
}

#[tokio::test]
async fn the_last_weeks_of_root_and_issuer_are_in_the_log() {
    let site = Site::new();
    // An hour of its life is past already: a root begins an hour before it is made.
    let _ca = site.ca("leafLifetime: 1m\nrootLifetime: 29m").await;
    let bundle = TrustBundle::from_file(&site.bundle()).unwrap();
    let (subject, _) = bundle.subjects().next().unwrap();
    for certificate in ["issuer", "root"] {
        let parts =
            [format!("certificate=\"{certificate}\""), format!("subject=\"{subject}\""), "WARN".to_owned()];
        eventually(|| {
            let text = log().text();
            let said = text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
            if said == 1 { Ok(()) } else { Err(format!("{said} lines about the {certificate}")) }
        })
        .await;
    }
}
