use std::sync::Arc;

use weft_telemetry::Registry;

use super::super::facts::Key;
use super::super::notices::About;
use super::*;

fn notice(namespace: &str, number: usize) -> Notice {
    Notice {
        about: About::Service,
        key: Key::new(namespace, format!("s{number}")),
        uid: "u".to_owned(),
        warning: true,
        reason: "NotUnderstood",
        note: "x".to_owned(),
    }
}

/// All that can be sent until nothing waits, in virtual time: namespaces in order, and how long it took.
async fn sent(outbox: &Outbox) -> (Vec<String>, Duration) {
    let begun = Instant::now();
    let mut sent = Vec::new();
    loop {
        let turn = outbox.inner().turn(Instant::now());
        match turn {
            Turn::Send(notice) => sent.push(notice.key.namespace),
            Turn::Wait(when) => sleep_until(when).await,
            Turn::Empty => return (sent, begun.elapsed()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_namespace_has_its_room_and_its_number_a_minute() {
    let outbox = Outbox::new(Instant::now());
    let greedy: Vec<Notice> = (0..5_000).map(|number| notice("greedy", number)).collect();
    let all: Vec<Notice> = greedy.into_iter().chain([notice("shop", 1)]).collect();
    assert_eq!(outbox.offer(all.clone()), 5_000 - WAITING.0);
    // Counted once.
    assert_eq!(outbox.offer(all), 0);
    let first = outbox.inner().turn(Instant::now());
    let second = outbox.inner().turn(Instant::now());
    let namespaces = [first, second].map(|turn| match turn {
        Turn::Send(notice) => notice.key.namespace,
        other => panic!("{other:?}"),
    });
    assert_eq!(namespaces, ["greedy", "shop"]);
    let (rest, took) = sent(&outbox).await;
    assert_eq!(rest.len(), WAITING.0 - 1);
    // A minute's worth at once, and the rest at its pace.
    assert!(took >= Duration::from_secs(30), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn all_together_have_a_number_a_minute() {
    let outbox = Outbox::new(Instant::now());
    let mut count = 0;
    let begun = Instant::now();
    for round in 0..10 {
        let all = (0..200).map(|namespace| notice(&format!("n{namespace}"), round)).collect();
        outbox.offer(all);
        let (sent, _) = sent(&outbox).await;
        count += sent.len();
    }
    let most = f64::from(A_MINUTE.1) * (1.0 + begun.elapsed().as_secs_f64() / 60.0) + 1.0;
    assert!(count == 2_000 && f64::from(count as u32) <= most, "{count} {most}");
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_is_told_once_and_what_comes_back_again() {
    let outbox = Outbox::new(Instant::now());
    assert_eq!(outbox.offer(vec![notice("shop", 1)]), 0);
    assert_eq!(sent(&outbox).await.0.len(), 1);
    outbox.offer(vec![notice("shop", 1)]);
    assert!(sent(&outbox).await.0.is_empty());
    outbox.offer(vec![]);
    outbox.offer(vec![notice("shop", 1)]);
    assert_eq!(sent(&outbox).await.0.len(), 1);
    assert!(outbox.once(notice("shop", 2)));
    assert_eq!(sent(&outbox).await.0.len(), 1);
    outbox.clear();
    outbox.offer(vec![notice("shop", 1)]);
    assert_eq!(sent(&outbox).await.0.len(), 1);
}

/// An API server that never answers holds up nobody but the Events.
#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_takes_is_given_up_and_counted() {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| {
        std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
    });
    let teller = Teller::new(kube::Client::new(service, "default"), "one");
    let (outbox, metrics) = (Outbox::new(Instant::now()), Arc::new(Metrics::default()));
    let begun = Instant::now();
    outbox.offer(vec![notice("shop", 1)]);
    assert!(begun.elapsed().is_zero());
    let _ = timeout(WRITE * 2, outbox.run(&teller, &metrics)).await;
    let (registry, mut text) = (Registry::default(), String::new());
    metrics.register(&registry);
    registry.encode(&mut text);
    assert!(text.contains("weft_controller_errors_total{kind=\"event\"} 1\n"), "{text}");
    // It is offered again while its reason lasts.
    outbox.offer(vec![notice("shop", 1)]);
    assert!(matches!(outbox.inner().turn(Instant::now()), Turn::Send(_)));
}
