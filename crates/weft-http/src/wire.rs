//! How an application's request travels inside HTTP/2 and comes out as it went in.
//!
//! An HTTP/1 request keeps its `Host` header and its target form on the way: HTTP/2 allows a request without
//! `:authority` that was converted from HTTP/1 (RFC 9113 section 8.3.1), so an origin-form target stays a path, an
//! absolute-form target (RFC 9112 section 3.2.2) keeps scheme and authority, and nothing is parsed and rebuilt on the
//! way. HTTP/1.1 is the unmarked case; HTTP/1.0 and HTTP/2 are told by [`WEFT_WIRE`].
//!
//! An HTTP/1.1 upgrade (RFC 9110 section 7.8) travels as a request with [`WEFT_UPGRADE`] whose stream carries the
//! upgraded protocol's bytes both ways once the answer, marked alike, has come. RFC 8441's extended CONNECT does not fit:
//! it drops the method, and it knows no refusal that leaves an ordinary answer. An HTTP/2 application's own extended
//! CONNECT passes as what it is.
//!
//! What `http`'s types cannot hold travels beside the rest: a target that is no URI ([`WEFT_TARGET`]), how names are written
//! ([`WEFT_CASE`]), a reason phrase ([`WEFT_REASON`]); and what HTTP does not know: whose connection a request came over, where that
//! matters ([`WEFT_LOGIN`]). Within a proxy they are extensions of the message.
//!
//! These headers exist only on mesh links: they are removed from what applications send and from what they receive.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::h1::{Login, NameCase, RawTarget, Reason, Upgrade};
use crate::headers::{Survey, is_forwarding, is_internal, strip_hop_by_hop};
use crate::{ErrorCode, WEFT_ERROR, judge};

/// Marks a request whose application speaks HTTP/1.0 (`1.0`) or HTTP/2 (`2`).
pub const WEFT_WIRE: HeaderName = HeaderName::from_static("weft-wire");
/// The upgrade an HTTP/1.1 request asks for, or an answer has accepted.
pub const WEFT_UPGRADE: HeaderName = HeaderName::from_static("weft-upgrade");

/// A request target that cannot be a `:path`.
pub const WEFT_TARGET: HeaderName = HeaderName::from_static("weft-target");
/// How the names of an HTTP/1 head were written, where not in Train-Case.
pub const WEFT_CASE: HeaderName = HeaderName::from_static("weft-case");
/// The secret name of an HTTP/1 client's connection on which a login was seen that belongs to its connection (NTLM).
pub const WEFT_LOGIN: HeaderName = HeaderName::from_static("weft-login");
/// The reason phrase of an HTTP/1 answer, where it is not the usual one.
pub const WEFT_REASON: HeaderName = HeaderName::from_static("weft-reason");

/// Checks ([`crate::judge`]) and cleans a request from an application, whatever its version.
///
/// One of HTTP/1 is clean: only the parser makes such a head ([`crate::serve_http1`]), which leaves out all that is to be
/// removed here, and [`crate::serve_http2`] makes none but those of HTTP/2.
///
/// Returns the upgrade it asks for, which only HTTP/1.1 without a body has.
///
/// # Errors
/// `bad-request`.
pub fn clean_request<B>(request: &mut Request<B>) -> Result<Option<HeaderValue>, ErrorCode> {
    let version = request.version();
    if version != Version::HTTP_2 {
        debug_assert!(is_clean_request(request), "not from the parser: {:?}", request.headers());
        let upgrade = request.extensions_mut().remove::<Upgrade>().map(|upgrade| upgrade.0);
        take_over_if(request, upgrade.as_ref());
        return Ok(upgrade);
    }
    let survey = Survey::of(request.headers());
    if survey.internal {
        remove_internal(request.headers_mut());
    }
    if survey.connection || survey.hop_by_hop {
        return Err(ErrorCode::BadRequest);
    }
    judge::request(request, survey, version)?;
    take_over_if(request, None);
    Ok(None)
}

/// Whether the parser of HTTP/1 has left nothing in a request that may not go on.
fn is_clean_request<B>(request: &Request<B>) -> bool {
    let survey = Survey::of(request.headers());
    let judged = judge::request(request, survey, request.version());
    !survey.internal && !survey.connection && !survey.hop_by_hop && judged.is_ok()
}

/// The head of a request behind which another protocol begins declares no body: whoever reads it on the way, or in the
/// end, would take that protocol's bytes for one.
fn take_over_if<B>(request: &mut Request<B>, upgrade: Option<&HeaderValue>) {
    if upgrade.is_some() || request.method() == Method::CONNECT {
        let headers = request.headers_mut();
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, TRAILER] {
            headers.remove(name);
        }
    }
}

/// Whether a client's request, before it is marked for a link, belongs to a login of its connection: the application that
/// has it must get them all.
pub fn has_own_login<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Login>().is_some()
}

/// Has a request go on with the target that its `Uri` is, whatever bytes the client has sent: for those who route by it, so that
/// nobody behind them reads another.
pub fn forget_target<B>(request: &mut Request<B>) {
    request.extensions_mut().remove::<RawTarget>();
}

/// Whether the client has sent a fragment with its target, which none may have (RFC 9112 section 3.2), and which others cut off.
pub fn has_fragment<B>(request: &Request<B>) -> bool {
    request.extensions().get::<RawTarget>().is_some_and(|target| target.as_bytes().contains(&b'#'))
}

/// Takes what only HTTP/1 has off a request that becomes one of HTTP/2.
pub fn forget_http1<B>(request: &mut Request<B>) {
    let extensions = request.extensions_mut();
    extensions.remove::<NameCase>();
    extensions.remove::<Login>();
}

/// Takes the `:protocol` off a request that becomes one of HTTP/1.1.
pub fn forget_protocol<B>(request: &mut Request<B>) {
    request.extensions_mut().remove::<h2::ext::Protocol>();
}

/// Takes the upgrade off an answer that becomes one of HTTP/2.
pub fn forget_upgrade<B>(response: &mut Response<B>) {
    response.extensions_mut().remove::<Upgrade>();
}

/// Marks a clean request for the link.
pub fn to_link<B>(request: &mut Request<B>, upgrade: Option<HeaderValue>) {
    let version = match request.version() {
        Version::HTTP_2 => Some("2"),
        Version::HTTP_10 => Some("1.0"),
        _ => None,
    };
    let target = request.extensions_mut().remove::<RawTarget>();
    let case = request.extensions_mut().remove::<NameCase>();
    let login = request.extensions_mut().remove::<Login>();
    let headers = request.headers_mut();
    if let Some(login) = login.and_then(|login| login.to_wire()) {
        headers.insert(WEFT_LOGIN, login);
    }
    if let Some(version) = version {
        headers.insert(WEFT_WIRE, HeaderValue::from_static(version));
    }
    if let Some(protocol) = upgrade {
        headers.insert(WEFT_UPGRADE, protocol);
    }
    insert(headers, WEFT_TARGET, target.map(|target| target.to_wire()));
    insert(headers, WEFT_CASE, case.map(|case| case.to_wire()));
}

/// What can be no value is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<Bytes>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_maybe_shared(value).ok()) {
        headers.insert(name, value);
    }
}

/// What a request from a link is to become again.
#[derive(Debug, PartialEq, Eq)]
pub struct Original {
    /// The version the calling application speaks.
    pub version: Version,
    /// The upgrade it asked for.
    pub upgrade: Option<HeaderValue>,
}

/// Judges and restores a request that came over a link.
///
/// # Errors
/// `bad-request`: no proxy of the mesh has sent it like this.
pub fn from_link<B>(request: &mut Request<B>) -> Result<Original, ErrorCode> {
    let survey = Survey::of(request.headers());
    if survey.connection || survey.hop_by_hop {
        return Err(ErrorCode::BadRequest);
    }
    let original = if survey.internal {
        let original = marks(request.headers_mut())?;
        unpack(request, &original)?;
        // Only a peer that is not Weft sends others: they must not look as if the mesh had said them.
        remove_internal(request.headers_mut());
        original
    } else {
        Original { version: Version::HTTP_11, upgrade: None }
    };
    judge::request(request, survey, original.version)?;
    if let Some(upgrade) = &original.upgrade {
        let fits = original.version == Version::HTTP_11
            && request.method() != Method::CONNECT
            && judge::is_bodiless(request.headers())
            && judge::is_upgrade(upgrade);
        if !fits {
            return Err(ErrorCode::BadRequest);
        }
    }
    take_over_if(request, original.upgrade.as_ref());
    *request.version_mut() = original.version;
    if survey.hosts == 0 {
        name_host(request)?;
    }
    Ok(original)
}

/// Has a request of HTTP/1.1 that names its host in its target alone name it as HTTP/1.1 does (RFC 9113 section 8.3.1).
///
/// # Errors
/// `bad-request`: it cannot.
pub fn name_host<B>(request: &mut Request<B>) -> Result<(), ErrorCode> {
    if request.version() == Version::HTTP_11
        && let Some(authority) = request.uri().authority()
        && !request.headers().contains_key(HOST)
    {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorCode::BadRequest)?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// Says that a request of HTTP/2 goes over TLS.
pub fn secure<B>(request: &mut Request<B>) {
    let mut parts = request.uri().clone().into_parts();
    if parts.scheme.as_ref().is_some_and(|scheme| *scheme != Scheme::HTTPS) {
        parts.scheme = Some(Scheme::HTTPS);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// Unpacks what an HTTP/1 head has besides.
fn unpack<B>(request: &mut Request<B>, original: &Original) -> Result<(), ErrorCode> {
    let target = one(request.headers_mut(), &WEFT_TARGET)?;
    let case = one(request.headers_mut(), &WEFT_CASE)?;
    let login = one(request.headers_mut(), &WEFT_LOGIN)?;
    if original.version == Version::HTTP_2 && (target.is_some() || case.is_some() || login.is_some()) {
        return Err(ErrorCode::BadRequest);
    }
    if let Some(target) = target {
        let target = RawTarget::from_wire(target.as_bytes(), request.uri()).ok_or(ErrorCode::BadRequest)?;
        request.extensions_mut().insert(target);
    }
    if let Some(case) = case {
        let case = NameCase::from_wire(case.as_bytes()).ok_or(ErrorCode::BadRequest)?;
        request.extensions_mut().insert(case);
    }
    if let Some(login) = login {
        let login = Login::from_wire(&login).ok_or(ErrorCode::BadRequest)?;
        request.extensions_mut().insert(login);
    }
    Ok(())
}

/// Takes a mark out of a head that may have it once.
fn one(headers: &mut HeaderMap, name: &HeaderName) -> Result<Option<HeaderValue>, ErrorCode> {
    match headers.get_all(name).iter().count() {
        0 => Ok(None),
        1 => Ok(headers.remove(name)),
        _ => Err(ErrorCode::BadRequest),
    }
}

/// Takes the marks out of a head.
fn marks(headers: &mut HeaderMap) -> Result<Original, ErrorCode> {
    let version = match one(headers, &WEFT_WIRE)? {
        None => Version::HTTP_11,
        Some(value) if value == "2" => Version::HTTP_2,
        Some(value) if value == "1.0" => Version::HTTP_10,
        Some(_) => return Err(ErrorCode::BadRequest),
    };
    Ok(Original { version, upgrade: one(headers, &WEFT_UPGRADE)? })
}

/// Has an HTTP/1.1 application asked for an upgrade by whoever writes the head.
pub fn restore_upgrade<B>(request: &mut Request<B>, protocol: HeaderValue) {
    request.extensions_mut().insert(Upgrade(protocol));
}

/// Marks an HTTP/1 application's answer for the link; as it comes from the parser, it is clean. An accepted upgrade becomes a
/// marked 200.
pub fn response_to_link<B>(response: &mut Response<B>) {
    debug_assert!(is_clean_answer(response.headers()), "not from the parser: {:?}", response.headers());
    let extensions = response.extensions_mut();
    let (upgrade, reason, case) =
        (extensions.remove::<Upgrade>(), extensions.remove::<Reason>(), extensions.remove::<NameCase>());
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched {
        let protocol = upgrade.map(|upgrade| upgrade.0);
        let headers = response.headers_mut();
        // Some send a length of 0, which over HTTP/2 would be the end of the stream's bytes.
        headers.remove(CONTENT_LENGTH);
        headers.insert(WEFT_UPGRADE, protocol.unwrap_or_else(|| HeaderValue::from_static("")));
        *response.status_mut() = StatusCode::OK;
    } else if let Some(Upgrade(offered)) = upgrade {
        // What a 426 wants (RFC 9110 section 15.5.22).
        response.headers_mut().insert(WEFT_UPGRADE, offered);
    }
    let headers = response.headers_mut();
    insert(headers, WEFT_REASON, reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes())));
    insert(headers, WEFT_CASE, case.map(|case| case.to_wire()));
}

/// The same of an answer.
fn is_clean_answer(headers: &HeaderMap) -> bool {
    let survey = Survey::of(headers);
    !survey.internal && !survey.connection && !survey.hop_by_hop
}

/// Whether a message that came over a link may have something that only the mesh says.
pub fn is_marked(headers: &HeaderMap) -> bool {
    Survey::of(headers).internal
}

/// Whether an answer over a link accepts the upgrade to one of `asked`, or opens the tunnel of a CONNECT.
pub fn accepts(asked: Option<&HeaderValue>, status: StatusCode, headers: &HeaderMap) -> bool {
    let marks = headers.get_all(WEFT_UPGRADE);
    match asked {
        Some(asked) => status == StatusCode::OK && judge::switches_to(asked, marks),
        None => marks.iter().next().is_none() && judge::is_tunnel(status, headers),
    }
}

/// Turns a marked 200 from the link back into 101.
pub fn response_from_link<B>(response: &mut Response<B>) {
    if !is_marked(response.headers()) {
        return;
    }
    let accepted = response.status() == StatusCode::OK;
    let upgrade = accepted.then(|| response.headers_mut().remove(WEFT_UPGRADE)).flatten();
    restore_answer(response);
    if let Some(protocol) = upgrade {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.extensions_mut().insert(Upgrade(protocol));
    }
}

/// Takes out of an answer from a link what it may not have, which is all that only the mesh says but `weft-error`, and
/// restores what an HTTP/1 answer has besides.
///
/// # Errors
/// `upstream-protocol`: it accepts an upgrade that nobody has asked for.
pub fn clean_answer<B>(response: &mut Response<B>) -> Result<(), ErrorCode> {
    if !is_marked(response.headers()) {
        return Ok(());
    }
    let offers = response.status() == StatusCode::UPGRADE_REQUIRED;
    let unasked = !offers && response.headers().contains_key(WEFT_UPGRADE);
    restore_answer(response);
    if unasked { Err(ErrorCode::UpstreamProtocol) } else { Ok(()) }
}

/// What is written wrongly is left out: the answer is worth more than how it was written.
fn restore_answer<B>(response: &mut Response<B>) {
    let status = response.status();
    let headers = response.headers_mut();
    let reason = headers.remove(WEFT_REASON).and_then(|reason| Reason::new(status, reason.as_bytes()));
    let case = headers.remove(WEFT_CASE).and_then(|case| NameCase::from_wire(case.as_bytes()));
    let error = headers.remove(WEFT_ERROR);
    let offered = headers.remove(WEFT_UPGRADE).filter(|_| status == StatusCode::UPGRADE_REQUIRED);
    remove_internal(headers);
    if let Some(error) = error {
        headers.insert(WEFT_ERROR, error);
    }
    if let Some(offered) = offered {
        response.extensions_mut().insert(Upgrade(offered));
    }
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    if let Some(case) = case {
        response.extensions_mut().insert(case);
    }
}

/// Takes out of a 1xx what it may not have.
pub(crate) fn clean_interim(headers: &mut HeaderMap) {
    clean(headers, Survey::of(headers));
}

/// Takes out what only the mesh may say, and what concerns one connection.
fn clean(headers: &mut HeaderMap, survey: Survey) {
    if survey.internal {
        remove_internal(headers);
    }
    strip_hop_by_hop(headers, survey);
}

/// Takes out of trailers what they may not have: what only the mesh may say, and what says where a message ends or goes
/// (RFC 9110 section 6.5.1). Many servers read trailers as if they were headers.
pub(crate) fn clean_trailers(headers: &mut HeaderMap) {
    let survey = Survey::of(headers);
    if survey.hosts > 0 {
        headers.remove(HOST);
    }
    if survey.lengths > 0 {
        headers.remove(CONTENT_LENGTH);
    }
    // A proxy on the way has replaced what the head says of the client: it must not come again behind its back.
    let forwarding: Vec<HeaderName> =
        headers.keys().filter(|name| is_forwarding(name.as_str())).cloned().collect();
    for name in forwarding {
        headers.remove(name);
    }
    clean(headers, survey);
}

/// Removes what only the mesh may say ([`is_internal`]), on links or off them. An application that passes on an answer of
/// the mesh (`weft-error`) as its own would send the reader of the log to the wrong place.
pub fn strip_internal(headers: &mut HeaderMap) {
    if is_marked(headers) {
        remove_internal(headers);
    }
}

fn remove_internal(headers: &mut HeaderMap) {
    // One look at each name costs less than a lookup of each header that there is.
    let is_ours = |name: &&HeaderName| is_internal(name.as_str());
    if headers.keys().any(|name| is_ours(&name)) {
        let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{answer_head, request_head};

    /// A request as an application sends it over HTTP/1, of a line and fields with `|` between them.
    fn sent(line: &str, fields: &str) -> Option<Request<()>> {
        let fields = fields.split('|').map(|field| format!("{field}\r\n")).collect::<String>();
        request_head(format!("{line}\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn a_request_round_trips_in_every_version_and_form() {
        let own = |line| sent(line, "Host: orders.shop").unwrap();
        let h2 = Request::builder().version(Version::HTTP_2).uri("http://orders.shop/a");
        for mut before in [
            own("GET /a?b=c HTTP/1.1"),
            own("OPTIONS * HTTP/1.1"),
            own("GET http://orders.shop/a HTTP/1.1"),
            own("GET /a HTTP/1.0"),
            h2.header("host", "orders.shop").body(()).unwrap(),
        ] {
            let version = before.version();
            assert_eq!(clean_request(&mut before).unwrap(), None);
            let mut after = before.clone();
            to_link(&mut after, None);
            *after.version_mut() = Version::HTTP_2;
            assert_eq!(from_link(&mut after).unwrap(), Original { version, upgrade: None });
            assert_eq!(after.version(), version);
            assert_eq!((after.uri(), after.headers()), (before.uri(), before.headers()));
        }
    }

    #[test]
    fn an_upgrade_travels_as_a_marked_request_and_answer() {
        let fields = "Host: a|Connection: Upgrade|Upgrade: websocket|Sec-Websocket-Key: x";
        let mut request = sent("GET /ws HTTP/1.1", fields).unwrap();
        let upgrade = clean_request(&mut request).unwrap();
        to_link(&mut request, upgrade);
        assert!(!request.headers().contains_key("connection"));
        let original = from_link(&mut request).unwrap();
        assert_eq!(original.upgrade.unwrap(), "websocket");

        let mut answer = Response::builder().status(101).body(()).unwrap();
        answer.extensions_mut().insert(Upgrade(HeaderValue::from_static("websocket")));
        response_to_link(&mut answer);
        assert_eq!(answer.status(), 200);
        response_from_link(&mut answer);
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.extensions().get::<Upgrade>().unwrap().0, "websocket");
        assert!(answer.headers().is_empty());
    }

    #[test]
    fn what_a_uri_cannot_hold_travels_beside_it() {
        let mut request = sent("GET /<a> HTTP/1.1", "host: a").unwrap();
        let target = RawTarget::from_wire(b"/<a>", request.uri()).unwrap();
        assert_eq!(clean_request(&mut request).unwrap(), None);
        to_link(&mut request, None);
        assert_eq!(request.headers().len(), 3);
        let mut lie = request.clone();
        *lie.uri_mut() = Uri::from_static("/admin");
        assert_eq!(from_link(&mut lie).unwrap_err(), ErrorCode::BadRequest, "two targets");
        from_link(&mut request).unwrap();
        assert_eq!(request.extensions().get::<RawTarget>(), Some(&target));
        assert_eq!(request.extensions().get::<NameCase>(), Some(&NameCase::Lower));
        assert_eq!(request.headers().len(), 1);

        let mut answer = Response::new(());
        answer.extensions_mut().insert(Reason::new(StatusCode::OK, b"Fine").unwrap());
        response_to_link(&mut answer);
        assert_eq!(answer.headers()["weft-reason"], "Fine");
        clean_answer(&mut answer).unwrap();
        assert_eq!(answer.extensions().get::<Reason>().unwrap().as_bytes(), b"Fine");
        assert!(answer.headers().is_empty());
    }

    #[test]
    fn applications_cannot_speak_the_internal_headers() {
        let spoofed = |version| {
            let fields = [
                ("host", "a"),
                ("weft-wire", "2"),
                ("weft-error", "tls-failed"),
                ("weft-error", "loop-detected"),
                ("Weft-Whatever", "x"),
                ("weft-upgrade", "x"),
                ("x-forwarded-client-cert", "URI=spiffe://a"),
                ("X_Forwarded-Client_Cert", "URI=spiffe://b"),
                ("X.Forwarded!Client~Cert", "URI=spiffe://c"),
                ("weft_error", "x"),
                ("weftless", "stays"),
            ];
            if version == Version::HTTP_11 {
                let lines = fields.map(|(name, value)| format!("{name}: {value}"));
                return sent("GET / HTTP/1.1", &lines.join("|")).unwrap();
            }
            let builder = Request::builder().version(version);
            let all = fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
            all.body(()).unwrap()
        };
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut request = spoofed(version);
            clean_request(&mut request).unwrap();
            assert_eq!(request.headers().len(), 2);
        }
        // A peer that is not Weft, on a link.
        let mut request = spoofed(Version::HTTP_2);
        request.headers_mut().remove("weft-upgrade");
        from_link(&mut request).unwrap();
        assert_eq!(request.headers().len(), 2);
        let mut answer = answer_head(b"HTTP/1.1 200 OK\r\nweft-upgrade: x\r\nweft-error: x\r\n\r\n").unwrap();
        response_to_link(&mut answer);
        assert!(answer.headers().is_empty());
    }

    #[test]
    fn an_answer_over_a_link_accepts_only_what_was_asked_for() {
        let marked = |status: u16, protocol: &'static str| {
            Response::builder().status(status).header("weft-upgrade", protocol).body(()).unwrap()
        };
        let asked = HeaderValue::from_static("websocket");
        let accepts = |asked, answer: &Response<()>| accepts(asked, answer.status(), answer.headers());
        assert!(accepts(Some(&asked), &marked(200, "websocket")));
        assert!(!accepts(Some(&asked), &marked(200, "h2c")));
        assert!(!accepts(Some(&asked), &marked(500, "websocket")));
        assert!(!accepts(Some(&asked), &Response::new(())));
        assert!(accepts(None, &Response::new(())) && !accepts(None, &marked(200, "websocket")));
        let mut lie = marked(200, "websocket");
        assert_eq!(clean_answer(&mut lie), Err(ErrorCode::UpstreamProtocol));
        let mut told = Response::builder()
            .header("weft-error", "no-endpoints")
            .header("weft-wire", "2")
            .header("x-forwarded-client-cert", "URI=a")
            .body(())
            .unwrap();
        assert_eq!(clean_answer(&mut told), Ok(()));
        assert_eq!(
            (told.headers().len(), &told.headers()["weft-error"]),
            (1, &HeaderValue::from_static("no-endpoints"))
        );
    }

    #[test]
    fn trailers_and_interim_answers_say_nothing_of_the_mesh_or_of_framing() {
        let all = || {
            let mut headers = HeaderMap::new();
            for name in
                ["weft-error", "x_forwarded_client_cert", "connection", "transfer-encoding", "upgrade"]
            {
                headers.insert(name, HeaderValue::from_static("x"));
            }
            headers.insert("grpc-status", HeaderValue::from_static("0"));
            headers
        };
        let mut interim = all();
        clean_interim(&mut interim);
        let mut trailers = all();
        trailers.insert(HOST, HeaderValue::from_static("a"));
        trailers.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        clean_trailers(&mut trailers);
        assert_eq!((interim.len(), trailers.len()), (1, 1), "{interim:?} {trailers:?}");
    }

    #[test]
    fn host_must_be_there_once() {
        assert!(sent("GET / HTTP/1.1", "A: b").is_none());
        assert!(sent("GET / HTTP/1.1", "Host: a|Host: b").is_none());
        assert_eq!(clean_request(&mut sent("GET / HTTP/1.0", "A: b").unwrap()), Ok(None));
        let mut absolute = sent("GET http://real/ HTTP/1.1", "Host: lie").unwrap();
        clean_request(&mut absolute).unwrap();
        assert_eq!(absolute.headers()["host"], "real");
    }
}
