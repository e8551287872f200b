//! Limits on what a peer may make us hold. The values come from configuration; the defaults are safe ones.

use std::time::Duration;

/// What one read of an HTTP/1 connection may bring. hyper grows a connection's buffer towards it while reads fill it.
pub(crate) const READ_BUFFER: usize = 128 * 1024;

/// Limits of an HTTP/1 connection.
#[derive(Clone, Copy, Debug)]
pub struct Http1Limits {
    /// The request or response head, in bytes, with its start line.
    pub max_header_bytes: usize,
    /// How many header fields a head may have.
    pub max_headers: usize,
    /// How long a started request head may take to arrive (slowloris).
    pub header_read: Duration,
    /// How long a connection may stay open without a request.
    pub idle: Duration,
}

impl Default for Http1Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            // What hyper and httparse keep on the stack; more costs an allocation per head.
            max_headers: 100,
            header_read: Duration::from_secs(30),
            // Longer than the 60 to 75 s after which common servers and balancers give up an idle connection, so that
            // it is the application, which knows, that closes first.
            idle: Duration::from_secs(600),
        }
    }
}

/// Limits and windows of an HTTP/2 connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Streams that the peer may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub max_concurrent_streams: u32,
    /// Flow-control window of a stream, bytes.
    pub stream_window: u32,
    /// Flow-control window of a connection, bytes. It also scales h2's budget for small DATA frames, which closes
    /// connections that carry many tiny messages when the window is left at the protocol's 64 KiB.
    pub connection_window: u32,
    /// The decoded header list, bytes (SETTINGS_MAX_HEADER_LIST_SIZE).
    pub max_header_bytes: u32,
    /// Streams reset by the peer before we took them: more closes the connection (CVE-2023-44487, rapid reset).
    pub max_pending_resets: usize,
    /// The largest frame we take (SETTINGS_MAX_FRAME_SIZE), bytes.
    pub max_frame_size: u32,
    /// How long a connection may stay open without a stream.
    pub idle: Duration,
    /// Sends a PING this often while streams are open, and gives the connection up when the answer takes longer than the
    /// second value. It finds a peer that has vanished without a FIN while TCP has nothing to retransmit.
    pub ping: Option<(Duration, Duration)>,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1000,
            stream_window: 1024 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_header_bytes: 64 * 1024,
            max_pending_resets: 50,
            // A piece of a body is at most what one read brings ([`READ_BUFFER`]). With the protocol's default of 16 KiB
            // it would be cut again, and each frame is a write and a TLS record and a bit of its own.
            max_frame_size: 128 * 1024,
            ping: None,
            idle: Duration::from_secs(600),
        }
    }
}
