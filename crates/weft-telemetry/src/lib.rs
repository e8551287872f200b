//! Metrics, spans and their OTLP export, access log.
