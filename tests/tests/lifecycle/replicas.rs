//! Replicas come, crash, vanish, go, and share the load.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_testbed::{Request, Result, eventually, rest, story};

use super::shop::{ORDERS, SOON, publish, replica, replicas, served, traffic, wait_served, web};

#[test]
fn a_replica_crashes_and_another_comes() {
    story("crash", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let (web, _client) = web(mesh)?;
        let load = traffic(&web)?;
        let fresh = web.load(ORDERS).rate(50).fresh_connections().start()?;
        wait_served(&load, "orders-2", 10)?;
        // Application and sidecar are killed; DNS names the replica for a long time yet.
        replicas[1].pod.crash();
        load.wait_for(200)?;
        let third = replica(mesh, 3, "5m")?;
        publish(mesh, &[&replicas[0], &third])?;
        wait_served(&load, "orders-3", 20)?;
        load.wait_for(100)?;
        load.stop()?.all_ok(300)?;
        fresh.stop()?.all_ok(50)
    });
}

/// More dead addresses than a request has attempts: two pods with two addresses each.
#[test]
fn two_of_three_replicas_crash_at_once() {
    story("crash-two", |mesh| {
        let replicas = replicas(mesh, 3)?;
        let (web, _client) = web(mesh)?;
        let load = traffic(&web)?;
        let fresh = web.load(ORDERS).rate(50).fresh_connections().start()?;
        fresh.wait_for(20)?;
        replicas[1].pod.crash();
        replicas[2].pod.crash();
        load.wait_for(600)?;
        load.stop()?.all_ok(600)?;
        fresh.stop()?.all_ok(50)
    });
}

#[test]
fn only_the_sidecar_of_a_replica_is_killed() {
    story("sidecar-killed", |mesh| {
        let mut replicas = replicas(mesh, 2)?;
        let (web, _client) = web(mesh)?;
        let load = traffic(&web)?;
        wait_served(&load, "orders-2", 10)?;
        replicas[1].sidecar.kill();
        load.wait_for(200)?;
        replicas[1].sidecar.restart()?;
        wait_served(&load, "orders-2", 20)?;
        load.stop()?.all_ok(300)
    });
}

/// Nobody says goodbye: packets to the replica vanish, as when a node loses power.
#[test]
fn a_replica_vanishes_with_its_network() {
    story("vanished", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let web = mesh.pod("web.shop").start()?;
        // What is on its way to a dead node waits until the link is known to be dead: at most these two together.
        let _client = mesh
            .sidecar(&web)?
            .config(|yaml| {
                yaml["timeouts"]["ping"] = "1s".into();
                yaml["timeouts"]["pingTimeout"] = "1s".into();
                yaml["timeouts"]["connect"] = "1s".into();
            })
            .start()?;
        let load = traffic(&web)?;
        wait_served(&load, "orders-2", 10)?;
        replicas[1].pod.delete()?;
        load.wait_for(600)?;
        publish(mesh, &[&replicas[0]])?;
        load.wait_for(200)?;
        load.stop()?.all_ok(800)
    });
}

#[test]
fn replicas_are_restarted_one_after_another() {
    story("rolling", |mesh| {
        let mut replicas = replicas(mesh, 3)?;
        let (web, _client) = web(mesh)?;
        let load = traffic(&web)?;
        let http2 = web.load_of(Request::get(ORDERS).http2()).rate(50).connections(2).start()?;
        let post = web.load_of(Request::post(ORDERS, "an order of tea")).rate(50).start()?;
        for replica in &mut replicas {
            // As in a rolling update, but without a change of DNS: nothing tells the clients but the sidecar itself.
            replica.sidecar.sigterm();
            let status = replica.sidecar.wait_exit(SOON)?;
            assert!(status.success(), "{status}");
            load.wait_for(50)?;
            replica.sidecar.restart()?;
            wait_served(&load, replica.pod.name(), 10)?;
        }
        load.stop()?.all_ok(200)?;
        http2.stop()?.all_ok(50)?;
        post.stop()?.all_ok(50)
    });
}

/// The only pod of a service is replaced, as in a cluster: its application ends while its sidecar lives on, and the name
/// server knows the successor only a moment later. The client's sidecar has the old records for longer still.
#[test]
fn the_only_replica_is_replaced() {
    story("replaced", |mesh| {
        let pod = mesh.pod("orders-1.shop").start()?;
        let app = pod.app(8080)?;
        let sidecar = mesh.sidecar(&pod)?.start()?;
        let first = super::shop::Replica { pod, sidecar };
        publish(mesh, &[&first])?;
        let (web, client) = web(mesh)?;
        let load = traffic(&web)?;
        let http2 = web.load_of(Request::get(ORDERS).http2()).rate(50).connections(2).start()?;
        let second = replica(mesh, 2, "5m")?;
        app.sigterm();
        app.wait_exit(SOON)?;
        // A POST that the application had before it ended may have had its effect, and is not sent again; one that comes
        // now surely has not.
        let post = web.load_of(Request::post(ORDERS, "an order of tea")).rate(50).start()?;
        rest(Duration::from_millis(500));
        publish(mesh, &[&second])?;
        wait_served(&load, "orders-2", 100)?;
        post.wait_for(20)?;
        load.stop()?.all_ok(150)?;
        http2.stop()?.all_ok(20)?;
        post.stop()?.all_ok(40)?;
        let again = client.metrics()?.sum("weft_http_retries_total", &[("reason", "unprocessed")]);
        assert!(again > 0.0, "the application was never away");
        Ok(())
    });
}

#[test]
fn an_endpoint_that_left_dns_gets_no_new_requests() {
    story("removed", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let (web, client) = web(mesh)?;
        let load = traffic(&web)?;
        wait_served(&load, "orders-2", 10)?;
        publish(mesh, &[&replicas[0]])?;
        eventually("the endpoint to be forgotten", SOON, || {
            let known = client.admin("/endpoints")?.text();
            Ok((!known.contains(&replicas[1].pod.ip().to_string())).then_some(()))
        })?;
        // What had been picked before may still be on its way.
        load.wait_for(20)?;
        let before = served(&load, "orders-2");
        load.wait_for(200)?;
        assert_eq!(served(&load, "orders-2"), before);
        load.stop()?.all_ok(250)
    });
}

#[test]
fn a_new_endpoint_gets_its_share_and_not_all() {
    story("new-endpoint", |mesh| {
        let first = replicas(mesh, 1)?.remove(0);
        let (web, _client) = web(mesh)?;
        let load = traffic(&web)?;
        load.wait_for(200)?;
        let second = replica(mesh, 2, "5m")?;
        publish(mesh, &[&first, &second])?;
        wait_served(&load, "orders-2", 1)?;
        let before = served(&load, "orders-1");
        wait_served(&load, "orders-2", 100)?;
        // Of two equals each gets half in the long run, and more while the other has had a slow answer lately. A newcomer
        // that looked idle or fast for ever would take it all.
        let old = served(&load, "orders-1") - before;
        assert!((12..=900).contains(&old), "{old} beside 100");
        load.stop()?.all_ok(500)
    });
}

#[test]
fn three_replicas_share_the_load() {
    story("balance", |mesh| {
        let replicas = replicas(mesh, 3)?;
        let (web, client) = web(mesh)?;
        traffic(&web)?.stop()?.all_ok(50)?;
        let count = || -> Result<BTreeMap<String, f64>> {
            let one = |replica: &super::shop::Replica| {
                let metrics = replica.sidecar.metrics()?;
                let labels = [("peer_identity", "spiffe://weft.local/ns/shop/sa/web")];
                let requests = metrics.sum("http_server_request_duration_seconds_count", &labels);
                Ok((replica.pod.name().to_owned(), requests))
            };
            replicas.iter().map(one).collect()
        };
        let name = "orders.shop.svc.cluster.local:80";
        let sent = || -> Result<f64> {
            let metrics = client.metrics()?;
            Ok(metrics.sum("http_client_request_duration_seconds_count", &[("destination_service", name)]))
        };
        let (before, sent_before) = (count()?, sent()?);
        let load = web.load(ORDERS).rate(200).start()?;
        // One slow answer makes a replica look expensive for some seconds, and on a busy machine they come: so in the
        // long run, and no more than that each has a part of it worth the name.
        eventually("each replica to have a tenth of the load", 3 * SOON, || {
            let so_far = load.so_far();
            let least = so_far.served_by.values().min().copied().unwrap_or_default();
            Ok((so_far.served_by.len() == 3 && so_far.ok >= 600 && least * 10 >= so_far.ok).then_some(()))
        })?;
        let report = load.stop()?;
        report.all_ok(600)?;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let total = report.ok as f64;
        // The servers' sidecars, the client's sidecar and the client tell the same story.
        eventually("all requests to be counted", SOON, || {
            let seen: f64 = count()?.values().sum::<f64>() - before.values().sum::<f64>();
            Ok(((seen - total).abs() < 0.5 && (sent()? - sent_before - total).abs() < 0.5).then_some(()))
        })?;
        for (replica, requests) in count()? {
            let by_client = report.served_by.get(&replica).copied().unwrap_or_default();
            assert_eq!((requests - before[&replica]).to_string(), by_client.to_string(), "{replica}");
        }
        Ok(())
    });
}
