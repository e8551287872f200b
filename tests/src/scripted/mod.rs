//! Peers that do what a script says, byte by byte, and keep every byte they get: a server and a client for stories that
//! compare what both sides of a conversation see.
//!
//! Nothing here is polite: a server may answer before it has the request, twice or never, and each side may half-close,
//! close or reset wherever the script says so. What was received is taken apart afterwards ([`Message`]), by a reader
//! that is as tolerant as any and hides nothing: an odd byte stays what it was.

mod client;
mod message;
mod server;
mod step;

pub use client::{ClientRecord, talk};
pub use message::{Field, Framing, Message, answers, latin1, requests};
pub use server::{ScriptedServer, ServerConnection};
pub use step::{
    Ending, Script, Step, answer, close, drip, finish, gone, head, reset, rest, say, until, wait, whole,
};
