//! Any text as a resolv.conf: no panic, and one to three servers to ask.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_discovery::ResolvConf;

fuzz_target!(|bytes: &[u8]| {
    let conf = ResolvConf::parse(&String::from_utf8_lossy(bytes));
    assert!((1..=3).contains(&conf.servers.len()), "{conf:?}");
    assert!(conf.servers.iter().all(|server| server.port() == 53), "{conf:?}");
    assert!(conf.ndots <= 15 && conf.attempts.is_none_or(|attempts| (1..=5).contains(&attempts)), "{conf:?}");
});
