//! HTTP connections, upstream pools, the one body type, header hygiene, upgrades.
