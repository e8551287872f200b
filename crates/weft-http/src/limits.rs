//! Limits on what a peer may make us hold. The values come from configuration; the defaults are safe ones.

use std::time::Duration;

/// Limits of an HTTP/1 connection.
#[derive(Clone, Copy, Debug)]
pub struct Http1Limits {
    /// The request or response head, in bytes, with its start line.
    pub max_header_bytes: usize,
    /// How many header fields a head may have.
    pub max_headers: usize,
    /// The request target, in bytes.
    pub max_target_bytes: usize,
    /// How long a started request head may take to arrive (slowloris).
    pub header_read: Duration,
    /// How long a connection may stay open without a request.
    pub idle: Duration,
    /// How long a peer may send nothing in the middle of a body, or take nothing of an answer.
    pub pause: Duration,
    /// What a client means that closes its sending half behind a whole request.
    pub half_close: HalfClose,
}

/// What follows from a client that closes its sending half while its request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HalfClose {
    /// It still gets its answer, as from most servers. One that is gone is noticed by its reset, or when something is
    /// written to it.
    #[default]
    Serve,
    /// It has gone away, and the request with it (as nginx takes it).
    Cancel,
}

impl Default for Http1Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            // What is kept on the stack; more costs an allocation per head.
            max_headers: 100,
            // nginx's `large_client_header_buffers`; RFC 9112 section 3 asks for 8000 at least.
            max_target_bytes: 32 * 1024,
            header_read: Duration::from_secs(30),
            // Longer than the 60 to 75 s after which common servers and balancers give up an idle connection, so that
            // it is the application, which knows, that closes first.
            idle: Duration::from_secs(600),
            pause: Duration::from_secs(300),
            half_close: HalfClose::Serve,
        }
    }
}

/// Limits and windows of an HTTP/2 connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Streams that the peer may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS), and we, whatever the peer takes.
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
    /// Streams that we reset because of what the peer sent on them, in the life of the connection: more closes it. `None`
    /// for a peer that sends on what others send, so that no stream's error ends those of others.
    pub max_error_resets: Option<usize>,
    /// The largest frame we take (SETTINGS_MAX_FRAME_SIZE), bytes.
    pub max_frame_size: u32,
    /// Frames a second that carry nothing (SETTINGS, PING, PRIORITY, RST_STREAM, WINDOW_UPDATE, CONTINUATION, empty DATA and
    /// unknown kinds), beyond two for each request and three for each DATA frame sent. More closes the connection.
    pub max_control_frames: u32,
    /// What the heads of requests that have no answer yet may take of memory, those of a connection together, bytes. A
    /// few octets can stand for a large head (RFC 7541), so the limit of each alone would be no bound.
    pub head_budget: usize,
    /// How long a write may make no progress: a peer that does not read, or gives a stream no window.
    pub write_stall: Option<Duration>,
    /// How long a client may send nothing of a request's body that somebody waits for, before the answer begins (408) or after
    /// it has ended. While an answer is under way, and in calls that go both ways before (gRPC), silence is no pause. `None` on
    /// links: the caller's own proxy has looked.
    pub pause: Option<Duration>,
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
            max_pending_resets: 20,
            max_error_resets: Some(1024),
            max_control_frames: 1000,
            head_budget: 4 << 20,
            write_stall: Some(Duration::from_secs(300)),
            pause: Some(Duration::from_secs(300)),
            // A piece of a body is at most what one read of an HTTP/1 connection brings, 128 KiB. With the protocol's default of 16 KiB
            // it would be cut again, and each frame is a write and a TLS record and a bit of its own.
            max_frame_size: 128 * 1024,
            ping: None,
            idle: Duration::from_secs(600),
        }
    }
}

/// How many callers a connection is thought to have that carries the requests of many.
const CALLERS: u32 = 16;
/// A stream's window is not made smaller than what the protocol begins with (RFC 9113 section 6.9.2).
const LEAST_WINDOW: u32 = 65_535;
/// RFC 9113 section 6.9.1.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

impl Http2Limits {
    /// Limits of a connection that carries the requests of many callers: a mesh link, or one to an application. Whoever asks
    /// for much and reads nothing keeps what has come of it out of the connection's window. So all of its streams together
    /// have room in that window, and nobody who does not read holds up another. The window is also the bound of what can lie
    /// unread: 16 times that of one caller's connection, 64 MiB by default, which are 256 KiB for each of 256 streams.
    #[must_use]
    pub fn for_many(self) -> Self {
        let connection_window = self.connection_window.saturating_mul(CALLERS).min(LARGEST_WINDOW);
        let share = connection_window / self.max_concurrent_streams.max(1);
        let stream_window = self.stream_window.min(share.max(LEAST_WINDOW));
        let max_concurrent_streams = self.max_concurrent_streams.min(connection_window / stream_window);
        Self { connection_window, stream_window, max_concurrent_streams, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_a_shared_connection_have_room_in_its_window() {
        for connection_window in [65_535, 1 << 20, 4 << 20, LARGEST_WINDOW] {
            for stream_window in [65_535, 1 << 20, LARGEST_WINDOW] {
                for max_concurrent_streams in [1, 100, 256, 65_535] {
                    let one = Http2Limits {
                        connection_window,
                        stream_window,
                        max_concurrent_streams,
                        ..Http2Limits::default()
                    };
                    let many = one.for_many();
                    let all = u64::from(many.stream_window) * u64::from(many.max_concurrent_streams);
                    assert!(all <= u64::from(many.connection_window), "{many:?}");
                    assert!(
                        many.max_concurrent_streams > 0 && many.stream_window >= LEAST_WINDOW,
                        "{many:?}"
                    );
                    assert!(
                        many.stream_window <= stream_window && many.connection_window >= connection_window
                    );
                }
            }
        }
        let many = Http2Limits { max_concurrent_streams: 256, ..Http2Limits::default() }.for_many();
        assert_eq!(
            (many.connection_window, many.stream_window, many.max_concurrent_streams),
            (64 << 20, 256 << 10, 256)
        );
    }
}
