//! What backends and the log are told of a client, with proxies in front.

use anyhow::{Result, ensure};
use weft_testbed::{Teller, eventually};

use super::doors::{PATIENCE, backend, curl, field, gateway, route};

/// Somebody who is no proxy of ours.
const STRANGER: &str = "127.0.0.9";

#[test]
fn a_proxy_of_ours_is_known_by_its_network() -> Result<()> {
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    let fields =
        [("WEFT_GATEWAY_TRUSTED_NETWORKS", "127.0.0.1,10.0.0.0/8"), ("WEFT_GATEWAY_FORWARDED", "on")];
    let gateway = gateway(&resources, &fields)?;
    let told = ["-H", "x-forwarded-for: 6.6.6.6, 203.0.113.7, 10.1.1.1", "-H", "x-forwarded-proto: https"];
    let said = curl(&gateway, gateway.at(8080), "/", &told)?;
    ensure!(field(&said, "x-forwarded-for") == Some("203.0.113.7, 10.1.1.1, 127.0.0.1"), "{said}");
    let forwarded = "for=203.0.113.7;host=\"a.shop.test:8080\";proto=https, for=10.1.1.1, for=127.0.0.1";
    ensure!(field(&said, "forwarded") == Some(forwarded), "{said}");
    for version in ["--http1.1", "--http2"] {
        let from = [&told[..], &["--interface", STRANGER, version, "-H", "forwarded: for=10.1.1.1"]].concat();
        let said = curl(&gateway, gateway.at(8443), "/", &from)?;
        ensure!(field(&said, "x-forwarded-for") == Some(STRANGER), "{version}: {said}");
        let forwarded = format!("for={STRANGER};host=\"a.shop.test:8443\";proto=https");
        ensure!(field(&said, "forwarded") == Some(&forwarded), "{version}: {said}");
    }
    let logged = || {
        let log = gateway.process().log();
        Ok((log.matches("\"forwarded_for\":\"203.0.113.7\"").count() == 1).then_some(()))
    };
    eventually("the log to have the client", PATIENCE, logged)
}

#[test]
fn the_log_has_lines_of_ones_own() -> Result<()> {
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    let format =
        "seen $remote_addr \"$request\" $status $body_bytes_sent \"$http_user_agent\" $upstream_addr";
    let fields = [("WEFT_TELEMETRY_ACCESS_LOG_FORMAT", format), ("WEFT_GATEWAY_TRUSTED_HOPS", "1")];
    let gateway = gateway(&resources, &fields)?;
    let args = ["-A", "me\t\"\\", "-H", "x-forwarded-for: 203.0.113.7"];
    let said = curl(&gateway, gateway.at(8080), "/a?secret=1", &args)?;
    let length = field(&said, "content-length").unwrap_or_default();
    let line =
        format!("seen 203.0.113.7 \"GET /a HTTP/1.1\" 200 {length} \"me\\x09\\x22\\x5C\" {}\n", teller.addr);
    eventually("the line", PATIENCE, || Ok(gateway.process().log().contains(&line).then_some(())))
}
