//! Endpoint state and pickers.
