//! What bounds the HTTP connections of a worker, by whom they are to.

use std::time::Duration;

use weft_config::ProxyConfig;
use weft_http::{HalfClose, Http1Limits, Http2Limits};

/// The limits of each kind of connection.
pub(crate) struct Limits {
    /// Towards applications that connect to us.
    pub(crate) http1: Http1Limits,
    pub(crate) http2: Http2Limits,
    /// Towards proxies that open links to us.
    pub(crate) http2_link: Http2Limits,
    /// Of pooled connections: to applications, and of links.
    pub(crate) http1_pool: Http1Limits,
    pub(crate) http2_app: Http2Limits,
    pub(crate) http2_pool: Http2Limits,
}

impl Limits {
    pub(crate) fn new(config: &ProxyConfig) -> Self {
        let timeouts = &config.timeouts;
        let http1 = Http1Limits {
            max_header_bytes: config.limits.max_header_bytes,
            max_headers: config.limits.max_headers,
            max_target_bytes: config.limits.max_target_bytes,
            header_read: timeouts.header_read,
            idle: timeouts.idle,
            pause: timeouts.body_pause.unwrap_or(Duration::MAX),
            half_close: match config.http.half_close {
                weft_config::HalfClose::Serve => HalfClose::Serve,
                weft_config::HalfClose::Cancel => HalfClose::Cancel,
            },
        };
        let http2 = Http2Limits {
            max_concurrent_streams: config.limits.http2.max_concurrent_streams,
            stream_window: config.limits.http2.initial_stream_window,
            connection_window: config.limits.http2.initial_connection_window,
            max_header_bytes: u32::try_from(config.limits.max_header_bytes).unwrap_or(u32::MAX),
            max_pending_resets: config.limits.http2.max_pending_reset_streams,
            max_frame_size: config.limits.http2.max_frame_size,
            max_control_frames: config.limits.http2.max_control_frames,
            head_budget: config.limits.http2.head_budget,
            write_stall: timeouts.write_stall,
            pause: timeouts.body_pause,
            idle: timeouts.idle,
            ..Http2Limits::default()
        };
        let http2_link = of_link(&http2, config.limits.max_headers);
        Self {
            http1,
            http2,
            http2_link,
            http1_pool: Http1Limits { idle: timeouts.pool_idle, ..http1 },
            // No PING to applications: servers of gRPC take more than one in five minutes for an attack. Keepalive finds
            // one that is gone.
            http2_app: Http2Limits { idle: timeouts.pool_idle, max_error_resets: None, ..http2.for_many() },
            http2_pool: Http2Limits {
                idle: timeouts.pool_idle,
                ping: timeouts.ping.map(|every| (every, timeouts.ping_timeout)),
                ..http2_link
            },
        }
    }
}

/// Limits of a link, which carries the requests of many: the errors and cancellations of one caller must not end it for the
/// others, and their heads add up.
fn of_link(limits: &Http2Limits, max_headers: usize) -> Http2Limits {
    // What the mesh adds: trace context, addresses, identity, marks.
    const ADDED: u32 = 16 * 1024;
    let fields = u32::try_from(max_headers).unwrap_or(u32::MAX).saturating_mul(32);
    const CALLERS: u32 = 16;
    Http2Limits {
        // The caller's own proxy has looked, and knows what was asked.
        pause: None,
        // How many requests one turn of the connection may bring bounds them.
        max_pending_resets: usize::MAX,
        max_error_resets: None,
        max_control_frames: limits.max_control_frames.saturating_mul(CALLERS),
        // HTTP/2 counts 32 octets for each field besides (RFC 9113 section 6.5.2): what the caller's sidecar has taken must not
        // be too much for the next.
        max_header_bytes: limits.max_header_bytes.saturating_add(fields).saturating_add(ADDED),
        head_budget: limits.head_budget.saturating_mul(CALLERS as usize),
        ..limits.for_many()
    }
}
