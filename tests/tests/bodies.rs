//! What a gateway does to bodies on their way: compression, gRPC-Web, WebSockets.

#[path = "bodies/compression.rs"]
mod compression;
#[path = "bodies/grpc_web.rs"]
mod grpc_web;
#[path = "bodies/websocket.rs"]
mod websocket;
