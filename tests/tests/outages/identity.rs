//! A sidecar that starts while the CA is away: it waits, says why, and lets nothing through meanwhile.

use weft_testbed::{Request, eventually, story};

use super::shop::{SOON, Shop};

#[test]
fn a_sidecar_without_an_identity_waits_and_passes_nothing() {
    story("ca-late", |mesh| {
        let shop = Shop::open(mesh)?;
        let late = mesh.pod("late.shop").start()?;
        late.app(8080)?;
        mesh.dns().set(weft_testbed::Service::virtual_ip("late.shop").port(80, 8080).on(&[&late]))?;
        let sidecar = mesh.sidecar(&late)?;
        mesh.ca()?.stop();
        let wire = late.capture("tcp and not port 15012")?;
        let sidecar = sidecar.launch()?;
        let health = format!("http://{}:15021", late.ip());
        eventually("the sidecar to say why it is not ready", SOON, || {
            let Ok(answer) = shop.orders.get(&format!("{health}/ready")) else { return Ok(None) };
            assert_eq!(answer.status, 503, "{}", answer.text());
            Ok(answer.text().contains("certificate").then_some(()))
        })?;
        assert_eq!(shop.orders.get(&format!("{health}/live"))?.status, 200);
        eventually("the log to say why", SOON, || {
            Ok(sidecar.log().contains("no identity yet").then_some(()))
        })?;

        // Out: refused here, with the reason. In: refused there.
        let out = late.send(Request::post("http://orders.shop/", "a secret order"))?;
        assert_eq!((out.status.as_u16(), out.header("weft-error")), (503, "no-identity"), "{}", out.text());
        let inward = shop.web.get("http://late.shop/")?;
        assert!(inward.status.is_server_error(), "{}", inward.text());
        // Strict without a mesh client: nothing is answered at all.
        let outsider = mesh.pod("outsider.shop").start()?;
        let direct = outsider.get(&format!("http://{}:8080/", late.ip()));
        assert!(direct.is_err(), "{direct:?}");

        mesh.ca()?.restart()?;
        sidecar.wait_ready()?;
        let out = late.send(Request::post("http://orders.shop/", "a secret order"))?;
        assert_eq!(out.status, 200, "{}", out.text());
        eventually("requests to come in", SOON, || {
            Ok((shop.web.get("http://late.shop/")?.status == 200).then_some(()))
        })?;
        let packets = wire.stop()?;
        assert!(packets.tcp_bytes() > 0, "nothing was seen on the wire");
        assert!(!packets.contains(b"a secret order"), "plaintext between pods");
        assert!(!packets.contains(b"x-served-by"), "the application answered in plaintext");
        Ok(())
    });
}
