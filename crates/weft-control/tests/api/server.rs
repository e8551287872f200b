//! etcd and kube-apiserver on loopback; both end with their value.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Start of both, on a machine that is busy with other things.
const START: Duration = Duration::from_secs(120);

/// A process that ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running API server with its store.
pub(crate) struct ApiServer {
    directory: TempDir,
    binary: PathBuf,
    port: u16,
    etcd_port: u16,
    api: Option<Process>,
    _etcd: Process,
    /// Signs service account tokens.
    pub(crate) accounts: KeyPair,
}

impl ApiServer {
    /// Starts both and waits until they serve.
    pub(crate) async fn start() -> Self {
        let binary = std::env::var_os("WEFT_KUBE_APISERVER").map(PathBuf::from);
        let binary = binary.filter(|path| path.is_file()).expect(
            "WEFT_KUBE_APISERVER must name the program kube-apiserver, as `cargo xtask cluster e2e` does",
        );
        let directory = tempfile::tempdir().unwrap();
        let [etcd_port, peer, port] = [free_port(), free_port(), free_port()];
        let etcd = etcd(directory.path(), etcd_port, peer);
        let accounts = certificates(directory.path());
        let mut server = Self { directory, binary, port, etcd_port, api: None, _etcd: etcd, accounts };
        server.resume().await;
        server
    }

    /// Starts the API server, again after [`ApiServer::stop`], at the same address with the same store.
    pub(crate) async fn resume(&mut self) {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let log = File::options().create(true).append(true).open(at("apiserver.log")).unwrap();
        let child = Command::new(&self.binary)
            .args([
                format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.port),
                format!("--tls-cert-file={}", at("server.pem")),
                format!("--tls-private-key-file={}", at("server-key.pem")),
                format!("--client-ca-file={}", at("ca.pem")),
                format!("--service-account-issuer={ISSUER}"),
                format!("--service-account-signing-key-file={}", at("accounts-key.pem")),
                format!("--service-account-key-file={}", at("accounts.pem")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                // Nobody makes the account "default" and mounts tokens here.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--v=0".to_owned(),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.api = Some(Process(child));
        let client = self.client().await;
        let deadline = Instant::now() + START;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            if client.request_text(request).await.is_ok() {
                return;
            }
            let ended = self.api.as_mut().and_then(|api| api.0.try_wait().unwrap());
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the API server does not serve ({ended:?}): {}",
                tail(&fs::read_to_string(at("apiserver.log")).unwrap_or_default())
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the API server; its store stays.
    pub(crate) fn stop(&mut self) {
        self.api = None;
    }

    /// As an administrator.
    pub(crate) async fn client(&self) -> Client {
        let user = serde_json::json!({
            "client-certificate": self.directory.path().join("admin.pem"),
            "client-key": self.directory.path().join("admin-key.pem"),
        });
        self.client_of(user).await
    }

    /// As whoever a token is for.
    pub(crate) async fn client_with(&self, token: &str) -> Client {
        self.client_of(serde_json::json!({ "token": token })).await
    }

    async fn client_of(&self, user: serde_json::Value) -> Client {
        let kubeconfig: Kubeconfig = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.directory.path().join("ca.pem"),
            }}],
            "users": [{"name": "c", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }))
        .unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

fn etcd(directory: &Path, port: u16, peer: u16) -> Process {
    let log = File::create(directory.join("etcd.log")).unwrap();
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    let child = Command::new("etcd")
        .args(["--unsafe-no-fsync", "--data-dir"])
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("etcd must be installed (Debian: etcd-server)");
    Process(child)
}

/// A CA, the server's certificate, an administrator's, and the key of service account tokens.
fn certificates(directory: &Path) -> KeyPair {
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&key).unwrap();
    write("ca.pem", &ca.pem());
    let issuer = Issuer::from_ca_cert_der(ca.der(), key).unwrap();
    let issue = |name: &str, change: &dyn Fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}-key.pem"), &key.serialize_pem());
    };
    issue("server", &|params| {
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    issue("admin", &|params| {
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let accounts = KeyPair::generate().unwrap();
    write("accounts-key.pem", &accounts.serialize_pem());
    write("accounts.pem", &accounts.public_key_pem());
    accounts
}

/// A port that was free a moment ago. The programs here cannot be given port 0.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap().local_addr().unwrap().port()
}

fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(3000);
    text.get(start..).unwrap_or(text)
}
