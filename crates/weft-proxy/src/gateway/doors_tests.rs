use std::net::TcpListener;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use weft_core::DrainPhase;

use super::*;
use crate::gateway::testing::{certificate, http, https, listener, program, sockets};

/// Doors of two workers, and what comes to these.
struct Scene {
    program: Arc<ProgramHandle>,
    status: Arc<DoorStatus>,
    doors: Doors,
    workers: [UnboundedReceiver<(Door, Socket)>; 2],
}

impl Scene {
    fn new() -> Self {
        let (program, status) = (ProgramHandle::new(), Arc::<DoorStatus>::default());
        let ((one, first), (other, second)) = (unbounded_channel(), unbounded_channel());
        let (options, grace) = (ListenOptions::default(), Duration::from_secs(30));
        let senders = vec![one, other];
        let doors = Doors::new(Arc::clone(&program), Arc::clone(&status), senders, options, grace);
        Self { program, status, doors, workers: [first, second] }
    }

    /// Brings a program into force: the ports that each worker got a new socket of.
    fn apply(&mut self, sockets: &[Arc<Sockets>]) -> Vec<(Arc<Port>, Socket)> {
        self.program.publish(program(sockets.iter().cloned()));
        self.doors.apply();
        self.came()
    }

    fn came(&mut self) -> Vec<(Arc<Port>, Socket)> {
        let [first, second] = &mut self.workers;
        let of = |worker: &mut UnboundedReceiver<(Door, Socket)>| {
            let mut came = Vec::new();
            while let Ok((Door::Gateway(port), socket)) = worker.try_recv() {
                came.push((port, socket));
            }
            came
        };
        let (first, second) = (of(first), of(second));
        let ports = |came: &[(Arc<Port>, Socket)]| came.iter().map(|(port, _)| port.at).collect::<Vec<_>>();
        assert_eq!(ports(&first), ports(&second), "each worker has a socket of its own");
        first
    }
}

/// A port that nobody has.
fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_running(drain: &Drain) -> bool {
    drain.phase() == DrainPhase::Running
}

#[tokio::test(start_paused = true)]
async fn ports_come_and_go_without_touching_the_others() {
    let mut scene = Scene::new();
    let [a, b, c] = [free(), free(), free()];
    let of = |port| sockets(SocketKind::Http, &[listener("web", port, None, http())]);
    let came = scene.apply(&[of(a), of(b)]);
    let [first, second] = came.as_slice() else { panic!("{} ports", came.len()) };
    assert_eq!((first.0.at.port, second.0.at.port), (a, b));
    assert_eq!(scene.status.unready(), None);
    let changed = of(b);
    let later = scene.apply(&[Arc::clone(&changed), of(c)]);
    assert_eq!(later.iter().map(|(port, _)| port.at.port).collect::<Vec<_>>(), [c]);
    assert!(!is_running(&first.0.drain) && is_running(&second.0.drain));
    assert!(Arc::ptr_eq(&second.0.now().sockets, &changed), "what it does is swapped in place");
    // What is open on the port that is gone has its time, and then ends.
    let mut gone = first.0.drain.clone();
    let began = tokio::time::Instant::now();
    gone.closed().await;
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    assert!(is_running(&second.0.drain));
}

#[tokio::test]
async fn a_listener_that_goes_ends_its_own_connections_and_no_others() {
    let mut scene = Scene::new();
    let port = free();
    let certificates = [certificate(&["a.example"])];
    let (a, b) = (
        listener("a", port, Some("a.example"), https(&certificates)),
        listener("b", port, Some("b.example"), https(&certificates)),
    );
    let came = scene.apply(&[sockets(SocketKind::Tls, &[Arc::clone(&a), Arc::clone(&b)])]);
    let state = came[0].0.now();
    let drains = [&a, &b].map(|one| state.state_of(one).unwrap().drain.clone());
    assert!(scene.apply(&[sockets(SocketKind::Tls, &[a])]).is_empty());
    assert_eq!(drains.each_ref().map(is_running), [true, false]);
    assert!(is_running(&came[0].0.drain));
}

#[tokio::test]
async fn tls_is_made_anew_only_where_it_has_changed() {
    let mut scene = Scene::new();
    let port = free();
    let config = |port: &Port, name: &str| {
        let state = port.now();
        let listener = Arc::clone(state.sockets.listeners.most_specific(name).unwrap());
        Arc::clone(&state.state_of(&listener).unwrap().tls.as_ref().unwrap().config)
    };
    let (one, other) = (certificate(&["a.example"]), certificate(&["b.example"]));
    let of = |second: &Arc<weft_route::Certificate>| {
        let first = listener("a", port, Some("a.example"), https(&[Arc::clone(&one)]));
        let second = listener("b", port, Some("b.example"), https(&[Arc::clone(second)]));
        [sockets(SocketKind::Tls, &[first, second])]
    };
    let came = scene.apply(&of(&other));
    let at = Arc::clone(&came[0].0);
    let before = [config(&at, "a.example"), config(&at, "b.example")];
    assert!(scene.apply(&of(&certificate(&["b.example"]))).is_empty(), "nothing is bound anew");
    let after = [config(&at, "a.example"), config(&at, "b.example")];
    assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]));
    assert!(is_running(&at.drain));
}

#[tokio::test]
async fn clients_that_begin_with_something_else_come_to_sockets_of_their_own() {
    let mut scene = Scene::new();
    let port = free();
    let before = scene.apply(&[sockets(SocketKind::Http, &[listener("web", port, None, http())])]);
    let tls = listener("web", port, None, https(&[certificate(&["a.example"])]));
    let after = scene.apply(&[sockets(SocketKind::Tls, &[tls])]);
    assert_eq!(after[0].0.kind_now(), SocketKind::Tls);
    assert_eq!(before[0].0.kind_now(), SocketKind::Http, "who began in plaintext is not taken for TLS");
    assert!(!is_running(&before[0].0.drain) && is_running(&after[0].0.drain));
}

impl Port {
    fn kind_now(&self) -> SocketKind {
        self.now().kind()
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_told_and_had_as_soon_as_it_is_free() {
    let mut scene = Scene::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, b) = (taken.local_addr().unwrap().port(), free());
    let of = |port| sockets(SocketKind::Http, &[listener("web", port, None, http())]);
    assert_eq!(scene.status.unready().as_deref(), Some("no gateways and routes are in force yet"));
    let came = scene.apply(&[of(a), of(b)]);
    assert_eq!(came.iter().map(|(port, _)| port.at.port).collect::<Vec<_>>(), [b], "the rest goes on");
    let told = scene.status.unready().unwrap();
    assert!(told.contains(&format!("127.0.0.1:{a} for edge/public/web")), "{told}");
    assert!(told.contains("another process has it"), "{told}");
    assert_eq!(scene.status.ports().iter().filter(|(_, bound)| *bound).count(), 1);
    drop(taken);
    let Scene { program: _program, status, doors, workers: [mut first, _second] } = scene;
    let (trigger, drain) = drain();
    let running = tokio::spawn(doors.run(drain));
    let (door, _socket) = first.recv().await.unwrap();
    assert!(matches!(door, Door::Gateway(port) if port.at.port == a));
    while status.unready().is_some() {
        tokio::task::yield_now().await;
    }
    drop(trigger);
    running.await.unwrap();
}

#[tokio::test]
async fn a_drain_of_the_process_begins_at_every_port_and_listener() {
    let mut scene = Scene::new();
    let only = listener("a", free(), None, https(&[certificate(&["a.example"])]));
    let came = scene.apply(&[sockets(SocketKind::Tls, &[Arc::clone(&only)])]);
    let port = Arc::clone(&came[0].0);
    let mut of_listener = port.now().state_of(&only).unwrap().drain.clone();
    let (trigger, drain) = drain();
    let running = tokio::spawn(scene.doors.run(drain));
    trigger.start(Duration::from_secs(1));
    port.drain.clone().draining().await;
    of_listener.draining().await;
    assert_ne!(port.drain.phase(), DrainPhase::Closed, "what is open has its time");
    trigger.close();
    running.await.unwrap();
    of_listener.closed().await;
}
