//! Traffic interception rules (weft init).
