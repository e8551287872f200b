//! `telemetry`: where traces and metrics are sent, and the access log.

use std::path::Path;

use weft_core::{CaCertificates, LogField, LogFormat, LogFormatError};

use crate::env::Env;
use crate::error::{ConfigErrors, Origin, ProblemKind};
use crate::policy;
use crate::read::{Bad, Reader, Section, nearest};
use crate::scalar::{self, Span};
use crate::sections::{HOUR, MILLISECOND, MINUTE, SECOND, Shown, to_usize};
use crate::tree::{self, Scalar};
use crate::types::{
    AccessLogSink, CollectorConfig, ExportConfig, MetricsConfig, OtlpProtocol, TelemetryConfig, TracingConfig,
};

pub(crate) fn telemetry(s: &Section<'_, '_>) -> (TelemetryConfig, f64, crate::AccessLogMode) {
    let ExportConfig { tracing, sampling, metrics, resource } = exports(s);
    let log = s.section("accessLog");
    let sink = log.or("path", Shown("stdout".into()), |v| scalar::path(v).map(Shown)).0;
    let mode = log.or("mode", policy::LogMode(crate::AccessLogMode::Errors), policy::log_mode).0;
    let log_format = log.or("format", LogFormat::Json, log_format);
    let access_log =
        if sink == Path::new("stdout") { AccessLogSink::Stdout } else { AccessLogSink::File(sink) };
    (TelemetryConfig { tracing, metrics, access_log, log_format, resource }, sampling, mode)
}

/// What goes to collectors.
fn exports(s: &Section<'_, '_>) -> ExportConfig {
    let exported = s.has("tracing");
    let (tracing, sampling) = tracing(&s.section("tracing"), exported);
    let pushed = s.section("metrics");
    let exported = pushed.has("otlp");
    let metrics = metrics(&pushed.section("otlp"), exported);
    let resource = s.texts("resource", false).into_iter().map(|(name, value, _)| (name, value)).collect();
    ExportConfig { tracing, sampling, metrics, resource }
}

impl ExportConfig {
    /// Reads the section `telemetry` of a document whose other sections are read elsewhere; `path` is named in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn from_section_of(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let root = tree::parse(text).map_err(|problem| ConfigErrors::one(path, problem))?;
        let env = Env::empty();
        let reader = Reader::new(&env);
        let config = exports(&reader.only(&root, "telemetry"));
        match reader.finish().problems {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigErrors { path: path.to_owned(), problems }),
        }
    }
}

fn log_format(written: &Scalar) -> Result<LogFormat, Bad> {
    let text = scalar::text(written)?;
    text.parse::<LogFormat>().map_err(|error| {
        let names: Vec<&str> = LogField::ALL.iter().map(|field| field.as_str()).collect();
        let near = match &error {
            LogFormatError::Unknown(name) => nearest(name, &names),
            LogFormatError::Nameless | LogFormatError::Constant => None,
        };
        let near = near.map(|name| format!("did you mean \"${name}\"? ")).unwrap_or_default();
        let cure = format!("{near}write json, or a text with fields; these are: ${}", names.join(", $"));
        Bad::value(format!("\"{text}\" {error}"), cure)
    })
}

fn tracing(s: &Section<'_, '_>, exported: bool) -> (Option<TracingConfig>, f64) {
    let collector = collector(s, exported);
    // One of a hundred shows the shape of the traffic and costs next to nothing; a caller's own decision wins over it.
    let sampling = s.or("sampling", 0.01, scalar::share);
    // At 1 KiB a span: 4 MiB at the most while the collector is away.
    let queue = to_usize(s.or("queue", 4096, scalar::whole(1..=1_000_000)));
    (collector.map(|collector| TracingConfig { collector, queue }), sampling)
}

/// `telemetry.metrics.otlp`.
fn metrics(s: &Section<'_, '_>, exported: bool) -> Option<MetricsConfig> {
    let collector = collector(s, exported);
    // What the OpenTelemetry specification's periodic reader waits.
    let interval = s.or("interval", Span(MINUTE), scalar::duration(SECOND..=HOUR)).0;
    collector.map(|collector| MetricsConfig { collector, interval })
}

/// How a collector is reached: the fields that traces and metrics share.
fn collector(s: &Section<'_, '_>, exported: bool) -> Option<CollectorConfig> {
    const PROTOCOLS: &[(&str, OtlpProtocol)] = &[("grpc", OtlpProtocol::Grpc), ("http", OtlpProtocol::Http)];
    let endpoint =
        if exported { s.required("endpoint", url) } else { s.scalar("endpoint", url).map(|(url, _)| url) };
    let protocol = s.scalar("protocol", scalar::word(PROTOCOLS)).map(|(protocol, _)| protocol);
    if protocol.is_none() {
        s.default("protocol", &"grpc");
    }
    let mut headers = Vec::new();
    for (name, value, origin) in s.texts("headers", true) {
        match header(&name, &value) {
            Ok(header) => headers.push(header),
            Err(bad) => s.reader().refuse(origin, &format!("{}.headers.{name}", s.path()), bad),
        }
    }
    let timeout = s.or("timeout", Span(5 * SECOND), scalar::duration(10 * MILLISECOND..=5 * MINUTE)).0;
    let protocol = protocol.unwrap_or(OtlpProtocol::Grpc);
    let ca = collector_ca(s, endpoint.as_deref());
    endpoint.map(|endpoint| CollectorConfig { endpoint, protocol, headers, timeout, ca })
}

/// `caFile` and `caPem`.
fn collector_ca(s: &Section<'_, '_>, endpoint: Option<&str>) -> Option<CaCertificates> {
    let file = s.scalar("caFile", scalar::path).map(|(path, origin)| (CaCertificates::File(path), origin));
    let pem = s.scalar("caPem", certificates).map(|(pem, origin)| (CaCertificates::Pem(pem), origin));
    let conflict = |origin: Origin, field: &str, reason: &str, cure: &str| {
        let bad = Bad { kind: ProblemKind::Conflict, reason: reason.to_owned(), cure: cure.to_owned() };
        s.reader().refuse(origin, &format!("{}.{field}", s.path()), bad);
    };
    if let (Some(_), Some((_, origin))) = (&file, &pem) {
        conflict(origin.clone(), "caPem", "caFile is set as well", "keep one of them");
    }
    let field = if file.is_some() { "caFile" } else { "caPem" };
    let (ca, origin) = file.or(pem)?;
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        let reason = "endpoint is an http:// one, whose collector shows no certificate";
        conflict(origin, field, reason, "write https:// in endpoint, or leave this out");
    }
    Some(ca)
}

fn certificates(written: &Scalar) -> Result<String, Bad> {
    // RFC 7468 section 5. What is in it is read when the exporter starts.
    let pem = scalar::text(written)?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        let cure = "write the PEM text of one or more certificates, or the path of a file in caFile";
        Err(Bad::value("there is no certificate in this".to_owned(), cure))
    }
}

pub(crate) fn url(written: &Scalar) -> Result<String, Bad> {
    let url = scalar::text(written)?;
    let cure = "write http://host:port or https://host:port";
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err(Bad::value(format!("\"{url}\" is not an http or https URL"), cure));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = if authority.starts_with('[') {
        let end = authority.find(']').unwrap_or(0);
        authority.get(end + 1..).is_some_and(|port| port.is_empty() || port.starts_with(':'))
            && authority.get(1..end).is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
    } else {
        let name = authority.split_once(':').map_or(authority, |(name, _)| name);
        name.parse::<weft_core::DnsName>().is_ok()
    };
    let port = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((_, port)) => port.parse::<u16>().is_ok_and(|port| port != 0),
        None => true,
    };
    let clean = rest.bytes().all(|b| b.is_ascii_graphic());
    if host && port && clean { Ok(url) } else { Err(Bad::value(format!("\"{url}\" is not a URL"), cure)) }
}

fn header(name: &str, value: &str) -> Result<(String, String), Bad> {
    // RFC 9110 section 5.6.2: token. Connection-level fields would break the export's own framing.
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(Bad::value(format!("\"{name}\" is not a header name"), "write letters, digits and '-'"));
    }
    if !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Bad::value(
            "the value has a character that a header cannot carry",
            "write visible ASCII",
        ));
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}
