//! The demo's services: `web` calls `orders` by HTTP, `orders` calls `inventory` by gRPC, `inventory` counts in redis.
//!
//! They are plain applications: no TLS, no retries, no balancing, no metrics. The one thing they do for the mesh is what
//! every traced application does: they hand the trace context of a request on to the calls they make for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::ending::{Ending, gracefully};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What an application copies from a request to its own calls (W3C Trace Context; B3).
const CONTEXT: [&str; 10] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
    "baggage",
];

const ORDERS: (&str, u16) = ("orders", 80);
const INVENTORY: (&str, u16) = ("inventory", 50051);
const REDIS: (&str, u16) = ("redis", 6379);
/// The namespace of all of them, where it is not `shop`.
const NAMESPACE: &str = "SHOP_NAMESPACE";
const RESERVE: &str = "/shop.Inventory/Reserve";
/// The gRPC health checking protocol.
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The service that is healthy, besides the server as a whole, which has no name.
const HEALTHY: &str = "shop.Inventory";

/// Where the applications are that one calls, for one that cannot find them by their names.
pub(super) type Calls = HashMap<String, SocketAddr>;

/// One of the three.
#[derive(Debug)]
pub(super) struct Shop {
    name: Arc<str>,
    calls: Calls,
    role: Role,
    connections: Mutex<Connections>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Web,
    Orders,
    Inventory,
}

#[derive(Debug, Default)]
struct Connections {
    http1: Vec<hyper::client::conn::http1::SendRequest<Full<Bytes>>>,
    grpc: Option<hyper::client::conn::http2::SendRequest<Full<Bytes>>>,
    redis: Option<BufReader<TcpStream>>,
}

impl Shop {
    pub(super) fn new(kind: &str, name: Arc<str>, calls: Calls) -> Option<Self> {
        let role = match kind {
            "web" => Role::Web,
            "orders" => Role::Orders,
            "inventory" => Role::Inventory,
            _ => return None,
        };
        Some(Self { name, calls, role, connections: Mutex::default() })
    }

    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, ending: Ending) -> Result<()> {
        let (role, asked) = (self.role, ending.clone());
        let service = service_fn(move |request| {
            let (shop, asked) = (self.clone(), asked.clone());
            async move {
                let mut response = shop.answer(request).await;
                if role != Role::Inventory && asked.asked() {
                    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(stream);
        if role == Role::Inventory {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection(io, service);
            let served = gracefully(connection, ending.now(), |connection| connection.graceful_shutdown());
            return served.await.context("HTTP/2");
        }
        let mut server = hyper::server::conn::http1::Builder::new();
        let connection = server.timer(TokioTimer::new()).serve_connection(io, service);
        let served = gracefully(connection, ending.late(), |connection| connection.graceful_shutdown());
        served.await.context("HTTP/1")
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let context = context(request.headers());
        match self.role {
            Role::Inventory if request.uri().path() == HEALTH => grpc_answer(health(request).await),
            Role::Inventory => grpc_answer(self.reserve(request).await),
            Role::Web => self.http_answer(self.call_orders(&context).await),
            Role::Orders => self.http_answer(self.call_inventory(&context).await),
        }
    }

    fn http_answer(&self, result: Result<String>) -> Response<Body> {
        let (status, text) = match result {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{}: {error:#}\n", self.name)),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
        *response.status_mut() = status;
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            response.headers_mut().insert("x-served-by", name);
        }
        response
    }

    /// One connection for each request that is under way, kept for the next.
    async fn call_orders(&self, context: &HeaderMap) -> Result<String> {
        let request = || {
            let mut request =
                Request::get("/orders/42").header("host", host(ORDERS.0)).body(Full::default())?;
            request.headers_mut().extend(context.clone());
            anyhow::Ok(request)
        };
        let mut kept = self.connections.lock().await.http1.pop();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let stream = self.connect(ORDERS).await?;
                let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(driver);
                sender
            }
        };
        let response = sender.send_request(request()?).await.context("calling orders")?;
        let (head, body) = response.into_parts();
        let text = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        self.connections.lock().await.http1.push(sender);
        if head.status != StatusCode::OK {
            bail!("orders answered {}: {}", head.status, text.trim());
        }
        Ok(format!("checkout by {} with {text}", self.name))
    }

    async fn call_inventory(&self, context: &HeaderMap) -> Result<String> {
        let mut request = Request::post(format!("http://{}:{}{RESERVE}", host(INVENTORY.0), INVENTORY.1))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message(&Reserve { sku: "tea".into() })))?;
        request.headers_mut().extend(context.clone());
        // As every gRPC client: a call that did not leave goes to another connection.
        let response = match self.grpc().await?.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                Some(request) => {
                    self.connections.lock().await.grpc = None;
                    self.grpc().await?.send_request(request).await.context("calling inventory again")?
                }
                None => return Err(error.into_error()).context("calling inventory"),
            },
        };
        let early = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await.context("reading inventory's answer")?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()).or(early);
        let bytes = body.to_bytes();
        match status {
            Some(status) if status == "0" => {}
            other => bail!("inventory: grpc-status {other:?}"),
        }
        let reply: Reserved = decode(&bytes)?;
        Ok(format!("order by {}, {} reserved\n", self.name, reply.count))
    }

    async fn grpc(&self) -> Result<hyper::client::conn::http2::SendRequest<Full<Bytes>>> {
        let mut connections = self.connections.lock().await;
        if let Some(sender) = connections.grpc.clone().filter(|sender| !sender.is_closed()) {
            return Ok(sender);
        }
        let io = TokioIo::new(self.connect(INVENTORY).await?);
        let (sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(driver);
        connections.grpc = Some(sender.clone());
        Ok(sender)
    }

    async fn reserve(&self, request: Request<Incoming>) -> Result<Bytes> {
        if request.uri().path() != RESERVE {
            bail!("no such method");
        }
        let body = request.into_body().collect().await.context("reading the request")?.to_bytes();
        let reserve: Reserve = decode(&body)?;
        let count = self.increment(&reserve.sku).await?;
        Ok(message(&Reserved { count }))
    }

    /// INCR over one connection, in RESP (the redis protocol), one command at a time. As redis clients do, it takes
    /// another connection where the one that was kept has been closed meanwhile.
    async fn increment(&self, key: &str) -> Result<i64> {
        let mut connections = self.connections.lock().await;
        if let Some(mut kept) = connections.redis.take()
            && let Some(count) = incr(&mut kept, key).await.unwrap_or_default()
        {
            connections.redis = Some(kept);
            return Ok(count);
        }
        let mut redis = BufReader::new(self.connect(REDIS).await?);
        let count = incr(&mut redis, key).await?.context("redis closed the connection")?;
        connections.redis = Some(redis);
        Ok(count)
    }
}

impl Shop {
    async fn connect(&self, (service, port): (&str, u16)) -> Result<TcpStream> {
        let host = host(service);
        let connecting = async {
            match self.calls.get(service) {
                Some(address) => TcpStream::connect(address).await,
                None => TcpStream::connect((host.as_str(), port)).await,
            }
        };
        let stream = connecting.await.with_context(|| format!("connecting to {host}:{port}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        Ok(stream)
    }
}

async fn health(request: Request<Incoming>) -> Result<Bytes> {
    let body = request.into_body().collect().await.context("reading the request")?.to_bytes();
    let HealthRequest { service } = decode(&body)?;
    if !service.is_empty() && service != HEALTHY {
        bail!("no service {service}");
    }
    // SERVING.
    Ok(message(&HealthReply { status: 1 }))
}

/// `None` where the connection is closed.
async fn incr(redis: &mut BufReader<TcpStream>, key: &str) -> Result<Option<i64>> {
    let command = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len());
    redis.write_all(command.as_bytes()).await.context("writing to redis")?;
    let mut line = String::new();
    if redis.read_line(&mut line).await.context("reading from redis")? == 0 {
        return Ok(None);
    }
    let count = line.strip_prefix(':').with_context(|| format!("redis answered {line:?}"))?;
    Ok(Some(count.trim().parse()?))
}

fn host(service: &str) -> String {
    let namespace = std::env::var(NAMESPACE).unwrap_or_else(|_| "shop".to_owned());
    format!("{service}.{namespace}")
}

fn context(headers: &HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::new();
    for name in CONTEXT {
        if let Some(value) = headers.get(name) {
            own.insert(name, value.clone());
        }
    }
    own
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reserve {
    #[prost(string, tag = "1")]
    sku: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reserved {
    #[prost(int64, tag = "1")]
    count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthReply {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// gRPC's Length-Prefixed-Message: not compressed, length, message.
fn message(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes.get(5..).context("no message in the gRPC body")?).context("decoding a gRPC message")
}

fn grpc_answer(result: Result<Bytes>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    let mut frames = Vec::new();
    match result {
        Ok(message) => {
            frames.push(Ok(Frame::data(message)));
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err(error) => {
            // 14: UNAVAILABLE.
            trailers.insert("grpc-status", HeaderValue::from_static("14"));
            let text = format!("{error:#}").replace(['\r', '\n'], " ");
            if let Ok(text) = HeaderValue::from_str(&text) {
                trailers.insert("grpc-message", text);
            }
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
