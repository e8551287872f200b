//! Certificates end and are renewed while requests and streams go on.

use serde_json::Value;
use weft_testbed::{Mesh, Result, Sidecar, eventually, story};

use super::shop::{SOON, replicas, traffic, web};
use super::wire::Wire;

/// Short enough that several pass in a story; a renewal comes at half of it.
const LEAF: &str = "6s";

fn leaf_end(sidecar: &Sidecar) -> Result<u64> {
    let certs: Value = sidecar.admin("/certs")?.json()?;
    Ok(certs["leaf"]["notAfter"].as_u64().unwrap_or_default())
}

fn generation(sidecar: &Sidecar) -> Result<u64> {
    let certs: Value = sidecar.admin("/certs")?.json()?;
    Ok(certs["generation"].as_u64().unwrap_or_default())
}

fn short_leaves(mesh: &Mesh) -> Result<()> {
    mesh.ca_with(|yaml| yaml["leafLifetime"] = LEAF.into()).map(drop)
}

#[test]
fn leaves_are_renewed_under_load() {
    story("renewal", |mesh| {
        short_leaves(mesh)?;
        let replicas = replicas(mesh, 1)?;
        let (web, client) = web(mesh)?;
        let load = traffic(&web)?;
        let (generation_before, links_before) =
            (generation(&client)?, client.metrics()?.sum("weft_links_opened_total", &[]));
        for sidecar in [&client, &replicas[0].sidecar] {
            let first_end = leaf_end(sidecar)?;
            eventually("three renewals", SOON, || {
                let ok = sidecar.metrics()?.sum("weft_certificate_renewals_total", &[("outcome", "ok")]);
                Ok((ok >= 4.0 && leaf_end(sidecar)? > first_end + 6).then_some(()))
            })?;
        }
        // Each generation brings links of its own, and the old ones are closed once their requests have ended.
        let generations = generation(&client)? - generation_before;
        assert!(generations >= 2, "{generations}");
        load.wait_for(20)?;
        let links = client.metrics()?.sum("weft_links_opened_total", &[]) - links_before;
        assert!(links >= 2.0, "{links} links for {generations} generations");
        // One link for each of the pod's two addresses.
        eventually("old links to be closed", SOON, || {
            let open = client.metrics()?.sum("weft_links_open", &[]);
            Ok((open <= 2.0).then_some(()))
        })?;
        load.stop()?.all_ok(500)
    });
}

#[test]
fn a_stream_outlives_the_leaf_it_began_with() {
    story("renewal-stream", |mesh| {
        short_leaves(mesh)?;
        let replicas = replicas(mesh, 1)?;
        let (web, client) = web(mesh)?;
        let mut socket = Wire::websocket(&web, "orders.shop", 80)?;
        let mut bytes = Wire::open(&web, "orders.shop", 9000)?;
        let first: Vec<u64> =
            [&client, &replicas[0].sidecar].map(leaf_end).into_iter().collect::<Result<_>>()?;
        // Until the leaf of then has ended by the clock, on both sides.
        eventually("the first leaves to end", SOON, || {
            socket.echo("still here")?;
            bytes.echo("here as well")?;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
            Ok(first.iter().all(|end| now > end + 1).then_some(()))
        })?;
        socket.echo("and after it")?;
        bytes.echo("and after it")
    });
}
