//! The Gateway API's text as tables: each row is what a field means, a request, and what becomes of it. One gateway serves a
//! whole table.
//!
//! The text is that of the API reference (v1.5, core and extended fields), which the CRDs carry as descriptions. A row names the
//! field. What the text leaves to the implementation is told in `docs/guide/routes.md`, and stands here as told there.

#[path = "specification/backend_tls.rs"]
mod backend_tls;
#[path = "specification/backends.rs"]
mod backends;
#[path = "specification/cors.rs"]
mod cors;
#[path = "specification/filters.rs"]
mod filters;
#[path = "specification/grants.rs"]
mod grants;
#[path = "specification/grpc.rs"]
mod grpc;
#[path = "specification/listeners.rs"]
mod listeners;
#[path = "specification/matches.rs"]
mod matches;
#[path = "specification/mesh.rs"]
mod mesh;
#[path = "specification/scene.rs"]
mod scene;
#[path = "specification/streams.rs"]
mod streams;
#[path = "specification/table.rs"]
mod table;
