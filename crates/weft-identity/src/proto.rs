//! `weft.identity.v1`: the messages, client and server made from `proto/weft/identity/v1/identity.proto`.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; the .proto file is its documentation"
)]

tonic::include_proto!("weft.identity.v1");
