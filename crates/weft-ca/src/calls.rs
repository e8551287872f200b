//! One call: its time, and its span.

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};
use weft_identity::proto::identity_server::{IdentityServer, SERVICE_NAME};
use weft_telemetry::{ServerSpan, ServerSpans};

use crate::callers::Seat;
use crate::service::{CallOf, IdentityService};

/// The calls that there are. What else is asked for has no span: its name would be the caller's to choose.
const CALLS: [&str; 2] = ["Sign", "WatchBundle"];

/// What answers calls.
#[derive(Clone)]
pub(crate) struct Calls {
    pub(crate) service: IdentityServer<IdentityService>,
    pub(crate) spans: ServerSpans,
}

impl Calls {
    /// Answers one call. What it holds of the connection goes with it; the span of a stream ends when it is open.
    pub(crate) async fn answer(
        mut self,
        seat: Seat,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let _call = seat.call();
        let mut span = self.span(&seat, &request);
        request.extensions_mut().insert(seat.clone());
        let limit = seat.callers().shared().limits.call;
        let answered = match timeout(limit, self.service.call(request)).await {
            Ok(Ok(answered)) => answered,
            Err(_) => Status::deadline_exceeded("the call took too long").into_http(),
        };
        if let Some(span) = &mut span {
            tell(span, &answered);
        }
        Ok(answered)
    }

    fn span<B>(&self, seat: &Seat, request: &Request<B>) -> Option<Box<ServerSpan>> {
        let (service, call) = request.uri().path().strip_prefix('/')?.split_once('/')?;
        if service != SERVICE_NAME || !CALLS.contains(&call) {
            return None;
        }
        let mut span = self.spans.begin(request, seat.peer())?;
        span.grpc(None);
        Some(span)
    }
}

/// What the answer says. Its status is in its head where there is no message; where there is one, all went well so far.
fn tell<B>(span: &mut ServerSpan, answered: &Response<B>) {
    let code = Status::from_header_map(answered.headers()).map_or(Code::Ok, |status| status.code());
    span.grpc(u8::try_from(i32::from(code)).ok());
    span.answered(answered.status().as_u16());
    if let Some(CallOf(id)) = answered.extensions().get() {
        span.caller(&id.to_string());
    }
}
