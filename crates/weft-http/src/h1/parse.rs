//! Bytes to heads.
//!
//! What concerns one connection only, and what only the mesh may say, never gets into the header map: it is looked at
//! here and left out. So nothing has to be removed later, which would also change the order of what stays.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use super::login;
use super::names::{CaseReader, Reason};
use super::table::{Declared, Framing};
use super::target;
use crate::ErrorCode;
use crate::headers::{has_token, is_internal, is_option_alone, listed_names};
use crate::{Http1Limits, judge};

/// A request's head, without what belongs to its connection.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// With [`Upgrade`], [`super::RawTarget`] and [`super::NameCase`] among its extensions where there is one.
    pub(crate) request: Request<()>,
    pub(crate) framing: Framing,
    /// The client wants to keep the connection.
    pub(crate) keep_alive: bool,
    /// It asked to be told to send its body.
    pub(crate) expects_continue: bool,
    /// It logs in by a scheme whose logins belong to their connection.
    pub(crate) binds_login: bool,
}

/// The upgrade that a request asks for, or that an answer has accepted (RFC 9110 section 7.8).
#[derive(Clone, Debug)]
pub(crate) struct Upgrade(pub(crate) HeaderValue);

/// An answer's head, without what belongs to its connection.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    /// With [`Upgrade`], [`Reason`] and [`super::NameCase`] among its extensions where there is one.
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    /// The connection may be used for another request behind this one.
    pub(crate) keep_alive: bool,
    /// A length or a coding was declared, whatever the table made of it.
    pub(crate) declares_body: bool,
    /// It speaks of a scheme whose logins belong to their connection.
    pub(crate) binds_login: bool,
}

/// Most fields that are parsed without an allocation.
const FIELDS: usize = 100;

/// Where a name and its value are in the bytes of a head.
type Place = ((usize, usize), (usize, usize));

thread_local! {
    static PLACES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// Takes a request's head off the front of `buf`. `None`: it is not there as a whole yet.
///
/// # Errors
/// What to answer before the connection is closed.
pub(crate) fn request(buf: &mut BytesMut, limits: &Http1Limits) -> Result<Option<RequestHead>, ErrorCode> {
    skip_empty_lines(buf);
    let Some((line, length)) = PLACES.with_borrow_mut(|places| locate_request(buf, limits, places))? else {
        return match buf.len() {
            held if held >= limits.max_header_bytes => Err(ErrorCode::HeadersTooLarge),
            held if held > limits.max_target_bytes && !buf.contains(&b'\n') => Err(ErrorCode::TargetTooLong),
            _ => Ok(None),
        };
    };
    if length > limits.max_header_bytes {
        return Err(ErrorCode::HeadersTooLarge);
    }
    if line.target.1 > limits.max_target_bytes {
        return Err(ErrorCode::TargetTooLong);
    }
    let head = buf.split_to(length).freeze();
    let target = slice(&head, line.target);
    let method = head.get(..line.method).and_then(|text| Method::from_bytes(text).ok());
    let method = method.ok_or(ErrorCode::BadRequest)?;
    let (uri, raw) = target::parse(&method, target).map_err(|_| ErrorCode::BadRequest)?;
    let mut fields = PLACES.with_borrow(|places| Fields::read(&head, places))?;
    settle_host(&mut fields.map, fields.hosts, &uri, line.version)?;
    let framing = fields.declared.request(line.version).map_err(|_| ErrorCode::BadRequest)?;
    // RFC 9110 section 9.3.6: CONNECT has no content. What follows would be a tunnel's bytes to us, and to a server that
    // knows no CONNECT a request that nobody has looked at.
    if method == Method::CONNECT && framing != Framing::None {
        return Err(ErrorCode::BadRequest);
    }
    let mut request = Request::new(());
    let extensions = request.extensions_mut();
    if let Some(raw) = raw {
        extensions.insert(raw);
    }
    if let Some(case) = fields.case.take() {
        extensions.insert(case);
    }
    // RFC 9110 section 7.8: a server ignores an upgrade in HTTP/1.0. One whose request has a body is ignored as well: what
    // follows it would belong to two protocols.
    if line.version == Version::HTTP_11
        && framing == Framing::None
        && let Some(upgrade) = fields.upgrade()
    {
        extensions.insert(Upgrade(upgrade));
    }
    *request.version_mut() = line.version;
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let keep_alive = fields.keep_alive(line.version);
    let expects_continue = fields.expects_continue && line.version == Version::HTTP_11;
    let binds_login = fields.binds_login;
    *request.headers_mut() = fields.map;
    Ok(Some(RequestHead { request, framing, keep_alive, expects_continue, binds_login }))
}

/// Sees to it that there is one host and that it is one (RFC 9112 section 3.2).
fn settle_host(fields: &mut HeaderMap, hosts: u8, uri: &Uri, version: Version) -> Result<(), ErrorCode> {
    match hosts {
        1 => {}
        0 if version == Version::HTTP_10 => {}
        _ => return Err(ErrorCode::BadRequest),
    }
    // One reader would stop at a space or a slash, another would not.
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = fields.get(HOST).map(HeaderValue::as_bytes);
    if !host.into_iter().chain(authority).all(judge::is_host) {
        return Err(ErrorCode::BadRequest);
    }
    if let Some(authority) = uri.authority() {
        // An absolute-form target overrides Host (RFC 9112 section 3.2.2); so does that of CONNECT (section 3.3).
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorCode::BadRequest)?;
        fields.insert(HOST, host);
    }
    Ok(())
}

/// Whether a head that was not whole may be so now, or is one that must be refused. Looking costs as much as all that is
/// there, so that a peer who sends a byte at a time must not have it done for each. `seen`: octets that are no news.
pub(super) fn is_worth_a_look(buf: &[u8], seen: usize, limits: &Http1Limits) -> bool {
    let passes = |limit: usize| seen <= limit && buf.len() > limit;
    // A head ends with a line.
    buf.get(seen..).unwrap_or_default().contains(&b'\n')
        || passes(limits.max_target_bytes)
        || buf.len() >= limits.max_header_bytes
}

/// A request line, and where in the head its parts are.
struct RequestLine {
    method: usize,
    target: (usize, usize),
    version: Version,
}

/// RFC 9112 section 2.2 asks for at least one empty line before a request to be ignored. All are: they cost nothing.
fn skip_empty_lines(buf: &mut BytesMut) {
    let empty = buf.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    // A CR whose LF has not come, or never does, stays: it is no empty line, and fails as a method.
    let last_is_cr = empty > 0 && buf.get(empty - 1) == Some(&b'\r');
    let skipped = if last_is_cr { empty - 1 } else { empty };
    if skipped > 0 {
        let _ = buf.split_to(skipped);
    }
}

fn locate_request(
    buf: &[u8],
    limits: &Http1Limits,
    places: &mut Vec<Place>,
) -> Result<Option<(RequestLine, usize)>, ErrorCode> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let most = fields.len().min(limits.max_headers);
    let few = fields.get_mut(..most).unwrap_or_default();
    let config = httparse::ParserConfig::default();
    let parsed = if limits.max_headers > FIELDS {
        Err(httparse::Error::TooManyHeaders)
    } else {
        config.parse_request_with_uninit_headers(&mut request, buf, few)
    };
    match parsed {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let (method, path) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
            let version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
            let line = RequestLine { method: method.len(), target: place(buf, path.as_bytes()), version };
            note(buf, request.headers, places);
            Ok(Some((line, length)))
        }
        // A target that is no UTF-8, or more fields than are kept on the stack.
        Err(httparse::Error::Token) => locate_slowly(buf, limits, places),
        Err(httparse::Error::TooManyHeaders) if limits.max_headers > FIELDS => {
            locate_slowly(buf, limits, places)
        }
        Err(error) => Err(refusal(error)),
    }
}

/// What a syntax error is answered with.
fn refusal(error: httparse::Error) -> ErrorCode {
    match error {
        httparse::Error::TooManyHeaders => ErrorCode::HeadersTooLarge,
        httparse::Error::Version => ErrorCode::VersionNotSupported,
        _ => ErrorCode::BadRequest,
    }
}

/// The same with a request line of our own.
fn locate_slowly(
    buf: &[u8],
    limits: &Http1Limits,
    places: &mut Vec<Place>,
) -> Result<Option<(RequestLine, usize)>, ErrorCode> {
    let Some(end) = buf.iter().position(|byte| *byte == b'\n') else {
        // What is there may be wrong already; it is judged when the line is whole.
        return Ok(None);
    };
    let line = buf.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ErrorCode::BadRequest);
    };
    let clean = !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(ErrorCode::BadRequest),
    };
    if !clean || method.is_empty() {
        return Err(ErrorCode::BadRequest);
    }
    let line = RequestLine { method: method.len(), target: place(buf, target), version };
    let after = buf.get(end + 1..).unwrap_or_default();
    let mut fields = vec![httparse::EMPTY_HEADER; limits.max_headers];
    match httparse::parse_headers(after, &mut fields) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete((length, fields))) => {
            note(buf, fields, places);
            Ok(Some((line, end + 1 + length)))
        }
        Err(error) => Err(refusal(error)),
    }
}

/// Takes an answer's head off the front of `buf`. `None`: it is not there as a whole yet.
pub(crate) fn answer(
    buf: &mut BytesMut,
    method: &Method,
    limits: &Http1Limits,
) -> Result<Option<AnswerHead>, &'static str> {
    let located = PLACES.with_borrow_mut(|places| locate_answer(buf, limits, places))?;
    let Some((line, length)) = located.filter(|(_, length)| *length <= limits.max_header_bytes) else {
        return if buf.len() >= limits.max_header_bytes { Err("a head that is too large") } else { Ok(None) };
    };
    let head = buf.split_to(length).freeze();
    let mut fields =
        PLACES.with_borrow(|places| Fields::read(&head, places)).map_err(|_| "a field that is none")?;
    let framing = fields.declared.answer(method, line.status)?;
    let mut response = Response::new(());
    let extensions = response.extensions_mut();
    if let Some(reason) = Reason::new(line.status, &slice(&head, line.reason)) {
        extensions.insert(reason);
    }
    if let Some(case) = fields.case.take() {
        extensions.insert(case);
    }
    if line.status == StatusCode::UPGRADE_REQUIRED
        && let Some(protocol) = fields.upgrade.take()
    {
        extensions.insert(Upgrade(protocol));
    }
    if line.status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = fields.upgrade.take().unwrap_or_else(|| HeaderValue::from_static(""));
        extensions.insert(Upgrade(protocol));
    }
    *response.status_mut() = line.status;
    *response.version_mut() = line.version;
    let declares_body = fields.declared.says_anything();
    let keep_alive = fields.keep_alive(line.version)
        && framing != Framing::UntilClose
        && !fields.declared.is_doubtful(line.version)
        && !(line.status == StatusCode::NO_CONTENT && fields.declared.promises_content());
    let binds_login = fields.binds_login;
    *response.headers_mut() = fields.map;
    Ok(Some(AnswerHead { response, framing, keep_alive, declares_body, binds_login }))
}

/// A status line, and where in the head its phrase is.
struct StatusLine {
    status: StatusCode,
    reason: (usize, usize),
    version: Version,
}

/// Answers are read as browsers and nginx do: with a space before a colon, with folded lines.
fn locate_answer(
    buf: &[u8],
    limits: &Http1Limits,
    places: &mut Vec<Place>,
) -> Result<Option<(StatusLine, usize)>, &'static str> {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true);
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut many = Vec::new();
    let fields = if limits.max_headers > FIELDS {
        many.resize_with(limits.max_headers, MaybeUninit::uninit);
        many.as_mut_slice()
    } else {
        fields.get_mut(..limits.max_headers).unwrap_or_default()
    };
    let mut response = httparse::Response::new(&mut []);
    match config.parse_response_with_uninit_headers(&mut response, buf, fields) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("status")?;
            let version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
            note(buf, response.headers, places);
            Ok(Some((StatusLine { status, reason: reason(buf), version }, length)))
        }
        Err(httparse::Error::TooManyHeaders) => Err("too many fields"),
        Err(httparse::Error::Status) => Err("status line"),
        Err(httparse::Error::Version) => Err("version"),
        Err(_) => Err("head"),
    }
}

/// Where the phrase of a status line is that has been found well-formed. (httparse gives none where it is no ASCII.)
fn reason(buf: &[u8]) -> (usize, usize) {
    // Empty lines may come before it.
    let begin = buf.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = buf.get(begin..).unwrap_or_default();
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let line = line.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    at += line.iter().skip(at).take_while(|byte| **byte == b' ').count();
    // Three digits and a space.
    let start = (at + 4).min(line.len());
    (begin + start, line.len() - start)
}

fn place(buf: &[u8], part: &[u8]) -> (usize, usize) {
    // Both are parts of one slice: the difference of their addresses is the offset.
    ((part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize), part.len())
}

fn note(buf: &[u8], fields: &[httparse::Header<'_>], places: &mut Vec<Place>) {
    places.clear();
    places.extend(fields.iter().map(|field| (place(buf, field.name.as_bytes()), place(buf, field.value))));
}

fn slice(head: &Bytes, (start, length): (usize, usize)) -> Bytes {
    if start + length <= head.len() { head.slice(start..start + length) } else { Bytes::new() }
}

/// The fields of a head, sorted into what goes on and what was for this connection.
struct Fields {
    map: HeaderMap,
    declared: Declared,
    case: Option<super::NameCase>,
    hosts: u8,
    /// The `Upgrade` field.
    upgrade: Option<HeaderValue>,
    /// `Connection` lists it.
    upgrade_listed: bool,
    close: bool,
    keep: bool,
    expects_continue: bool,
    binds_login: bool,
}

impl Fields {
    fn read(head: &Bytes, places: &[Place]) -> Result<Self, ErrorCode> {
        let mut fields = Self {
            // Room for what is added on the way: trace context, address, identity.
            map: HeaderMap::with_capacity(places.len() + 4),
            declared: Declared::default(),
            case: None,
            hosts: 0,
            upgrade: None,
            upgrade_listed: false,
            close: false,
            keep: false,
            expects_continue: false,
            binds_login: false,
        };
        let mut case = CaseReader::new();
        let mut listed = Vec::new();
        for (name_at, value_at) in places {
            let name = head.get(name_at.0..name_at.0 + name_at.1).unwrap_or_default();
            let value = match HeaderValue::from_maybe_shared(slice(head, *value_at)) {
                Ok(value) => value,
                // Line ends, for one.
                Err(_) => unfolded(&slice(head, *value_at))?,
            };
            if fields.is_for_this_connection(name, &value, &mut listed) {
                continue;
            }
            let known = HeaderName::from_bytes(name).map_err(|_| ErrorCode::BadRequest)?;
            if is_internal(known.as_str()) {
                continue;
            }
            case.take(name);
            fields.map.append(known, value);
        }
        if !listed.is_empty() {
            fields.map = without_listed(fields.map, &listed);
        }
        match fields.declared.length() {
            _ if fields.declared.is_plain() => {}
            // However often it was said.
            Some(length) => drop(fields.map.insert(CONTENT_LENGTH, HeaderValue::from(length))),
            None => drop(fields.map.remove(CONTENT_LENGTH)),
        }
        fields.case = case.done();
        Ok(fields)
    }

    /// Looks at what concerns the connection. `true`: it does not go on.
    fn is_for_this_connection(
        &mut self,
        name: &[u8],
        value: &HeaderValue,
        listed: &mut Vec<HeaderValue>,
    ) -> bool {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => {
                // The one value that may go on, in HTTP/2 as well.
                if has_token(value, "trailers") {
                    self.map.insert(TE, HeaderValue::from_static("trailers"));
                }
                true
            }
            4 if is("host") => {
                self.hosts = self.hosts.saturating_add(1);
                false
            }
            6 if is("expect") => {
                self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                false
            }
            7 if is("upgrade") => {
                self.upgrade = Some(match self.upgrade.take() {
                    None => value.clone(),
                    // Two fields are one list (RFC 9110 section 5.3).
                    Some(first) => joined(&first, value),
                });
                true
            }
            10 if is("connection") => {
                self.connection(value, listed);
                true
            }
            10 if is("keep-alive") => true,
            14 if is("content-length") => {
                self.declared.content_length(value.as_bytes());
                false
            }
            13 if is("authorization") => self.login(value),
            14 if is("http2-settings") => true,
            16 if is("www-authenticate") => self.login(value),
            16 if is("proxy-connection") => true,
            17 if is("transfer-encoding") => {
                self.declared.transfer_encoding(value.as_bytes());
                true
            }
            18 if is("proxy-authenticate") => self.login(value),
            19 if is("proxy-authorization") || is("authentication-info") => self.login(value),
            25 if is("proxy-authentication-info") => self.login(value),
            _ => false,
        }
    }

    /// It goes on.
    fn login(&mut self, value: &HeaderValue) -> bool {
        self.binds_login |= login::binds(value.as_bytes());
        false
    }

    fn connection(&mut self, value: &HeaderValue, listed: &mut Vec<HeaderValue>) {
        self.close |= has_token(value, "close");
        self.keep |= has_token(value, "keep-alive");
        if !is_option_alone(value) {
            self.upgrade_listed |= has_token(value, "upgrade");
            listed.push(value.clone());
        }
    }

    /// What was asked for, where Weft passes it on.
    fn upgrade(&mut self) -> Option<HeaderValue> {
        let listed = self.upgrade_listed;
        self.upgrade.take().filter(|value| listed && judge::is_upgrade(value))
    }

    /// RFC 9112 section 9.3.
    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep)
    }
}

fn joined(first: &HeaderValue, second: &HeaderValue) -> HeaderValue {
    let list = [first.as_bytes(), b", ", second.as_bytes()].concat();
    // Valid values and a separator make a valid value.
    HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or_else(|_| second.clone())
}

/// A map without what `Connection` lists, the rest in its order: taking a name out of a map moves another to its place.
fn without_listed(map: HeaderMap, listed: &[HeaderValue]) -> HeaderMap {
    let names: Vec<HeaderName> =
        listed.iter().flat_map(listed_names).filter(|name| map.contains_key(name)).collect();
    if names.is_empty() {
        return map;
    }
    let mut rest = HeaderMap::with_capacity(map.len());
    for (name, value) in &map {
        if !names.contains(name) {
            rest.append(name.clone(), value.clone());
        }
    }
    rest
}

/// A folded value on one line (RFC 9112 section 5.2).
fn unfolded(value: &[u8]) -> Result<HeaderValue, ErrorCode> {
    let mut line = Vec::with_capacity(value.len());
    for part in value.split(|byte| *byte == b'\n') {
        let part = part.trim_ascii();
        if !line.is_empty() && !part.is_empty() {
            line.push(b' ');
        }
        line.extend_from_slice(part);
    }
    HeaderValue::from_maybe_shared(Bytes::from(line)).map_err(|_| ErrorCode::BadRequest)
}

/// The fields behind a chunked body. `None`: they are not there as a whole yet.
pub(super) fn trailers(buf: &mut BytesMut, limits: &Http1Limits) -> Result<Option<HeaderMap>, &'static str> {
    let mut fields = vec![httparse::EMPTY_HEADER; limits.max_headers];
    let (length, map) = match httparse::parse_headers(buf, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => (length, trailer_map(fields)?),
        Ok(httparse::Status::Partial) if buf.len() < limits.max_header_bytes => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("trailers that are too large"),
        Err(_) => return Err("trailers"),
    };
    let _ = buf.split_to(length);
    Ok(Some(map))
}

/// Without what may not be a trailer (RFC 9110 section 6.5.1): framing, routing, and what is about the connection.
fn trailer_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, &'static str> {
    let mut map = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "trailers")?;
        let forbidden = [CONTENT_LENGTH, HOST, CONNECTION, TE].contains(&name)
            || matches!(
                name.as_str(),
                "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" | "trailer"
            );
        if !forbidden && !is_internal(name.as_str()) {
            map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| "trailers")?);
        }
    }
    Ok(map)
}
