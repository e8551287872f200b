//! `weft explain`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weft_config::HostPort;
use weft_core::{DnsName, Namespace, ServiceKey};
use weft_resource::{ResourceHandle, ResourceSet};
use weft_route::explain::{Door, Question, QuestionText, explain};
use weft_route::{Gateways, Options, Program, Severity, compile};

use crate::ask::{self, Output};

#[path = "explain_running.rs"]
mod running;

/// Tell what becomes of a request, from resources in files or by those that a running process has in force: which listener, rule,
/// filters and backends, and why others do not match.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The method, such as GET.
    method: Method,
    /// The URL, such as `https://shop.example/cart?x=1`; with --service the path is enough.
    url: String,
    /// Files and directories with resources.
    #[arg(required_unless_present = "admin", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Ask the process whose admin server listens there, in place of reading files: 127.0.0.1:15000, where nothing else was configured.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "paths")]
    admin: Option<HostPort>,
    /// A header of the request, such as x-canary:1; may be given several times.
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The gateway that the request comes to. Without it any that listens on the URL's port.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = gateway, conflicts_with = "service")]
    gateway: Option<(String, String)>,
    /// The service that a workload of the mesh calls, such as orders.shop:80.
    #[arg(long, value_name = "NAME.NAMESPACE:PORT", value_parser = service)]
    service: Option<(String, u16)>,
    /// The namespace of the workload that calls: routes of its own come before those of the service's namespace.
    #[arg(long, value_name = "NAMESPACE", requires = "service", conflicts_with = "admin")]
    from: Option<Namespace>,
    /// The cluster's domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: DnsName,
    /// How the answer looks.
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> ExitCode {
    match told(args) {
        Err(code) => code,
        Ok(text) => ask::print(&text).err().unwrap_or(ExitCode::SUCCESS),
    }
}

fn told(args: &Args) -> Result<String, ExitCode> {
    let door = match (&args.gateway, &args.service) {
        (Some((namespace, name)), _) => Door::Gateway { namespace: namespace.clone(), name: name.clone() },
        (None, Some((name, port))) => {
            let name = format!("{name}.svc.{}", args.cluster_domain).parse().map_err(crate::usage)?;
            Door::Service(ServiceKey::new(name, *port))
        }
        (None, None) => Door::AnyGateway,
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let question = Question { method: args.method.clone(), url: &args.url, headers, door };
    let explanation = match &args.admin {
        Some(admin) => running::ask(admin, &QuestionText::from(&question))?,
        None => explain(&program(args)?, &question).map_err(crate::usage)?,
    };
    match args.output {
        Output::Json => ask::json(&explanation),
        Output::Text => Ok(explanation.to_string()),
    }
}

/// What the files come to.
fn program(args: &Args) -> Result<Program, ExitCode> {
    let resources = resources(&args.paths)?;
    let options = Options {
        cluster_domain: args.cluster_domain.clone(),
        gateways: match args.gateway.clone() {
            Some((namespace, name)) => Gateways::One(namespace, name),
            None => Gateways::All,
        },
        client_namespace: args.from.clone(),
    };
    let compiled = compile(&resources, &options);
    for note in compiled.notes.iter().filter(|note| note.severity == Severity::Error) {
        warn(note);
    }
    Ok(compiled.program)
}

/// The resources of files and directories, read as a gateway reads them. What is wrong with a document is told, and the others
/// are used.
fn resources(paths: &[PathBuf]) -> Result<Arc<ResourceSet>, ExitCode> {
    if let Some(path) = paths.iter().find(|path| !path.exists()) {
        return Err(crate::usage(format!("{}: there is no such file or directory", path.display())));
    }
    let files = ResourceHandle::new(paths.to_vec());
    files.errors().iter().for_each(warn);
    Ok(files.load())
}

fn warn(what: impl std::fmt::Display) {
    ask::tell(&what.to_string());
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME:VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is no header name"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is no header value"))?;
    Ok((name, value))
}

fn gateway(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("a gateway is NAMESPACE/NAME".to_owned()),
    }
}

fn service(text: &str) -> Result<(String, u16), String> {
    let wanted = || "a service is NAME.NAMESPACE:PORT, such as orders.shop:80".to_owned();
    let (name, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    match name.split('.').collect::<Vec<_>>().as_slice() {
        [service, namespace] if !service.is_empty() && !namespace.is_empty() => {
            Ok((name.to_owned(), port.parse().map_err(|_| wanted())?))
        }
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    const SHOP: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: weft
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{name: edge}, {group: "", kind: Service, name: orders}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {value: /orders}, headers: [{name: x-canary, value: "1"}]}]
    backendRefs: [{name: orders, port: 80}]
"#;

    fn answer(more: &[&str]) -> String {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("shop.yaml"), SHOP).unwrap();
        let path = directory.path().to_str().unwrap();
        let line = ["explain"].into_iter().chain(more.iter().copied()).chain([path]);
        told(&Line::try_parse_from(line).unwrap().args).unwrap()
    }

    #[test]
    fn explains_from_files() {
        let url = "http://shop.example/orders/1";
        let hit = answer(&["GET", url, "-H", "x-canary: 1"]);
        assert!(hit.contains("belongs to HTTPRoute shop/orders rule 0"), "{hit}");
        let miss = answer(&["GET", url, "--gateway", "shop/edge"]);
        assert!(
            miss.contains("404: no rule matches") && miss.contains("there is no header `x-canary`"),
            "{miss}"
        );
        let mesh = answer(&["GET", "/orders", "-H", "x-canary:1", "--service", "orders.shop:80"]);
        assert!(mesh.contains("service orders.shop.svc.cluster.local:80"), "{mesh}");
        let json = answer(&["GET", url, "-o", "json"]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["status"], 404);
    }

    #[test]
    fn arguments_that_are_none_are_refused() {
        for bad in [
            &["GET", "http://a/", "-H", "x", "p"][..],
            &["GET", "http://a/", "--gateway", "edge", "p"],
            &["GET", "http://a/", "--service", "orders:80", "p"],
            &["GET", "http://a/", "--service", "a.b:x", "p"],
            &["GET", "http://a/", "--from", "team", "p"],
            &["G T", "http://a/", "p"],
            &["GET", "http://a/"],
            &["GET", "http://a/", "--admin", "127.0.0.1:15000", "p"],
            &["GET", "http://a/", "--admin", "15000"],
            &["GET", "/", "--admin", "127.0.0.1:15000", "--service", "a.b:80", "--from", "team"],
        ] {
            assert!(Line::try_parse_from(["explain"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }
}
