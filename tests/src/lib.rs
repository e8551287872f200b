//! Network-namespace pods for tests and the demo.
