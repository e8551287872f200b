//! A gateway on loopback, with its files, its certificates, and backends behind it. No mesh, no namespaces: clients come from
//! outside.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use tempfile::TempDir;

use crate::pod::weft_binary;
use crate::process::{self, Output, Process};
use crate::wait::eventually;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const ADMIN: u16 = 15_000;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    dir: TempDir,
    ip: IpAddr,
    process: Process,
}

impl Gateway {
    /// Starts one with these resources; `{ip}` in them is its address, and `{dir}` its directory.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start(dir: TempDir, resources: &str) -> Result<Self> {
        Self::start_with(dir, resources, &[])
    }

    /// The same with more in its `weft.yaml`.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start_with_yaml(dir: TempDir, resources: &str, more: &str) -> Result<Self> {
        let gateway = Self::configured(dir, resources, more, &[])?;
        gateway.ready()?;
        Ok(gateway)
    }

    /// The same with these fields of `weft.yaml`, each as the variable that stands for it.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn start_with(dir: TempDir, resources: &str, fields: &[(&str, &str)]) -> Result<Self> {
        let gateway = Self::configured(dir, resources, "", fields)?;
        gateway.ready()?;
        Ok(gateway)
    }

    /// The same without waiting until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub fn begin(dir: TempDir, resources: &str) -> Result<Self> {
        Self::configured(dir, resources, "", &[])
    }

    fn configured(dir: TempDir, resources: &str, more: &str, fields: &[(&str, &str)]) -> Result<Self> {
        let ip = own_address();
        fs::create_dir(dir.path().join("resources"))?;
        write(dir.path(), ip, "resources/all.yaml", resources)?;
        let config = format!(
            "resources: [{dir}/resources]\nworkers: 2\ntimeouts: {{drain: 5s, handshake: 2s}}\n\
             bind: {{admin: \"{ip}:{ADMIN}\", metrics: \"{ip}:15020\", health: \"{ip}:15021\"}}\n\
             telemetry: {{accessLog: {{mode: all}}}}\n{more}",
            dir = dir.path().display()
        );
        fs::write(dir.path().join("weft.yaml"), config)?;
        let process = Self::spawn(&dir, "gateway", fields)?;
        Ok(Self { dir, ip, process })
    }

    /// Starts a second process on the same ports, with an admin server of its own, and waits until it takes traffic.
    ///
    /// # Errors
    /// It does not.
    pub fn successor(&self) -> Result<Process> {
        let ip = self.ip;
        let own = |port: u16| format!("{ip}:{port}");
        let (admin, metrics, health) = (own(16_000), own(16_020), own(16_021));
        let fields = [
            ("WEFT_BIND_ADMIN", admin.as_str()),
            ("WEFT_BIND_METRICS", &metrics),
            ("WEFT_BIND_HEALTH", &health),
        ];
        let process = Self::spawn(&self.dir, "successor", &fields)?;
        eventually("the successor to be ready", PATIENCE, || {
            ensure!(process.is_running(), "it ended");
            Ok(page(self.at(16_000), "/ready").is_ok_and(|(status, _)| status == 200).then_some(()))
        })
        .with_context(|| process.log())?;
        Ok(process)
    }

    fn spawn(dir: &TempDir, name: &str, fields: &[(&str, &str)]) -> Result<Process> {
        let mut command = mortal(&weft_binary()?);
        command
            .args(["gateway", "--config"])
            .arg(dir.path().join("weft.yaml"))
            .env("WEFT_LOG_FORMAT", "text")
            .envs(fields.iter().copied());
        Process::start(name, command, &dir.path().join(format!("{name}.log")))
    }

    /// Waits until it takes traffic on all ports.
    ///
    /// # Errors
    /// It does not.
    pub fn ready(&self) -> Result<()> {
        let what = "the gateway to be ready";
        eventually(what, PATIENCE, || {
            ensure!(self.process.is_running(), "it ended");
            Ok(self.admin("/ready").is_ok_and(|(status, _)| status == 200).then_some(()))
        })
        .with_context(|| self.process.log())
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// A port of it.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Changes a file of its resources, and waits until what it says is in force.
    ///
    /// # Errors
    /// Nothing comes into force.
    pub fn change(&self, file: &str, resources: &str) -> Result<()> {
        let before = self.metric("weft_program_version")?;
        self.put(file, resources)?;
        let what = "the change to be in force";
        eventually(what, PATIENCE, || Ok((self.metric("weft_program_version")? > before).then_some(())))
            .with_context(|| self.process.log())
    }

    /// Changes a file of its resources, and waits for nothing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, file: &str, resources: &str) -> Result<()> {
        write(self.dir.path(), self.ip, &format!("resources/{file}"), resources)
    }

    /// The first sample whose line begins with this; 0 where there is none.
    ///
    /// # Errors
    /// The admin server does not answer.
    pub fn metric(&self, line: &str) -> Result<f64> {
        let (_, text) = self.admin("/metrics")?;
        let value = text.lines().find(|sample| sample.starts_with(line)).and_then(|s| s.rsplit_once(' '));
        Ok(value.map_or(Ok(0.0), |(_, value)| value.parse())?)
    }

    /// A page of the admin server.
    ///
    /// # Errors
    /// It does not answer.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        page(self.at(ADMIN), path)
    }

    /// Runs a program in its directory, with its output.
    ///
    /// # Errors
    /// The program is not there, or does not end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.run_within(PATIENCE, program, args)
    }

    /// The same for one that may take longer, or must not.
    ///
    /// # Errors
    /// The program is not there, or does not end.
    pub fn run_within(&self, deadline: Duration, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).stdin(std::process::Stdio::null());
        process::run(program, command, self.dir.path(), deadline)
    }

    /// Runs a command of Weft in its directory.
    ///
    /// # Errors
    /// The binary is not there, or does not end.
    pub fn weft(&self, args: &[&str]) -> Result<Output> {
        self.run(&weft_binary()?.display().to_string(), args)
    }

    /// Starts a program beside it, in its directory. It ends with what this returns.
    ///
    /// # Errors
    /// It does not start.
    pub fn beside(&self, name: &str, program: &str, args: &[&str]) -> Result<Process> {
        let mut command = mortal(Path::new(program));
        command.args(args).current_dir(self.dir.path());
        Process::start(name, command, &self.dir.path().join(format!("{name}.log")))
    }

    /// What openssl s_client says of a handshake at a port, with further arguments.
    ///
    /// # Errors
    /// openssl is not there.
    pub fn s_client(&self, port: u16, args: &[&str]) -> Result<Handshake> {
        let at = self.at(port).to_string();
        let fixed = ["s_client", "-connect", &at, "-CAfile", "ca.pem"];
        let output = self.run("openssl", &[&fixed, args].concat())?;
        Ok(Handshake { done: output.status.success(), said: format!("{}{}", output.stdout, output.stderr) })
    }
}

/// A program that the kernel ends should the test be killed.
fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A page of an admin server.
fn page(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// What openssl s_client said.
#[derive(Debug)]
pub struct Handshake {
    /// Whether it came to an end.
    pub done: bool,
    /// Everything.
    pub said: String,
}

impl Handshake {
    /// The common name of the certificate that was shown.
    pub fn subject(&self) -> Option<&str> {
        let line = self.said.lines().find(|line| line.starts_with("subject="))?;
        line.rsplit_once("CN").map(|(_, name)| name.trim_start_matches([' ', '=']))
    }
}

/// An address of loopback that no other gateway of this machine has.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 100 + next % 100, high, low.clamp(1, 254)).into()
}

/// Writes a file as an editor does: a new one takes the place of the old one.
fn write(dir: &Path, ip: IpAddr, file: &str, text: &str) -> Result<()> {
    let text = text.replace("{ip}", &ip.to_string()).replace("{dir}", &dir.display().to_string());
    let aside = dir.join("aside");
    fs::write(&aside, text)?;
    fs::rename(aside, dir.join(file)).context("renaming")
}

/// A CA of the public, whose certificate is `NAME.pem` in a directory.
pub struct PublicCa {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl PublicCa {
    /// Makes one.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        fs::write(dir.join(format!("{name}.pem")), certificate.pem())?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(certificate.der(), key)?, dir: dir.to_owned() })
    }

    /// Issues `FILE.pem` and `FILE.key` for these names; the file's name is the common name.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn issue(&self, file: &str, names: &[&str]) -> Result<()> {
        self.issue_with_uri(file, names, None)
    }

    /// The same for a URI as well.
    ///
    /// # Errors
    /// The files cannot be written, or that is no URI.
    pub fn issue_with_uri(&self, file: &str, names: &[&str], uri: Option<&str>) -> Result<()> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.dir.join(format!("{file}.pem")), certificate.pem())?;
        fs::write(self.dir.join(format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}

/// A backend that says its name, and then what it hears.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Echo {
    /// Starts one; it runs as long as the test.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || -> std::io::Result<()> {
                    stream.write_all(name.as_bytes())?;
                    let mut copy = stream.try_clone()?;
                    std::io::copy(&mut copy, &mut stream)?;
                    stream.shutdown(std::net::Shutdown::Write)
                });
            }
        });
        Ok(Self { addr })
    }
}
