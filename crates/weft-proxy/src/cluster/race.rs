//! A second endpoint beside one that says nothing.
//!
//! A pod whose node is gone refuses nothing: a connection to it waits out `timeouts.connect`, while others would have
//! answered long since. So after a while another endpoint is dialed as well, and whichever is there first is taken, as
//! RFC 8305 section 5 has it for the addresses of one host.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;
use weft_balance::Timestamp;
use weft_core::EndpointAddr;

use super::{Cluster, EndpointLinks, Picked};
use crate::dial::DialError;

/// How long an endpoint is waited for before another one is dialed: the 250 ms of RFC 8305 and the time of a handshake.
const NEXT_DIAL: Duration = Duration::from_millis(300);
/// Endpoints that are dialed at a time: where a second one is silent too, more would be load without hope.
const AT_A_TIME: usize = 2;

impl Cluster {
    /// Connects to `first`, and where that takes long to others too. What could not be reached besides the one that is
    /// returned is in `tried`.
    pub(super) async fn connect_one_of<T>(
        &self,
        first: Picked,
        tried: &mut Vec<EndpointAddr>,
        connect: &impl AsyncFn(&Picked) -> Result<T, DialError>,
    ) -> (Picked, Result<T, DialError>) {
        let dial = async |picked: Picked| {
            let reached = connect(&picked).await;
            (picked, reached)
        };
        let links = Rc::clone(&first.links);
        let mut begun = Box::pin(dial(first));
        // An open link has room as a rule, and then there is nothing to race.
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(begun.as_mut().poll(cx))).await {
            return done;
        }
        let mut under_way = vec![links];
        let mut dials = FuturesUnordered::new();
        dials.push(begun);
        loop {
            if let Ok(Some((picked, reached))) = timeout(NEXT_DIAL, dials.next()).await {
                under_way.retain(|links| !Rc::ptr_eq(links, &picked.links));
                match reached {
                    // Another one is still to be waited for.
                    Err(error) if !dials.is_empty() => {
                        self.failed(&picked.links.endpoint, &error);
                        tried.push(picked.links.endpoint.addr());
                    }
                    reached => {
                        if reached.is_ok() {
                            under_way.iter().for_each(|links| slow(links));
                        }
                        return (picked, reached);
                    }
                }
            }
            if under_way.len() < AT_A_TIME
                && let Some(next) = self.pick_besides(tried, &under_way)
            {
                under_way.push(Rc::clone(&next.links));
                dials.push(Box::pin(dial(next)));
            }
        }
    }

    /// Picks an endpoint that was not tried and is not being dialed.
    fn pick_besides(&self, tried: &[EndpointAddr], under_way: &[Rc<EndpointLinks>]) -> Option<Picked> {
        let dialed = under_way.iter().map(|links| links.endpoint.addr());
        let skip: Vec<EndpointAddr> = tried.iter().copied().chain(dialed).collect();
        let next = self.pick_now(Timestamp::now(), &skip)?;
        let endpoint = next.links.endpoint.addr();
        tracing::info!(silent = ?under_way.first().map(|links| links.endpoint.addr()), %endpoint, service = %self.label,
            "slow to connect: another endpoint is dialed too");
        Some(next)
    }
}

/// Another one was there first: the next requests need not find it out again. One that has only no place for a stream is well.
fn slow(links: &EndpointLinks) {
    if !links.is_linked() {
        links.endpoint.failed_connect(Timestamp::now());
    }
}
