//! gRPC's interop tests, its own client and server of Go: every case that needs no TLS or credentials.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Run;
use super::outcome::Outcome;
use crate::bench::certs::Side;
use crate::bench::topology::{Core, SERVER_IP};

const PORT: u16 = 8081;

/// For one case; the longest (`orca_oob`) take some seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The cases, as `-test_case` calls them. `pick_first_unary` is not among them: it needs a server that says which it is, and
/// this one does not.
const CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
    "orca_per_rpc",
    "orca_oob",
];

/// The balancer that the cases about load reports (ORCA) look into; nothing to the others.
const BALANCER: &str = r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;

/// Runs them.
pub(crate) fn run(run: &Run<'_>) -> Result<Outcome> {
    let bed = run.bed;
    let program = run.programs.other.as_ref().context("the suite has a server")?.display().to_string();
    let port = PORT.to_string();
    let mut server = bed.start("grpc-server", Side::Server, Core::Load, None, &[&program, "-port", &port])?;
    bed.wait_listening(Side::Server, PORT, &mut server)?;
    let client = run.programs.suite.display().to_string();
    let mut outcome = Outcome { cases: CASES.len(), ..Outcome::default() };
    for case in CASES {
        let to = [client.as_str(), "-server_host", SERVER_IP, "-server_port", &port];
        let words = [&to[..], &["-service_config_json", BALANCER, "-test_case", case]].concat();
        let said = run.to_the_end(&format!("grpc-{case}"), Side::Client, LIMIT, &words)?;
        if !said.success {
            outcome.failed.insert((*case).to_owned(), said.tail());
        }
        server.check()?;
    }
    Ok(outcome)
}
