//! What metrics and labels are called in OTLP.
//!
//! The catalogue has the names of Prometheus. Where the semantic conventions have a metric it is exported under theirs;
//! everything else by one rule, the other way round of how the OpenTelemetry specification turns metrics into Prometheus
//! ones ("OTLP Metric points to Prometheus"): `_total` and the unit go, `weft_` becomes `weft.`. So a backend that makes
//! Prometheus metrics of what it gets has the names of `/metrics` again.

use std::borrow::Cow;

use opentelemetry_semantic_conventions::{attribute as semconv, metric};

use crate::metrics::{Family, Kind, families};

/// What a data point is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instrument {
    /// A sum that only grows.
    Counter,
    /// A sum that goes up and down.
    UpDownCounter,
    Gauge,
    Histogram,
}

/// A metric as OTLP has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: Cow<'static, str>,
    /// UCUM.
    pub(super) unit: &'static str,
    pub(super) instrument: Instrument,
}

/// What the semantic conventions have a metric for: its name, unit and instrument there.
static CONVENTIONS: &[(&Family, &str, &str, Instrument)] = &[
    (
        &families::HTTP_SERVER_REQUEST_DURATION,
        metric::HTTP_SERVER_REQUEST_DURATION,
        "s",
        Instrument::Histogram,
    ),
    (
        &families::HTTP_CLIENT_REQUEST_DURATION,
        metric::HTTP_CLIENT_REQUEST_DURATION,
        "s",
        Instrument::Histogram,
    ),
    (
        &families::HTTP_SERVER_ACTIVE_REQUESTS,
        metric::HTTP_SERVER_ACTIVE_REQUESTS,
        "{request}",
        Instrument::UpDownCounter,
    ),
    (
        &families::HTTP_CLIENT_ACTIVE_REQUESTS,
        metric::HTTP_CLIENT_ACTIVE_REQUESTS,
        "{request}",
        Instrument::UpDownCounter,
    ),
    (&families::PROCESS_CPU, metric::PROCESS_CPU_TIME, "s", Instrument::Counter),
    (&families::PROCESS_RSS, metric::PROCESS_MEMORY_USAGE, "By", Instrument::UpDownCounter),
    (&families::PROCESS_VIRTUAL, metric::PROCESS_MEMORY_VIRTUAL, "By", Instrument::UpDownCounter),
    (
        &families::PROCESS_FDS,
        metric::PROCESS_UNIX_FILE_DESCRIPTOR_COUNT,
        "{file_descriptor}",
        Instrument::UpDownCounter,
    ),
    (&families::PROCESS_THREADS, metric::PROCESS_THREAD_COUNT, "{thread}", Instrument::UpDownCounter),
];

/// What a family is called.
pub(super) fn of(family: &'static Family) -> Name {
    let known = CONVENTIONS.iter().find(|(known, ..)| known.name == family.name);
    if let Some((_, name, unit, instrument)) = known {
        return Name { name: Cow::Borrowed(name), unit, instrument: *instrument };
    }
    let (name, instrument) = match family.kind {
        Kind::Counter => (family.name.strip_suffix("_total").unwrap_or(family.name), Instrument::Counter),
        Kind::Gauge => (family.name, Instrument::Gauge),
        Kind::Histogram(_) => (family.name, Instrument::Histogram),
    };
    let (name, unit) = match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
        (Some(name), _) => (name, "s"),
        (None, Some(name)) => (name, "By"),
        (None, None) => (name, ""),
    };
    let own = name.strip_prefix("weft_").unwrap_or(name);
    Name { name: Cow::Owned(format!("weft.{own}")), unit, instrument }
}

/// What the durations of gRPC calls are called beside the HTTP metric that they are in; `None` for other families.
pub(super) fn of_calls(family: &'static Family) -> Option<Name> {
    let name = if family.name == families::HTTP_SERVER_REQUEST_DURATION.name {
        metric::RPC_SERVER_CALL_DURATION
    } else if family.name == families::HTTP_CLIENT_REQUEST_DURATION.name {
        metric::RPC_CLIENT_CALL_DURATION
    } else {
        return None;
    };
    Some(Name { name: Cow::Borrowed(name), unit: "s", instrument: Instrument::Histogram })
}

/// What a label is called.
pub(super) fn attribute(label: &'static str) -> Cow<'static, str> {
    Cow::Borrowed(match label {
        "http_request_method" => semconv::HTTP_REQUEST_METHOD,
        "http_response_status_code" => semconv::HTTP_RESPONSE_STATUS_CODE,
        "rpc_response_status_code" => semconv::RPC_RESPONSE_STATUS_CODE,
        "error_type" => semconv::ERROR_TYPE,
        "network_protocol_version" => semconv::NETWORK_PROTOCOL_VERSION,
        "source_workload" => "weft.source.workload",
        "destination_workload" => "weft.destination.workload",
        "destination_service" => "weft.destination.service",
        "peer_identity" => "weft.peer.identity",
        own => return Cow::Owned(format!("weft.{own}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule of the specification, as far as the units here go.
    fn in_prometheus(name: &Name) -> String {
        let unit = match name.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = if name.instrument == Instrument::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", name.name.replace('.', "_"))
    }

    #[test]
    fn what_the_conventions_do_not_have_is_itself_again_in_prometheus() {
        let mut names = std::collections::HashSet::new();
        for family in families::ALL {
            let name = of(family);
            assert!(names.insert(name.name.clone()), "{} is there twice", name.name);
            let own = family.name.starts_with("weft_") || family.name.starts_with("http_");
            if own {
                assert_eq!(in_prometheus(&name), family.name);
            }
            assert!(name.name.starts_with("weft.") || !family.name.starts_with("weft_"), "{}", name.name);
        }
    }

    #[test]
    fn names_units_and_instruments_are_those_of_the_conventions() {
        let expect = |family, name: &str, unit, instrument| {
            assert_eq!(of(family), Name { name: name.to_owned().into(), unit, instrument });
        };
        let (histogram, up_down) = (Instrument::Histogram, Instrument::UpDownCounter);
        expect(&families::HTTP_SERVER_REQUEST_DURATION, "http.server.request.duration", "s", histogram);
        expect(&families::HTTP_CLIENT_REQUEST_DURATION, "http.client.request.duration", "s", histogram);
        expect(&families::HTTP_SERVER_ACTIVE_REQUESTS, "http.server.active_requests", "{request}", up_down);
        expect(&families::PROCESS_CPU, "process.cpu.time", "s", Instrument::Counter);
        expect(&families::PROCESS_RSS, "process.memory.usage", "By", up_down);
        expect(&families::TCP_SENT, "weft.tcp_sent", "By", Instrument::Counter);
        expect(&families::TCP_DURATION, "weft.tcp_connection_duration", "s", histogram);
        expect(&families::CERT_NOT_AFTER, "weft.certificate_expiry_timestamp", "s", Instrument::Gauge);
        expect(&families::PROCESS_MAX_FDS, "weft.process_max_fds", "", Instrument::Gauge);
        assert_eq!(of_calls(&families::TCP_DURATION), None);
        assert_eq!(attribute("source_workload"), "weft.source.workload");
        assert_eq!(attribute("direction"), "weft.direction");
    }
}
