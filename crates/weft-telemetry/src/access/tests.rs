use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use http::{Method, Version};
use serde_json::Value;

use super::*;
use crate::metrics::{Direction, TlsLabel};
use crate::trace::{IdRng, TraceContext};

fn http(n: u64) -> AccessRecord {
    let mut rng = IdRng::with_seed(n);
    let trace =
        TraceContext { trace_id: rng.trace_id(), span_id: rng.span_id(), sampled: true, random: false };
    AccessRecord {
        start_unix_nanos: 1_700_000_000_123_456_789,
        duration: Duration::from_micros(1_500),
        direction: Direction::Outbound,
        protocol: AccessProtocol::Http {
            version: Version::HTTP_11,
            method: Method::GET,
            authority: Some("orders".into()),
            path: format!("/orders/{n}\"\n").into(),
            status: Some(503),
            grpc_status: None,
            user_agent: Some("curl/8".into()),
            request_id: None,
            trace: Some(trace),
            retries: 1,
        },
        destination_service: Some("orders.shop:80".into()),
        upstream: Some("10.1.2.3:8080".parse().unwrap()),
        client: Some("[::1]:5000".parse().unwrap()),
        forwarded_for: None,
        source_identity: None,
        destination_identity: Some("spiffe://weft.local/ns/shop/sa/orders".into()),
        tls: TlsLabel::Mutual,
        sent_bytes: 1,
        received_bytes: 2,
        error: Some("connect_failed"),
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for something that another thread is about to do.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn metric(registry: &Registry, line: &str) -> u64 {
    let mut text = String::new();
    registry.encode(&mut text);
    text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_line_has_what_the_record_has() {
    let line: Value = serde_json::to_value(http(7)).unwrap();
    let trace = match http(7).protocol {
        AccessProtocol::Http { trace, .. } => trace.unwrap(),
        AccessProtocol::Tcp => unreachable!(),
    };
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:20.123456Z", "direction": "outbound", "protocol": "http", "version": "1.1",
        "method": "GET", "authority": "orders", "path": "/orders/7\"\n", "status": 503, "user_agent": "curl/8",
        "trace_id": trace.trace_id.to_string(), "span_id": trace.span_id.to_string(), "sampled": true,
        "retries": 1, "duration_ms": 1.5, "sent_bytes": 1, "received_bytes": 2,
        "destination_service": "orders.shop:80", "upstream": "10.1.2.3:8080", "client": "[::1]:5000",
        "tls": "mutual", "destination_identity": "spiffe://weft.local/ns/shop/sa/orders",
        "error": "connect_failed",
    });
    assert_eq!(line, expected);
    let tcp = AccessRecord { protocol: AccessProtocol::Tcp, error: None, ..http(7) };
    let line: Value = serde_json::to_value(tcp).unwrap();
    assert_eq!(line["protocol"], "tcp");
    assert!(line.get("path").is_none() && line.get("error").is_none());
}

#[test]
fn a_line_may_have_a_format_of_its_own() {
    let line = |format: &str, record: &AccessRecord| {
        let LogFormat::Line(pieces) = format.parse().unwrap() else { panic!("a line") };
        let mut buffer = Vec::new();
        line::append(&mut buffer, &pieces, record);
        String::from_utf8(buffer).unwrap()
    };
    let combined =
        "$remote_addr - - [$time_local] \"$request\" $status $body_bytes_sent \"$http_user_agent\"";
    let expected =
        "::1 - - [14/Nov/2023:22:13:20 +0000] \"GET /orders/7\\x22\\x0A HTTP/1.1\" 503 2 \"curl/8\"\n";
    assert_eq!(line(combined, &http(7)), expected, "what comes from others ends nothing");
    let record = AccessRecord { forwarded_for: Some("203.0.113.7".parse().unwrap()), ..http(7) };
    let others = "$remote_addr $remote_port $request_time $duration_ms $msec $time_iso8601 $bytes_received $host $uri $request_id";
    let expected = "203.0.113.7 5000 0.002 1.5 1700000000.123 2023-11-14T22:13:20+00:00 1 orders /orders/7\\x22\\x0A -\n";
    assert_eq!(line(others, &record), expected);
    let tcp = AccessRecord { protocol: AccessProtocol::Tcp, error: None, ..http(7) };
    let expected = "tcp - - - - outbound mutual 10.1.2.3:8080 -\n";
    let bytes = "$protocol $status $request $request_method $trace_id $direction $tls $upstream_addr $error";
    assert_eq!(line(bytes, &tcp), expected);
    // Every field has something to say of a request that has everything.
    let AccessProtocol::Http { trace, .. } = http(7).protocol else { panic!("a request") };
    let trace = trace.unwrap();
    let rest = "$trace_id $span_id $retries $grpc_status $server_protocol $destination_service $destination_identity $error";
    let expected = format!(
        "{} {} 1 - HTTP/1.1 orders.shop:80 spiffe://weft.local/ns/shop/sa/orders connect_failed\n",
        trace.trace_id, trace.span_id
    );
    assert_eq!(line(rest, &http(7)), expected);
}

/// As it comes over HTTP/1 (`CONNECT db:5432 HTTP/1.1`) and over HTTP/2 (`:authority` and no `:path`).
#[test]
fn a_request_for_a_tunnel_is_for_its_authority() {
    let mut record = http(7);
    let AccessProtocol::Http { method, authority, path, .. } = &mut record.protocol else {
        panic!("a request")
    };
    (*method, *authority, *path) = (Method::CONNECT, Some("db:5432".into()), "".into());
    let LogFormat::Line(pieces) = "\"$request\" $request_method $uri $host".parse().unwrap() else {
        panic!("a line")
    };
    let mut line = Vec::new();
    line::append(&mut line, &pieces, &record);
    assert_eq!(String::from_utf8(line).unwrap(), "\"CONNECT db:5432 HTTP/1.1\" CONNECT db:5432 db:5432\n");
    let json: Value = serde_json::to_value(record).unwrap();
    assert_eq!((json["authority"].as_str(), json.get("path")), (Some("db:5432"), None));
}

#[test]
fn the_mode_says_which_are_wanted_and_can_change() {
    let directory = tempfile::tempdir().unwrap();
    let target = AccessLogTarget::File(directory.path().join("access.log"));
    let (log, writer) = AccessLog::start(&target, AccessLogMode::Off, 8, &Registry::default()).unwrap();
    let wanted = |mode| {
        log.set_mode(mode);
        assert_eq!(log.mode(), mode);
        [(false, false), (false, true), (true, false)].map(|(failed, sampled)| log.wants(failed, sampled))
    };
    assert_eq!(wanted(AccessLogMode::Off), [false, false, false]);
    assert_eq!(wanted(AccessLogMode::Errors), [false, false, true]);
    assert_eq!(wanted(AccessLogMode::Sampled), [false, true, true]);
    assert_eq!(wanted(AccessLogMode::All), [true, true, true]);
    assert!(writer.finish(Duration::from_secs(5)));
}

#[test]
fn all_lines_are_in_the_file_after_finish() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let registry = Registry::default();
    let target = AccessLogTarget::File(path.clone());
    let (log, writer) = AccessLog::start(&target, AccessLogMode::All, 10_000, &registry).unwrap();
    let threads: Vec<_> = (0..2)
        .map(|t| {
            let log = log.for_shard(&registry.shard());
            std::thread::spawn(move || (0..2_000).for_each(|n| log.submit(http(t * 10_000 + n))))
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert!(writer.finish(Duration::from_secs(10)));
    let lines = lines(&path);
    assert_eq!(lines.len(), 4_000);
    let paths: std::collections::HashSet<_> = lines.iter().map(|l| l["path"].to_string()).collect();
    assert_eq!(paths.len(), 4_000);
    assert_eq!(metric(&registry, "weft_access_log_lines_total"), 4_000);
}

#[test]
fn a_single_line_is_written_soon_after_a_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let target = AccessLogTarget::File(path.clone());
    let (log, _writer) = AccessLog::start(&target, AccessLogMode::All, 8, &Registry::default()).unwrap();
    eventually("the writer rests", || log.shared.resting.load(Relaxed));
    let before = Instant::now();
    log.submit(http(1));
    eventually("the line is written", || lines(&path).len() == 1);
    assert!(before.elapsed() < Duration::from_secs(5), "the writer looks around only every 10 s");
}

#[test]
fn a_renamed_file_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let target = AccessLogTarget::File(path.clone());
    let (log, writer) = AccessLog::start(&target, AccessLogMode::All, 8, &Registry::default()).unwrap();
    log.submit(http(1));
    eventually("the first line", || lines(&path).len() == 1);
    fs::rename(&path, &old).unwrap();
    // On request at once...
    log.reopen();
    log.submit(http(2));
    eventually("a line in the new file", || lines(&path).len() == 1);
    assert_eq!(lines(&old).len(), 1);
    // ...and without one, by looking at the path.
    fs::remove_file(&path).unwrap();
    eventually("the new file is noticed", || {
        log.submit(http(3));
        path.exists()
    });
    assert!(writer.finish(Duration::from_secs(5)));
    assert!(!lines(&path).is_empty());
}

/// A named pipe that nobody reads: the worst that a log can be given.
#[test]
fn a_stalled_reader_costs_lines_but_no_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // Open for reading too, so that the writer's open does not wait; nothing is read yet.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let registry = Registry::default();
    let (log, writer) =
        AccessLog::start(&AccessLogTarget::File(path), AccessLogMode::All, 100, &registry).unwrap();
    let before = Instant::now();
    for n in 0..5_000 {
        log.submit(http(n));
    }
    assert!(before.elapsed() < Duration::from_secs(2), "log waited: {:?}", before.elapsed());
    let dropped = metric(&registry, "weft_access_log_dropped_total{reason=\"queue_full\"}");
    assert!(dropped > 0);
    assert!(!writer.shared.stop.load(Relaxed));
    // Once somebody reads, what was queued comes.
    let mut buffer = [0; 65_536];
    let mut seen = 0;
    while (seen as u64) < 5_000 - dropped {
        let n = reader.read(&mut buffer).unwrap();
        seen += buffer[..n].iter().filter(|b| **b == b'\n').count();
    }
    assert_eq!(seen as u64, 5_000 - dropped);
    assert!(writer.finish(Duration::from_secs(5)));
}

#[test]
fn a_path_that_cannot_be_opened_is_said_at_start() {
    let target = AccessLogTarget::File("/nonexistent/access.log".into());
    let error = AccessLog::start(&target, AccessLogMode::All, 8, &Registry::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/access.log"), "{error}");
}
