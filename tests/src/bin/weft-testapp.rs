//! Servers that tests talk to, and the helper that enters pods.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = weft_testbed::helper::dispatch() {
        return code;
    }
    weft_testbed::apps::main()
}
