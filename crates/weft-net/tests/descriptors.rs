//! Running out of descriptors. Alone in its file: the limit counts for the whole process.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use weft_core::EndpointAddr;
use weft_net::{AcceptEvent, Acceptor, ConnectError, ConnectOptions, ListenOptions, Listener, connect};

/// Takes every descriptor that is left.
fn exhaust() -> Vec<std::fs::File> {
    let mut files = Vec::new();
    loop {
        match std::fs::File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                return files;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn accept_pauses_and_recovers_and_connect_says_why() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum }).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let pauses = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&pauses);
    let mut acceptor = Acceptor::new(Listener::bind(any, &ListenOptions::default()).unwrap())
        .unwrap()
        .on_event(move |event| match event {
            AcceptEvent::Paused { error, pause } => seen.borrow_mut().push((error.raw_os_error(), pause)),
            AcceptEvent::Skipped(error) => panic!("skipped: {error}"),
        });
    let endpoint = EndpointAddr::new(acceptor.local_addr());
    // Waits in the backlog: it has a descriptor here, and gets none over there.
    let _client = TcpStream::connect(endpoint.get()).await.unwrap();

    let files = exhaust();
    let error = connect(endpoint, &ConnectOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::LocalResource { .. }), "{error:?}");
    assert!(!error.blames_endpoint());
    // Dropped and made anew as in a select loop: pauses must not start from the beginning each time.
    for _ in 0..20 {
        let waited = tokio::time::timeout(Duration::from_millis(10), acceptor.accept()).await;
        assert!(waited.is_err(), "accepted without a descriptor");
    }
    let mfile = io::Error::from(rustix::io::Errno::MFILE).raw_os_error();
    {
        let pauses = pauses.borrow();
        assert!((2..=6).contains(&pauses.len()), "200 ms of doubling pauses from 5 ms: {pauses:?}");
        assert!(pauses.iter().all(|(error, _)| *error == mfile), "{pauses:?}");
        assert!(pauses.windows(2).all(|two| two[1].1 == two[0].1 * 2), "{pauses:?}");
    }
    drop(files);
    let accepted = tokio::time::timeout(Duration::from_secs(2), acceptor.accept()).await.unwrap();
    assert_eq!(accepted.local, endpoint.get());
}
