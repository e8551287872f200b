//! The `weft` binary: one module per subcommand, wiring only.

fn main() {}
