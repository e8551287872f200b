//! `cargo xtask demo`: a small mesh in network-namespace pods (or on loopback), live in the terminal.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = weft_testbed::helper::dispatch() {
        return code;
    }
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return weft_testbed::apps::main();
    }
    weft_testbed::demo::main()
}
