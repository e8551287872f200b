//! A gateway that is told to go, under load of clients that keep their connections and of those that make one for each request:
//! nobody's request is lost, whether it goes alone or another takes its place.

use anyhow::{Result, ensure};
use weft_testbed::{Gateway, Teller};

use super::crowd::Crowd;
use super::doors::{PATIENCE, backend, gateway, route};

fn served() -> Result<Gateway> {
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    gateway(&resources, &[("WEFT_TELEMETRY_ACCESS_LOG_MODE", "errors")])
}

fn crowd(gateway: &Gateway) -> Result<Crowd> {
    Crowd::start(gateway.at(8080), gateway.at(8443), &gateway.dir().join("ca.pem"))
}

#[test]
fn nobodys_request_is_lost_when_it_goes() -> Result<()> {
    // The moment of the end is a short one: several of them.
    for _ in 0..3 {
        let gateway = served()?;
        let crowd = crowd(&gateway)?;
        crowd.wait_for(300)?;
        gateway.process().sigterm();
        let answered = crowd.ended()?;
        ensure!(answered >= 300, "{answered}");
        let status = gateway.process().wait_exit(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", gateway.process().log());
        ensure!(!gateway.process().log().contains("did not end by themselves"));
    }
    Ok(())
}

#[test]
fn another_takes_its_place_and_nobody_notices() -> Result<()> {
    let first = served()?;
    let crowd = crowd(&first)?;
    crowd.wait_for(200)?;
    let second = first.successor()?;
    crowd.wait_for(200)?;
    first.process().sigterm();
    let status = first.process().wait_exit(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", first.process().log());
    crowd.wait_for(300)?;
    ensure!(second.is_running(), "{}", second.log());
    crowd.stop();
    let answered = crowd.ended()?;
    ensure!(answered >= 700, "{answered}");
    second.sigterm();
    ensure!(second.wait_exit(PATIENCE)?.success());
    Ok(())
}
