//! The inbound HTTP traffic of a workload between two looks at its proxies.

use std::time::Duration;

use serde::Serialize;

use crate::scrape::{Histogram, Page, Sample};

const REQUESTS: &str = "http_server_request_duration_seconds";

/// What a workload's proxies let in, in the time between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// HTTP requests per second.
    pub requests_per_second: f64,
    /// The share, 0 to 1, of those that neither ended with a status of 500 or more nor, for gRPC, with a code that means the
    /// server failed, nor without an answer. None without requests.
    pub success_rate: Option<f64>,
    /// Half of the requests took at most this many seconds. None without requests.
    pub p50_seconds: Option<f64>,
    /// 99 of 100.
    pub p99_seconds: Option<f64>,
}

/// Adds up the proxies of one workload.
#[derive(Debug, Default)]
pub(super) struct Sum {
    rate: f64,
    failed_rate: f64,
    durations: Histogram,
}

impl Sum {
    /// Adds a proxy: two looks, and the time between them.
    pub(super) fn add(&mut self, before: &Page, after: &Page, between: Duration) {
        let of = |page: &Page, wanted: &dyn Fn(&Sample) -> bool| Histogram::of(page, REQUESTS, wanted);
        let all = of(after, &|_| true).since(&of(before, &|_| true));
        let failed = of(after, &failed).since(&of(before, &failed));
        let seconds = between.as_secs_f64().max(0.001);
        self.rate += all.count() / seconds;
        self.failed_rate += failed.count() / seconds;
        self.durations.add(&all);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            requests_per_second: self.rate,
            success_rate: (self.rate > 0.0).then(|| (1.0 - self.failed_rate / self.rate).clamp(0.0, 1.0)),
            p50_seconds: self.durations.quantile(0.5),
            p99_seconds: self.durations.quantile(0.99),
        }
    }
}

/// A request that the server failed.
fn failed(sample: &Sample) -> bool {
    // Those that have a client to blame (NOT_FOUND, INVALID_ARGUMENT, ...) are answers; these are failures
    // (https://grpc.io/docs/guides/status-codes/).
    const GRPC: [&str; 6] =
        ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];
    if sample.label("overflow") == "true" {
        // Put together by the proxy's limit on series: what it was is not known.
        return false;
    }
    if !sample.label("error_type").is_empty() {
        return true;
    }
    let status = sample.label("http_response_status_code");
    // A proxy from before that label. No status: the client got no answer.
    status.parse::<u16>().map_or(status.is_empty(), |status| status >= 500)
        || GRPC.contains(&sample.label("rpc_response_status_code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(series: &[(&str, &str, [u32; 3])]) -> Page {
        let mut text = String::new();
        for (status, grpc, counts) in series {
            for (le, count) in ["0.01", "0.1", "+Inf"].iter().zip(counts) {
                text.push_str(&format!(
                    "{REQUESTS}_bucket{{http_response_status_code=\"{status}\",rpc_response_status_code=\"{grpc}\",le=\"{le}\"}} {count}\n"
                ));
            }
        }
        Page::parse(&text).unwrap()
    }

    #[test]
    fn rates_are_the_difference_of_two_looks() {
        let before = page(&[("200", "", [100, 100, 100]), ("500", "", [5, 5, 5])]);
        let after = page(&[("200", "", [140, 190, 190]), ("500", "", [15, 15, 15])]);
        let mut sum = Sum::default();
        sum.add(&before, &after, Duration::from_secs(10));
        let traffic = sum.traffic();
        assert_eq!((traffic.requests_per_second, traffic.success_rate), (10.0, Some(0.9)));
        assert_eq!(traffic.p50_seconds, Some(0.01));
        // 99 of 100: 50 in the first bucket, 49 of 50 in the second.
        assert!((traffic.p99_seconds.unwrap() - (0.01 + 0.09 * 49.0 / 50.0)).abs() < 1e-9);
        // A second replica that started in between.
        sum.add(&Page::default(), &page(&[("200", "", [10, 10, 10])]), Duration::from_secs(10));
        assert_eq!(sum.traffic().requests_per_second, 11.0);
    }

    #[test]
    fn failures_are_the_servers() {
        let rate = |status: &str, grpc: &str| {
            let mut sum = Sum::default();
            sum.add(&Page::default(), &page(&[(status, grpc, [1, 1, 1])]), Duration::from_secs(1));
            sum.traffic().success_rate.unwrap()
        };
        for (status, grpc) in [("200", ""), ("404", ""), ("200", "OK"), ("200", "NOT_FOUND")] {
            assert_eq!(rate(status, grpc), 1.0, "{status} {grpc}");
        }
        for (status, grpc) in [("500", ""), ("503", ""), ("", ""), ("200", "UNAVAILABLE")] {
            assert_eq!(rate(status, grpc), 0.0, "{status} {grpc}");
        }
        assert_eq!(Sum::default().traffic(), Traffic::default());
    }
}
