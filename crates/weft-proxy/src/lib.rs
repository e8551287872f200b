//! The data plane: workers, inbound, outbound, admin.
