//! DNS: the intercepting server, the resolver, and endpoint sets.
