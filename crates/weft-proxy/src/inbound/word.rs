//! Who speaks first, the client or the application.

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_core::Drain;
use weft_net::{Detected, Greeting, Prefixed, greeting, read_more};

use super::InboundDoor;
use crate::silence::silence;

/// The first word on a connection.
pub(super) enum Word {
    /// The client's, or what its connection came to: `None` if it failed.
    Client(Option<Detected>),
    /// The application's. It is no HTTP/2.
    Server,
    /// The application's, which is the preface of an HTTP/2 server.
    Http2Server,
    /// None until the time was over.
    Over,
}

/// A connection to the application, on which the application may have said something already.
pub(super) struct Asked {
    app: TcpStream,
    said: BytesMut,
}

impl Asked {
    pub(super) fn new(app: TcpStream) -> Self {
        Self { app, said: BytesMut::new() }
    }

    /// Waits for the first word; `client` waits for the client's.
    pub(super) async fn first_word(
        &mut self,
        client: impl Future<Output = Option<Detected>>,
        end: impl Future<Output = ()>,
    ) -> Word {
        tokio::select! {
            biased;
            detected = client => Word::Client(detected),
            word = self.speaks() => word,
            () = end => Word::Over,
        }
    }

    /// Waits until what the application says tells what it is.
    async fn speaks(&mut self) -> Word {
        loop {
            // One that closes or fails has said its last; the relay finds that out for itself.
            let over = !matches!(read_more(&mut self.app, &mut self.said).await, Ok(1..));
            match greeting(&self.said) {
                Greeting::NeedMore if !over => {}
                Greeting::Http2 => return Word::Http2Server,
                _ => return Word::Server,
            }
        }
    }

    /// To be relayed, with what it said in front.
    pub(super) fn into_stream(self) -> Prefixed<TcpStream> {
        Prefixed::new(self.said.freeze(), self.app)
    }
}

/// What a client says to an application that has shown that it is an HTTP/2 server: requests, or nothing that is passed on.
pub(super) async fn after_settings(
    client: impl Future<Output = Option<Detected>>,
    end: impl Future<Output = ()>,
) -> Option<Detected> {
    tokio::select! {
        biased;
        detected = client => detected,
        () = end => None,
    }
}

/// When a connection on which nobody speaks is over: with everything else, or when a relay that carries nothing is.
pub(super) async fn silent_end(door: &InboundDoor, drain: &Drain) {
    tokio::select! {
        () = drain.clone().into_closed() => {}
        () = silence(door.shared.config.timeouts.tcp_idle) => {}
    }
}
