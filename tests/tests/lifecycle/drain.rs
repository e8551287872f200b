//! SIGTERM: what is in flight is answered, nothing new is taken, the pod's own calls go on, then the sidecar ends.

use std::thread;

use anyhow::Context;
use weft_testbed::{Pod, Request, Response, Result, Service, eventually, story};

use super::shop::{ORDERS, Replica, SOON, publish, replica, replicas, served, traffic, wait_draining, web};
use super::wire::Wire;

/// The name of one replica, and so of one endpoint.
const SECOND: &str = "orders-2.orders-endpoints.shop";

/// GET in the background.
fn get(pod: &Pod, url: String) -> thread::JoinHandle<Result<Response>> {
    let pod = pod.clone();
    thread::spawn(move || pod.get(&url))
}

fn wait_in_flight(replica: &Replica, count: f64) -> Result<()> {
    eventually("the request to be in flight", SOON, || {
        Ok((replica.sidecar.metrics()?.sum("http_server_active_requests", &[]) >= count).then_some(()))
    })
}

#[test]
fn what_is_in_flight_is_answered_and_nothing_new_is_taken() {
    story("drain", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let (web, _client) = web(mesh)?;
        // Enough that each link has one, so that a drain does not close any link at once.
        let slow: Vec<_> = (0..12).map(|_| get(&web, format!("{ORDERS}delay/3000"))).collect();
        wait_in_flight(&replicas[1], 4.0)?;
        // Requests with a body cannot be sent twice: they must not be sent to where they are not taken.
        let load = web.load_of(Request::post(ORDERS, "an order of tea")).rate(200).start()?;
        load.wait_for(50)?;
        replicas[1].sidecar.sigterm();
        wait_draining(&replicas[1].sidecar)?;
        load.wait_for(20)?;
        let before = served(&load, "orders-2");
        load.wait_for(100)?;
        assert_eq!(served(&load, "orders-2"), before, "requests taken while draining");
        assert!(replicas[1].sidecar.process().is_running(), "ended with a request in flight");
        let mut by_second = 0;
        for slow in slow {
            let answer = slow.join().ok().context("the request's thread")??;
            assert_eq!(answer.status, 200, "{}", answer.text());
            by_second += u32::from(answer.header("x-served-by") == "orders-2");
        }
        assert!(by_second >= 4, "{by_second}");
        let status = replicas[1].sidecar.wait_exit(SOON)?;
        assert!(status.success(), "{status}: {}", replicas[1].sidecar.log());
        load.wait_for(100)?;
        load.stop()?.all_ok(250)
    });
}

#[test]
fn the_application_of_a_draining_pod_still_calls_out() {
    story("drain-outbound", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let stock = mesh.pod("stock.shop").start()?;
        stock.app(8080)?;
        mesh.dns().set(Service::virtual_ip("stock.shop").port(80, 8080).on(&[&stock]))?;
        mesh.sidecar(&stock)?.start()?;
        let (web, _client) = web(mesh)?;
        let load = traffic(&web)?;
        let own = replicas[1].pod.load("http://stock.shop/").rate(100).connections(4).start()?;
        own.wait_for(20)?;
        replicas[1].sidecar.sigterm();
        wait_draining(&replicas[1].sidecar)?;
        own.wait_for(150)?;
        // A connection that it opens only now is served as well.
        let late = replicas[1].pod.get("http://stock.shop/late")?;
        assert_eq!(late.status, 200, "{}", late.text());
        assert!(replicas[1].sidecar.process().is_running());
        own.stop()?.all_ok(170)?;
        // Its connections are closed: there is nothing left to wait for.
        let status = replicas[1].sidecar.wait_exit(SOON)?;
        assert!(status.success(), "{status}");
        load.stop()?.all_ok(100)
    });
}

#[test]
fn streams_may_end_by_themselves() {
    story("drain-streams", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let (web, _client) = web(mesh)?;
        let mut socket = Wire::websocket(&web, SECOND, 8080)?;
        let mut bytes = Wire::open(&web, SECOND, 9000)?;
        bytes.echo("before")?;
        let load = traffic(&web)?;
        replicas[1].sidecar.sigterm();
        wait_draining(&replicas[1].sidecar)?;
        for _ in 0..20 {
            socket.echo("through the drain")?;
            bytes.echo("through the drain")?;
        }
        drop(socket);
        bytes.echo("one is left")?;
        assert!(replicas[1].sidecar.process().is_running());
        drop(bytes);
        let status = replicas[1].sidecar.wait_exit(SOON)?;
        assert!(status.success(), "{status}");
        assert!(!replicas[1].sidecar.log().contains("did not end by themselves"));
        load.wait_for(50)?;
        load.stop()?.all_ok(100)
    });
}

/// The caller's side: its application's connection to it has become the WebSocket's.
#[test]
fn a_websocket_keeps_its_callers_sidecar() {
    story("drain-caller", |mesh| {
        let _replicas = replicas(mesh, 2)?;
        let (web, client) = web(mesh)?;
        let mut socket = Wire::websocket(&web, SECOND, 8080)?;
        client.sigterm();
        wait_draining(&client)?;
        for _ in 0..20 {
            socket.echo("through the drain")?;
        }
        assert!(client.process().is_running());
        drop(socket);
        let status = client.wait_exit(SOON)?;
        assert!(status.success(), "{status}");
        assert!(!client.log().contains("did not end by themselves"));
        Ok(())
    });
}

#[test]
fn the_deadline_ends_what_does_not_end_by_itself() {
    story("drain-deadline", |mesh| {
        let (one, two) = (replica(mesh, 1, "5m")?, replica(mesh, 2, "2s")?);
        publish(mesh, &[&one, &two])?;
        let (web, _client) = web(mesh)?;
        let mut socket = Wire::websocket(&web, SECOND, 8080)?;
        let mut bytes = Wire::open(&web, SECOND, 9000)?;
        bytes.echo("before")?;
        let load = traffic(&web)?;
        two.sidecar.sigterm();
        wait_draining(&two.sidecar)?;
        socket.echo("not yet")?;
        bytes.echo("not yet")?;
        socket.wait_end()?;
        bytes.wait_end()?;
        let status = two.sidecar.wait_exit(SOON)?;
        assert!(status.success(), "{status}");
        assert!(two.sidecar.log().contains("did not end by themselves"), "{}", two.sidecar.log());
        load.wait_for(50)?;
        load.stop()?.all_ok(100)
    });
}

/// `POST /drain` is the same as SIGTERM, for a hook that cannot send signals.
#[test]
fn a_drain_can_be_asked_for() {
    story("drain-admin", |mesh| {
        let replicas = replicas(mesh, 2)?;
        let (web, _client) = web(mesh)?;
        let load = web.load(ORDERS).rate(200).start()?;
        load.wait_for(50)?;
        let ask = Request::post("http://127.0.0.1:15000/drain", "");
        assert_eq!(replicas[1].pod.send(ask)?.status, 202);
        let status = replicas[1].sidecar.wait_exit(SOON)?;
        assert!(status.success(), "{status}");
        load.wait_for(100)?;
        load.stop()?.all_ok(150)
    });
}
