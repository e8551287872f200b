//! Sockets: listeners, original destination, protocol detection, TCP relay.
