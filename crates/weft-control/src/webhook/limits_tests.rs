use std::convert::Infallible;
use std::sync::Mutex;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::controller::fake_tests::{Asked, Rules};

fn range(namespace: &str, name: &str, cpu: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"limits": [{"type": "Container", "max": {"cpu": cpu}}]}})
}

fn object(namespace: &str, name: &str, cpu: &str) -> Object {
    serde_json::from_value(range(namespace, name, cpu)).unwrap()
}

fn limits(ranges: &[Value]) -> Limits {
    ranges.iter().map(|range| LimitRange::of(&serde_json::from_value(range.clone()).unwrap())).collect()
}

async fn taken(events: Vec<Result<Event<Object>, Error>>, ranges: &LimitRanges) {
    take(futures_util::stream::iter(events), ranges).await;
}

#[tokio::test]
async fn what_is_known_follows_the_cluster() {
    let ranges = LimitRanges::default();
    assert_eq!(ranges.of(Some("shop")), Limits::default());
    let list = [object("shop", "b", "2"), object("shop", "a", "1"), object("data", "a", "3")];
    let mut events = vec![Ok(Event::Init)];
    events.extend(list.map(|object| Ok(Event::InitApply(object))));
    taken(events, &ranges).await;
    assert_eq!(ranges.of(Some("shop")), Limits::default(), "the list is not complete");
    let whole = vec![
        Ok(Event::Init),
        Ok(Event::InitApply(object("shop", "b", "2"))),
        Ok(Event::InitApply(object("shop", "a", "1"))),
        Ok(Event::InitDone),
    ];
    taken(whole, &ranges).await;
    assert_eq!(ranges.of(Some("shop")), limits(&[range("shop", "a", "1"), range("shop", "b", "2")]));
    assert_eq!(ranges.of(Some("data")), Limits::default());
    assert_eq!(ranges.of(None), Limits::default());
    let changes = vec![
        Ok(Event::Apply(object("shop", "a", "5"))),
        Ok(Event::Delete(object("shop", "b", "2"))),
        Err(Error::NoResourceVersion),
    ];
    taken(changes, &ranges).await;
    assert_eq!(ranges.of(Some("shop")), limits(&[range("shop", "a", "5")]));
    // One that bounds nothing any more is none.
    let nothing = json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}});
    taken(vec![Ok(Event::Apply(serde_json::from_value(nothing).unwrap()))], &ranges).await;
    assert!(ranges.0.read().unwrap().ranges.is_empty() && ranges.0.read().unwrap().count == 0);
}

#[tokio::test]
async fn whoever_makes_many_does_not_fill_the_memory() {
    let ranges = LimitRanges::default();
    let greedy = (0..1_000).map(|number| Ok(Event::Apply(object("greedy", &format!("{number:04}"), "1"))));
    taken(greedy.collect(), &ranges).await;
    assert_eq!(ranges.0.read().unwrap().count, OF_NAMESPACE);
    let names: Vec<String> = ranges.0.read().unwrap().ranges["greedy"].keys().cloned().collect();
    assert_eq!((names.first().map(String::as_str), names.len()), (Some("0000"), OF_NAMESPACE));
    let many = (0..OF_ALL + 100).map(|number| Ok(Event::Apply(object(&format!("n{number}"), "a", "1"))));
    taken(many.collect(), &ranges).await;
    assert_eq!(ranges.0.read().unwrap().count, OF_ALL);
    let gone = (0..OF_ALL + 100).map(|number| Ok(Event::Delete(object(&format!("n{number}"), "a", "1"))));
    taken(gone.collect(), &ranges).await;
    assert_eq!(ranges.0.read().unwrap().count, OF_NAMESPACE);
}

/// With the rights as they are installed, and with none: then there are no LimitRanges, and nothing else follows.
#[tokio::test(start_paused = true)]
async fn the_watch_asks_for_what_the_role_allows_and_does_without() {
    for allowed in [true, false] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let service = service_fn(move |request: Request<Body>| {
            let asked = Asked::of(&request).0;
            let list = json!({"kind": "LimitRangeList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
                              "items": [range("shop", "a", "1")]});
            let watches = request.uri().query().is_some_and(|query| query.contains("watch="));
            noted.lock().unwrap().push(asked);
            async move {
                let (code, body) = match allowed {
                    true if watches => return std::future::pending().await,
                    true => (200, list),
                    false => (
                        403,
                        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                                          "message": "no", "reason": "Forbidden", "code": 403}),
                    ),
                };
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        let (ranges, follow) = watched(Client::new(service, "default"));
        let _ = tokio::time::timeout(std::time::Duration::from_secs(60), follow.run()).await;
        let expected = if allowed { limits(&[range("shop", "a", "1")]) } else { Limits::default() };
        assert_eq!(ranges.of(Some("shop")), expected);
        let rules = Rules::rendered();
        let asked = asked.lock().unwrap();
        assert!(asked.len() > 1, "{asked:?}");
        for asked in &*asked {
            assert!(rules.allow(asked).is_some(), "{asked:?}");
        }
    }
}
