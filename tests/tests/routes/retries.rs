//! Tries that a route asks for: whatever a try fails by, and however the body comes, the next one has the very same body.

use anyhow::{Result, ensure};
use weft_testbed::Teller;

use super::{curl, gateway_of, to};

/// What is kept of a body at most, so that it can be sent again (`docs/reference/configuration.md`, Retries).
const KEPT: usize = 65_535;

/// How the body is framed on its way to the gateway.
const FRAMINGS: [(&str, &[&str]); 3] = [
    ("length", &["--http1.1"]),
    ("chunked", &["--http1.1", "-H", "transfer-encoding: chunked"]),
    ("http2", &["--http2-prior-knowledge"]),
];

/// No two pieces of it are alike.
fn body(size: usize) -> String {
    (0..size.div_ceil(8)).map(|n| format!("{n:07}\n")).collect::<String>()[..size].to_owned()
}

#[test]
fn the_next_try_has_the_same_body() -> Result<()> {
    let a = Teller::start("a")?;
    let rules = format!(
        "    - timeouts: {{request: 10s, backendRequest: 400ms}}\n      \
         retry: {{codes: [502, 503, 504], attempts: 2, backoff: 1ms}}\n      backendRefs: [{}]\n",
        to("a")
    );
    let fields = [("WEFT_RETRIES_BUDGET_MIN_PER_SECOND", "1000")];
    let gateway = gateway_of(&[("a", a.addr)], &rules, &fields)?;
    let mut number = 0;
    for size in [0, 1, 10_000, KEPT, KEPT + 1, 3 * KEPT] {
        let body = body(size);
        std::fs::write(gateway.dir().join("body"), &body)?;
        for (framing, args) in FRAMINGS {
            for (how, fails) in [("503", 1), ("503", 2), ("503", 3), ("early", 2), ("close", 1), ("mute", 1)]
            {
                number += 1;
                let path = format!("/fail/{how}/{fails}/{number}");
                let what = format!("{size} octets by {framing}, {fails} times {how}");
                let said = curl(&gateway, &path, &[&["--data-binary", "@body"], args].concat())?;
                let request = format!("POST {path} ");
                let tries: Vec<String> =
                    a.seen().into_iter().filter(|seen| seen.starts_with(&request)).collect();
                let first = said.lines().next().unwrap_or_default();
                let succeeds = fails <= 2 && (size <= KEPT || tries.len() > 1);
                if succeeds {
                    ensure!(first.contains(" 200"), "{what}: {said}");
                    ensure!(tries.len() == fails + 1, "{what}: {} tries", tries.len());
                    ensure!(said.ends_with(&format!("\n\n{body}")), "{what}: the body is another");
                } else {
                    // The last answer is the client's.
                    ensure!(first.contains(" 50"), "{what}: {said}");
                    ensure!(size > KEPT || tries.len() == 3, "{what}: {} tries", tries.len());
                }
                // Every try that was heard to its end has the whole body, and says the same of its length.
                for heard in tries.iter().filter(|_| how != "close") {
                    let whole = heard.ends_with(&format!("\n\n{body}"));
                    ensure!(whole, "{what}: a try with another body");
                }
                // What the reference promises to send again is sent again; a body of which more has passed is not.
                let passed = size > KEPT && ["503", "mute"].contains(&how);
                ensure!(!passed || tries.len() == 1, "{what}: {} tries", tries.len());
            }
        }
    }
    Ok(())
}
