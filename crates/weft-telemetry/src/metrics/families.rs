//! The catalogue: every metric family of Weft, in one place.
//!
//! Names follow the OpenTelemetry semantic conventions where they have one (`http.server.request.duration` becomes
//! `http_server_request_duration_seconds`) and begin with `weft_` where they have not. Another crate asks its shard for
//! series of these families, or writes them in a collector; it does not invent families of its own, so that the reference
//! (`docs/reference/metrics.md`) can be whole.

use super::{Buckets, Family, Kind};

/// Request and connection times. From 0.005 up these are the bounds that the semantic conventions advise for
/// `http.server.request.duration`; the five below are for a mesh, where a hop takes a fraction of a millisecond.
pub static SECONDS: Buckets = Buckets {
    bounds: &[
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        75_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        750_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        7_500_000_000,
        10_000_000_000,
    ],
    le: &[
        "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.075", "0.1",
        "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5", "10",
    ],
    scale: 1_000_000_000,
};

/// Connection lifetimes: from a health check to a day-long database session.
pub static LIFETIME_SECONDS: Buckets = Buckets {
    bounds: &[
        1_000_000,
        10_000_000,
        100_000_000,
        1_000_000_000,
        10_000_000_000,
        60_000_000_000,
        600_000_000_000,
        3_600_000_000_000,
        86_400_000_000_000,
    ],
    le: &["0.001", "0.01", "0.1", "1", "10", "60", "600", "3600", "86400"],
    scale: 1_000_000_000,
};

/// A pass of the controller: over a small cluster it takes a millisecond, one with many writes seconds.
pub static PASS_SECONDS: Buckets = Buckets {
    bounds: &[
        1_000_000,
        5_000_000,
        25_000_000,
        100_000_000,
        500_000_000,
        2_500_000_000,
        10_000_000_000,
        60_000_000_000,
    ],
    le: &["0.001", "0.005", "0.025", "0.1", "0.5", "2.5", "10", "60"],
    scale: 1_000_000_000,
};

macro_rules! families {
    ($($(#[$doc:meta])* $ident:ident = $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            #[doc = concat!("\n\n`", $name, "`, labels: ", $("`", $label, "` ",)* ".")]
            $(#[$doc])*
            pub static $ident: Family =
                Family { name: $name, help: $help, kind: $kind, labels: &[$($label),*] };
        )*
        /// Every family, as the reference lists them.
        pub static ALL: &[&Family] = &[$(&$ident),*];
    };
}

const SECONDS_HISTOGRAM: Kind = Kind::Histogram(&SECONDS);

families! {
    // HTTP
    HTTP_SERVER_REQUEST_DURATION = SECONDS_HISTOGRAM, "http_server_request_duration_seconds",
        ["source_workload", "destination_service", "destination_workload", "peer_identity",
         "network_protocol_version", "tls", "http_request_method", "http_response_status_code",
         "rpc_response_status_code", "error_type"],
        "Inbound HTTP requests: from the first byte of the request head to the last byte of the response.";
    HTTP_CLIENT_REQUEST_DURATION = SECONDS_HISTOGRAM, "http_client_request_duration_seconds",
        ["source_workload", "destination_service", "destination_workload", "peer_identity",
         "network_protocol_version", "tls", "http_request_method", "http_response_status_code",
         "rpc_response_status_code", "error_type"],
        "Outbound HTTP requests, retries included: from the first byte of the request head to the last byte of the response.";
    HTTP_SERVER_ACTIVE_REQUESTS = Kind::Gauge, "http_server_active_requests",
        ["source_workload", "destination_service", "destination_workload", "peer_identity",
         "network_protocol_version", "tls"],
        "Inbound HTTP requests in progress.";
    HTTP_CLIENT_ACTIVE_REQUESTS = Kind::Gauge, "http_client_active_requests",
        ["source_workload", "destination_service", "destination_workload", "peer_identity",
         "network_protocol_version", "tls"],
        "Outbound HTTP requests in progress.";
    HTTP_REQUEST_BYTES = Kind::Counter, "weft_http_request_body_bytes_total",
        ["direction", "source_workload", "destination_service", "destination_workload", "peer_identity",
         "network_protocol_version", "tls"],
        "Bytes of HTTP request bodies forwarded.";
    HTTP_RESPONSE_BYTES = Kind::Counter, "weft_http_response_body_bytes_total",
        ["direction", "source_workload", "destination_service", "destination_workload", "peer_identity",
         "network_protocol_version", "tls"],
        "Bytes of HTTP response bodies forwarded.";
    HTTP_RETRIES = Kind::Counter, "weft_http_retries_total",
        ["destination_service", "reason"],
        "Requests sent again to another or the same endpoint, by why.";
    HTTP_RETRIES_REFUSED = Kind::Counter, "weft_http_retries_refused_total",
        ["destination_service"],
        "Requests that were not sent again because the retry budget of their destination was spent.";
    ERRORS = Kind::Counter, "weft_errors_total",
        ["direction", "code"],
        "Requests and connections that Weft itself answered or ended, by weft-error code.";

    // TCP
    TCP_OPENED = Kind::Counter, "weft_tcp_connections_opened_total",
        ["direction", "source_workload", "destination_service", "peer_identity", "tls"],
        "Connections relayed as bytes: opened.";
    TCP_CLOSED = Kind::Counter, "weft_tcp_connections_closed_total",
        ["direction", "source_workload", "destination_service", "peer_identity", "tls"],
        "Connections relayed as bytes: closed.";
    TCP_ACTIVE = Kind::Gauge, "weft_tcp_connections_active",
        ["direction", "source_workload", "destination_service", "peer_identity", "tls"],
        "Connections relayed as bytes: open now.";
    TCP_SENT = Kind::Counter, "weft_tcp_sent_bytes_total",
        ["direction", "source_workload", "destination_service", "peer_identity", "tls"],
        "Bytes relayed from the client to the server.";
    TCP_RECEIVED = Kind::Counter, "weft_tcp_received_bytes_total",
        ["direction", "source_workload", "destination_service", "peer_identity", "tls"],
        "Bytes relayed from the server to the client.";
    TCP_DURATION = Kind::Histogram(&LIFETIME_SECONDS), "weft_tcp_connection_duration_seconds",
        ["direction", "source_workload", "destination_service", "peer_identity", "tls"],
        "Lifetime of connections relayed as bytes.";

    // Listeners, detection, handshakes, links
    ACCEPTED = Kind::Counter, "weft_accepted_connections_total",
        ["listener"],
        "Connections accepted, of any protocol.";
    ACCEPTED_ACTIVE = Kind::Gauge, "weft_accepted_connections_active",
        ["listener"],
        "Accepted connections that are open now.";
    ACCEPT_ERRORS = Kind::Counter, "weft_accept_errors_total",
        ["listener", "reason"],
        "Failures of accept(), such as emfile; accepting pauses after each.";
    DETECTIONS = Kind::Counter, "weft_protocol_detections_total",
        ["direction", "outcome"],
        "How the protocol of a connection was found out.";
    PLAINTEXT = Kind::Counter, "weft_plaintext_connections_total",
        ["source", "outcome"],
        "Inbound connections without mutual TLS by the caller's address: served, or refused because the mode is strict.";
    HANDSHAKES = Kind::Counter, "weft_mtls_handshakes_total",
        ["direction", "outcome"],
        "Mesh TLS handshakes: full, resumed, or failed_ with the reason.";
    HANDSHAKE_DURATION = SECONDS_HISTOGRAM, "weft_mtls_handshake_duration_seconds",
        ["direction"],
        "Time of successful mesh TLS handshakes.";
    EDGE_HANDSHAKES = Kind::Counter, "weft_gateway_handshakes_total",
        ["outcome"],
        "TLS handshakes with clients of a gateway: full, resumed, or failed_ with the reason.";
    EDGE_HANDSHAKE_DURATION = SECONDS_HISTOGRAM, "weft_gateway_handshake_duration_seconds",
        [],
        "Time of successful TLS handshakes with clients of a gateway, from the accepted connection on.";
    GATEWAY_PROXY_PROTOCOL = Kind::Counter, "weft_gateway_proxy_protocol_total",
        ["outcome"],
        "Connections to a gateway from those that tell for whom they connect (PROXY protocol): proxied, local or unknown by what the header says, or why there is none: malformed, closed, timeout, io.";
    GATEWAY_CONNECTIONS = Kind::Counter, "weft_gateway_connections_total",
        ["listener", "route", "backend", "outcome"],
        "Connections of a gateway's TLS and TCP listeners by the route and backend they went to: relayed, or why not.";
    ROUTE_REQUESTS = Kind::Counter, "weft_route_requests_total",
        ["parent", "route", "backend"],
        "Requests that a route sent to a backend, by what the route hangs on (a listener or a service), route and backend.";
    ROUTE_MIRRORED = Kind::Counter, "weft_route_mirrored_total",
        ["outcome"],
        "Copies of requests (RequestMirror): answered, failed, timeout, or left_out because too many were under way.";
    GATEWAY_PORTS = Kind::Gauge, "weft_gateway_port_bound",
        ["port"],
        "Whether a port of a gateway's listeners is listened on: 1, or 0 where it could not be had.";
    PROGRAM_VERSION = Kind::Gauge, "weft_program_version",
        [],
        "How often gateways and routes have come into force since the start; 0: not yet.";
    CONNECT_DURATION = SECONDS_HISTOGRAM, "weft_connect_duration_seconds",
        ["destination_service"],
        "Time of successful TCP connects to endpoints.";
    CONNECT_ERRORS = Kind::Counter, "weft_connect_errors_total",
        ["destination_service", "reason"],
        "TCP connects to endpoints that failed, by why.";
    LINKS_OPEN = Kind::Gauge, "weft_links_open",
        ["destination_service"],
        "Mesh links (HTTP/2) that are open to endpoints.";
    LINKS_OPENED = Kind::Counter, "weft_links_opened_total",
        ["destination_service"],
        "Mesh links opened to endpoints.";
    APP_CONNECTIONS_OPEN = Kind::Gauge, "weft_application_connections_open",
        ["application", "protocol"],
        "Pooled connections that are open to an application, in use or idle.";
    APP_CONNECTIONS_OPENED = Kind::Counter, "weft_application_connections_opened_total",
        ["application", "protocol"],
        "Pooled connections opened to an application: one for each request means that it keeps none alive.";
    LINK_STREAMS = Kind::Gauge, "weft_link_streams_active",
        ["destination_service"],
        "Requests in flight on links to endpoints.";
    PASSTHROUGH = Kind::Counter, "weft_passthrough_connections_total",
        ["protocol"],
        "Outbound connections to destinations outside the mesh, forwarded untouched.";

    // Discovery
    DNS_QUERIES = Kind::Counter, "weft_dns_queries_total",
        ["transport", "outcome"],
        "Queries of the application: answered from cache, forwarded, negative, or failed.";
    DNS_UPSTREAM = Kind::Counter, "weft_dns_upstream_queries_total",
        ["outcome"],
        "Queries sent to the configured name servers.";
    DNS_CACHE_ENTRIES = Kind::Gauge, "weft_dns_cache_entries",
        [],
        "Answers in the DNS cache.";
    DNS_NAMES = Kind::Gauge, "weft_dns_learned_addresses",
        [],
        "Addresses whose name is remembered from an answer.";
    ENDPOINTS = Kind::Gauge, "weft_endpoints",
        ["destination_service", "source"],
        "Endpoints known of a service, by where they came from.";
    ENDPOINT_REFRESH = Kind::Counter, "weft_endpoint_refreshes_total",
        ["outcome"],
        "Refreshes of endpoint sets: changed, same, or failed (the last good set stays).";

    // Identity
    CERT_NOT_AFTER = Kind::Gauge, "weft_certificate_expiry_timestamp_seconds",
        ["identity"],
        "When the workload certificate in use expires, in Unix time.";
    BUNDLE_NOT_AFTER = Kind::Gauge, "weft_trust_bundle_expiry_timestamp_seconds",
        ["trust_domain"],
        "When the first of the trusted roots expires, in Unix time.";
    BUNDLE_ROOTS = Kind::Gauge, "weft_trust_bundle_roots",
        ["trust_domain"],
        "Roots in the trust bundle; two or more during a rotation.";
    BUNDLE_INFO = Kind::Gauge, "weft_trust_bundle_info",
        ["trust_domain", "hash"],
        "Always 1; the hash of the trust bundle in use, to compare proxies by.";
    CERT_RENEWALS = Kind::Counter, "weft_certificate_renewals_total",
        ["outcome"],
        "Renewals of the workload certificate (ok; the first certificate is none), and attempts to get one that failed.";

    // The CA
    CA_SIGNATURES = Kind::Counter, "weft_ca_signatures_total",
        ["outcome"],
        "Calls to the CA by outcome: signed, refused, unavailable (nobody could check the credential), or failed.";
    CA_TOKEN_REVIEWS = Kind::Counter, "weft_ca_token_reviews_total",
        ["outcome"],
        "Tokens that the API server was asked about: good, refused, or unavailable. Tokens that it need not be asked about are not among them.";
    CA_CONNECTIONS = Kind::Gauge, "weft_ca_connections",
        [],
        "Open connections to the CA.";
    CA_LIMITED = Kind::Counter, "weft_ca_limited_total",
        ["limit"],
        "Callers of the CA that were turned down, and connections that were ended, by the limit that was reached.";
    CA_BUNDLE_STREAMS = Kind::Gauge, "weft_ca_bundle_streams",
        [],
        "Open bundle streams: one for each connected proxy.";
    CA_ROOT_NOT_AFTER = Kind::Gauge, "weft_ca_root_expiry_timestamp_seconds",
        [],
        "When the certificate that leaves are signed with expires, in Unix time.";
    CA_BUNDLE_NOT_AFTER = Kind::Gauge, "weft_ca_bundle_expiry_timestamp_seconds",
        [],
        "When the first of the roots that the CA hands out expires, in Unix time.";
    CA_EXPIRES_SOON = Kind::Gauge, "weft_ca_expires_soon",
        ["certificate"],
        "1 in the last weeks of the issuer (the certificate that leaves are signed with) or of a root: the last 30 days, or the last third of a shorter life.";
    CA_ROOTS_MADE = Kind::Counter, "weft_ca_roots_made_total",
        ["reason"],
        "Roots that this process made because the Secret was not there: first (of a new mesh), lost (proxies trust another one), or unknown.";
    // The injector
    INJECTIONS = Kind::Counter, "weft_injections_total",
        ["outcome"],
        "Admission reviews by outcome: injected, skipped, refused, invalid, too_large, busy (no room beside others), or forbidden (another certificate than the API server's).";
    INJECTOR_CONNECTIONS_ENDED = Kind::Counter, "weft_injector_connections_ended_total",
        ["reason"],
        "Connections that the injector ended: silent (no request in time), room (idle, and another needed its place), full (all were being served), or pace (its address opens too many).";
    INJECTION_DURATION = SECONDS_HISTOGRAM, "weft_injection_duration_seconds",
        [],
        "Time from the head of an admission review to its answer.";
    // The controller
    CONTROLLER_LEADER = Kind::Gauge, "weft_controller_leader",
        [],
        "1 on the replica that leads.";
    CONTROLLER_RECONCILES = Kind::Counter, "weft_controller_reconciles_total",
        ["result"],
        "Passes over the whole state, by result.";
    CONTROLLER_RECONCILE_DURATION = Kind::Histogram(&PASS_SECONDS), "weft_controller_reconcile_duration_seconds",
        [],
        "How long a pass took, its writes included.";
    CONTROLLER_WRITES = Kind::Counter, "weft_controller_writes_total",
        ["type"],
        "Objects written or removed, by type.";
    CONTROLLER_WRITTEN_BYTES = Kind::Counter, "weft_controller_written_bytes_total",
        ["type"],
        "Octets of the objects that were written, by type.";
    CONTROLLER_ERRORS = Kind::Counter, "weft_controller_errors_total",
        ["kind"],
        "What went wrong, by kind.";
    CONTROLLER_RECREATIONS = Kind::Counter, "weft_controller_recreations_total",
        ["result"],
        "Pods without a sidecar that were to be made anew, by result.";
    GIVEN_UP_WORKLOADS = Kind::Gauge, "weft_given_up_workloads",
        [],
        "Workloads that get no sidecar by being made anew; see the Events of their pods.";
    HELD_BACK_SERVICES = Kind::Gauge, "weft_held_back_services",
        ["kind"],
        "Services that are held back; see their Events.";
    SERVICES = Kind::Gauge, "weft_services",
        ["mode"],
        "Services of the mesh by the mode of clients towards them.";
    UNINJECTED_PODS = Kind::Gauge, "weft_uninjected_pods",
        ["namespace"],
        "Pods without a sidecar that should have one.";
    INJECTED_PODS = Kind::Gauge, "weft_injected_pods",
        ["namespace"],
        "Pods with a sidecar.";
    TWINS = Kind::Gauge, "weft_twins",
        [],
        "Headless twins that are kept.";
    TWIN_CONFLICTS = Kind::Gauge, "weft_twin_conflicts",
        [],
        "Services whose twin cannot be made; see their Events.";

    // The process and telemetry itself
    CONFIG_RELOADS = Kind::Counter, "weft_config_reloads_total",
        ["outcome"],
        "Configuration reloads: ok, or invalid (the last good snapshot stays).";
    CONFIG_VERSION = Kind::Gauge, "weft_config_version",
        [],
        "Version of the configuration snapshot in use.";
    SPANS_EXPORTED = Kind::Counter, "weft_spans_exported_total",
        [],
        "Spans that the collector accepted.";
    SPANS_DROPPED = Kind::Counter, "weft_spans_dropped_total",
        ["reason"],
        "Spans lost: queue_full, export_failed, rejected by the collector, or shutdown.";
    SPAN_EXPORTS = Kind::Counter, "weft_span_export_requests_total",
        ["outcome"],
        "OTLP export requests: ok, or retryable and permanent failures, each try counted.";
    METRIC_POINTS_EXPORTED = Kind::Counter, "weft_metric_points_exported_total",
        [],
        "Data points of metrics that the collector accepted.";
    METRIC_POINTS_DROPPED = Kind::Counter, "weft_metric_points_dropped_total",
        ["reason"],
        "Data points that did not reach the collector: export_failed, rejected by it, or shutdown. The next export has newer ones of the same series.";
    METRIC_EXPORTS = Kind::Counter, "weft_metric_export_requests_total",
        ["outcome"],
        "OTLP export requests with metrics: ok, or retryable and permanent failures, each try counted.";
    ACCESS_LOG_LINES = Kind::Counter, "weft_access_log_lines_total",
        [],
        "Access log lines written.";
    ACCESS_LOG_DROPPED = Kind::Counter, "weft_access_log_dropped_total",
        ["reason"],
        "Access log lines lost: queue_full or write_failed.";
    METRIC_SERIES_OVERFLOW = Kind::Counter, "weft_metric_series_overflow_total",
        [],
        "Times a new series was put into the overflow series of its family because the family is full.";
    BUILD_INFO = Kind::Gauge, "weft_build_info",
        ["version", "revision", "rustc"],
        "Always 1; what is running.";
    PROCESS_CPU = Kind::Counter, "process_cpu_seconds_total",
        [],
        "User and system CPU time.";
    PROCESS_RSS = Kind::Gauge, "process_resident_memory_bytes",
        [],
        "Resident memory.";
    PROCESS_VIRTUAL = Kind::Gauge, "process_virtual_memory_bytes",
        [],
        "Virtual memory.";
    PROCESS_FDS = Kind::Gauge, "process_open_fds",
        [],
        "Open file descriptors.";
    PROCESS_MAX_FDS = Kind::Gauge, "process_max_fds",
        [],
        "Soft limit of open file descriptors.";
    PROCESS_THREADS = Kind::Gauge, "process_threads",
        [],
        "Threads.";
    PROCESS_START = Kind::Gauge, "process_start_time_seconds",
        [],
        "When the process started, in Unix time.";
}
