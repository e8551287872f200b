//! gRPC at a gateway, by real clients: grpcurl, which asks by reflection, and grpcio. GRPCRoutes send their calls by service and method.

use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_testbed::{Gateway, Process, PublicCa, grpc_peer, grpcurl};

use super::{check, wait_for_both_ends};

const DOORS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft
  addresses: [{value: \"{ip}\"}]
  listeners:
  - {name: web, port: 8080, protocol: HTTP}
  - {name: shop, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{group: weft.dev, kind: Certificate, name: shop}]}}
---
apiVersion: weft.dev/v1alpha1
kind: Certificate
metadata: {name: shop, namespace: edge}
spec: {certificateFile: \"{dir}/shop.pem\", keyFile: \"{dir}/shop.key\"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: edge}
spec:
  parentRefs: [{name: public}]
  rules:
  - matches:
    - method: {service: grpc.testing.TestService}
    - method: {type: RegularExpression, service: 'grpc\\.(health|reflection)\\..*'}
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: calls}]}}]
    backendRefs: [{group: weft.dev, kind: Backend, name: peer}]
  - matches: [{method: {service: grpc.testing.TestService, method: EmptyCall}}]
    backendRefs: [{group: weft.dev, kind: Backend, name: nobody}]
  - matches: [{method: {service: weft.test.Echo}}]
    backendRefs: [{group: weft.dev, kind: Backend, name: python}]
";

fn backend(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{protocol: grpc, endpoints: [{{host: 127.0.0.1, port: {port}}}]}}\n"
    )
}

fn free() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A gateway in front of these ports.
fn gateway(peer: u16, python: u16) -> Result<Gateway> {
    let dir = tempfile::tempdir()?;
    PublicCa::new(dir.path(), "ca")?.issue("shop", &["grpc.test"])?;
    let backends = [backend("peer", peer), backend("python", python), backend("nobody", 1)];
    Gateway::start(dir, &format!("{DOORS}{}", backends.concat()))
}

/// grpcurl at one of the two doors.
struct Calls<'g> {
    gateway: &'g Gateway,
    program: String,
    tls: bool,
}

/// What it printed, and how it ended: 64 and the code of a status that is not OK.
struct Told {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

impl Calls<'_> {
    fn run(&self, before: &[&str], behind: &[&str]) -> Result<Told> {
        let at = self.gateway.at(if self.tls { 8443 } else { 8080 }).to_string();
        let door = if self.tls { &["-cacert", "ca.pem"][..] } else { &["-plaintext"] };
        let fixed = ["-authority", "grpc.test", "-max-time", "15"];
        let args = [&fixed, door, before, &[at.as_str()], behind].concat();
        let output = self.gateway.run(&self.program, &args)?;
        Ok(Told { stdout: output.stdout, stderr: output.stderr, code: output.status.code() })
    }

    /// A call of the test service with these messages.
    fn call(&self, method: &str, messages: &str, more: &[&str]) -> Result<Told> {
        let service = format!("grpc.testing.TestService/{method}");
        self.run(&[&["-d", messages, "-emit-defaults"], more].concat(), &[&service])
    }
}

impl Told {
    /// The messages of a call that ended well.
    fn messages(&self) -> Result<Vec<Value>> {
        ensure!(self.code == Some(0), "{:?}: {}{}", self.code, self.stdout, self.stderr);
        let messages = serde_json::Deserializer::from_str(&self.stdout).into_iter();
        messages.collect::<Result<_, _>>().with_context(|| self.stdout.clone())
    }

    /// Whether it ended with this status.
    fn failed(&self, code: i32, name: &str, message: &str) -> Result<()> {
        let told = [format!("Code: {name}"), format!("Message: {message}")];
        let all = told.iter().all(|told| self.stderr.contains(told));
        ensure!(self.code == Some(64 + code) && all, "{:?}: {}{}", self.code, self.stdout, self.stderr);
        Ok(())
    }
}

fn size(message: &Value) -> usize {
    let body = message["payload"]["body"].as_str().unwrap_or_default();
    body.len() / 4 * 3 - body.matches('=').count()
}

fn peer(gateway: &Gateway, port: u16) -> Result<Process> {
    let process = gateway.beside("grpcpeer", &grpc_peer()?, &[&port.to_string()])?;
    process.wait_for_log("listening", std::time::Duration::from_secs(20))?;
    Ok(process)
}

#[test]
fn grpcurl_calls_by_reflection() -> Result<()> {
    let (program, port) = (grpcurl()?, free()?);
    let gateway = gateway(port, 1)?;
    let _peer = peer(&gateway, port)?;
    for tls in [false, true] {
        let calls = Calls { gateway: &gateway, program: program.clone(), tls };
        let listed = calls.run(&[], &["list"])?;
        for service in ["grpc.testing.TestService", "grpc.health.v1.Health"] {
            ensure!(listed.stdout.lines().any(|line| line == service), "{}{}", listed.stdout, listed.stderr);
        }
        let described = calls.run(&[], &["describe", "grpc.testing.TestService.FullDuplexCall"])?;
        ensure!(
            described.stdout.contains("stream .grpc.testing.StreamingOutputCallRequest"),
            "{}",
            described.stdout
        );

        let one = calls.call("UnaryCall", "{\"responseSize\": 300000}", &[])?.messages()?;
        ensure!(one.iter().map(size).eq([300_000]), "{} messages", one.len());
        let sizes = "{\"responseParameters\": [{\"size\": 3}, {\"size\": 100000}, {\"size\": 0}]}";
        let many = calls.call("StreamingOutputCall", sizes, &[])?.messages()?;
        ensure!(many.iter().map(size).eq([3, 100_000, 0]), "{} messages", many.len());
        let up = "{\"payload\": {\"body\": \"aGVsbG8=\"}}".repeat(50);
        let sum = calls.call("StreamingInputCall", &up, &[])?.messages()?;
        ensure!(sum.len() == 1 && sum[0]["aggregatedPayloadSize"] == 250, "{sum:?}");
        let both = "{\"responseParameters\": [{\"size\": 7}]}".repeat(20);
        let both = calls.call("FullDuplexCall", &both, &[])?.messages()?;
        ensure!(both.iter().map(size).eq([7; 20]), "{} messages", both.len());
        statuses(&calls)?;
        told_beside(&calls)?;
    }
    Ok(())
}

/// What ends a call otherwise: the application, the gateway, the client.
fn statuses(calls: &Calls<'_>) -> Result<()> {
    let asked = "{\"responseStatus\": {\"code\": 9, \"message\": \"not today: 100 % \\u00fc\"}}";
    calls.call("UnaryCall", asked, &[])?.failed(9, "FailedPrecondition", "not today: 100 % ü")?;
    calls.call("FullDuplexCall", asked, &[])?.failed(9, "FailedPrecondition", "not today: 100 % ü")?;
    calls.call("UnimplementedCall", "{}", &[])?.failed(12, "Unimplemented", "")?;
    // No route has this service.
    let nobodys = calls.run(&[], &["grpc.testing.UnimplementedService/UnimplementedCall"])?;
    nobodys.failed(12, "Unimplemented", "")?;
    // Service and method together come before the service alone; that rule's backend is not there.
    calls.call("EmptyCall", "{}", &[])?.failed(14, "Unavailable", "")?;
    let late = "{\"responseParameters\": [{\"size\": 1}, {\"size\": 1, \"intervalUs\": 30000000}]}";
    let late = calls.call("StreamingOutputCall", late, &["-max-time", "1"])?;
    late.failed(4, "DeadlineExceeded", "")?;
    ensure!(late.stdout.contains("\"body\": \"AA==\""), "the first message was held back: {}", late.stdout);
    Ok(())
}

/// Headers and trailers, also binary ones, and the health service as a stream.
fn told_beside(calls: &Calls<'_>) -> Result<()> {
    let fields =
        ["-v", "-H", "x-grpc-test-echo-initial: heard", "-H", "x-grpc-test-echo-trailing-bin: AAEC/w=="];
    let told = calls.call("UnaryCall", "{}", &fields)?.stdout;
    let (headers, trailers) = told.split_once("Response trailers received:").context("no trailers")?;
    ensure!(
        headers.contains("x-grpc-test-echo-initial: heard") && headers.contains("x-route: calls"),
        "{told}"
    );
    ensure!(trailers.contains("x-grpc-test-echo-trailing-bin: AAEC/w=="), "{told}");
    let health = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"];
    let [check, watch] =
        health.map(|method| calls.run(&["-d", "{\"service\": \"shop\"}", "-max-time", "1"], &[method]));
    ensure!(check?.messages()?.iter().all(|answer| answer["status"] == "SERVING"));
    let watch = watch?;
    ensure!(
        watch.code == Some(64 + 4) && watch.stdout.contains("SERVING"),
        "{}{}",
        watch.stdout,
        watch.stderr
    );
    Ok(())
}

#[test]
fn grpcio_through_a_gateway() -> Result<()> {
    let port = free()?;
    let gateway = gateway(1, port)?;
    let process = gateway.python_server("grpc_server.py", &[&port.to_string()])?;
    let target = format!("ipv4:{}", gateway.at(8080));
    let seen = gateway.python_client("grpc_client.py", &[&target])?;
    check(&seen);
    wait_for_both_ends(&process)?;
    // One connection carried it all: no small frame was taken for a flood, and no reset for a broken connection.
    let links = gateway.metric("weft_links_opened_total{destination_service=\"edge/python\"")?;
    ensure!(links <= 2.0, "{links} connections to the backend");
    ensure!(gateway.metric("weft_errors_total")? == 0.0, "{}", gateway.admin("/metrics")?.1);
    Ok(())
}
