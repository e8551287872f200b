//! The CA, the name server and the collector are away while traffic goes on, on new connections as well; and they come
//! back. No request fails, and everything recovers by itself.

#[path = "outages/away.rs"]
mod away;
#[path = "outages/collector.rs"]
mod collector;
#[path = "outages/identity.rs"]
mod identity;
#[path = "outages/shop.rs"]
mod shop;
