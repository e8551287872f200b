//! Keys, certificates, trust bundle, peer verification and the rustls configurations.
