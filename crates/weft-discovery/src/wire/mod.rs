//! DNS packets: pure functions from bytes to bytes, so that all that comes from a network can be tested (and fuzzed)
//! without one.
//!
//! Names and headers are read with hickory-proto. An upstream answer is *not* decoded and encoded again: its bytes are
//! kept with the offsets of its TTLs, and to answer a query is to copy them, put the client's id, question and flags
//! over the front and count the TTLs down. So record types that nobody here has heard of pass through, and so does the
//! client's spelling of the name (the 0x20 trick): owner names point back to the question.
//!
//! EDNS is between neighbours (RFC 6891 section 6.1.1): the client's OPT record is answered by ours, and the upstream
//! server gets one of ours with the client's DO bit. Options (cookies, client subnet) do not cross.

mod answer;
mod query;

pub(crate) use answer::{Answer, Kind, Limits, Unusable, cut_answer, failure, parse_answer, render};
pub(crate) use query::{Key, Query, Request, parse_request};

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use weft_core::DnsName;

/// Octets of a message header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Octets of an OPT record without options (RFC 6891 section 6.1.2).
const OPT_LEN: usize = 11;
const TYPE_OPT: u16 = 41;
/// What we tell upstream servers that we take over UDP, and take from clients at the most when they say more: 1232
/// octets pass every network without fragments (DNS flag day 2020), towards the client it is a loopback.
const UPSTREAM_PAYLOAD: u16 = 1232;
const CLIENT_PAYLOAD_MAX: u16 = 4096;
/// The UDP size without EDNS (RFC 1035 section 2.3.4).
const PLAIN_PAYLOAD: u16 = 512;

const CLASS_IN: u16 = 1;
const TYPE_CNAME: u16 = 5;
pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_PTR: u16 = 12;
pub(crate) const TYPE_AAAA: u16 = 28;
pub(crate) const TYPE_SRV: u16 = 33;

pub(crate) const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
pub(crate) const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// One resource record, where it lies.
struct RecordAt<'a> {
    owner: Name,
    start: usize,
    rtype: u16,
    class: u16,
    /// Offset of the TTL's four octets.
    ttl_at: usize,
    ttl: u32,
    rdata_at: usize,
    rdata: &'a [u8],
}

fn read_record<'a>(decoder: &mut BinDecoder<'a>) -> Result<RecordAt<'a>, DecodeError> {
    let start = decoder.index();
    let owner = Name::read(decoder)?;
    // Any value of these is a record to pass on; what is used of them is checked where it is used.
    let rtype = decoder.read_u16()?.unverified();
    let class = decoder.read_u16()?.unverified();
    let ttl_at = decoder.index();
    let ttl = decoder.read_u32()?.unverified();
    let length = decoder.read_u16()?.unverified();
    let rdata_at = decoder.index();
    let rdata = decoder.read_slice(usize::from(length))?.unverified();
    Ok(RecordAt { owner, start, rtype, class, ttl_at, ttl, rdata_at, rdata })
}

/// A name as text, where it is one that a service can have.
fn service_name(name: &Name) -> Option<DnsName> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        // A dot within a label would turn one name into another.
        if label.contains(&b'.') {
            return None;
        }
        text.push_str(std::str::from_utf8(label).ok()?);
        text.push('.');
    }
    text.parse().ok()
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An OPT record: payload size, upper bits of the code, DO.
fn push_opt(bytes: &mut Vec<u8>, payload: u16, code_high: u8, dnssec_ok: bool) {
    bytes.push(0);
    bytes.extend(TYPE_OPT.to_be_bytes());
    bytes.extend(payload.to_be_bytes());
    bytes.extend([code_high, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
}

/// All that is done with a packet of the application and one of an upstream server, without a network: for fuzzing.
/// Returns the packets that would be sent to the application.
pub(crate) fn exercise(request: &[u8], answer: &[u8]) -> Vec<Vec<u8>> {
    let limit = std::time::Duration::from_secs(60);
    let limits = Limits { min_ttl: std::time::Duration::ZERO, max_ttl: limit, max_negative_ttl: limit };
    let query = match parse_request(request) {
        Request::Drop => return Vec::new(),
        Request::Reject(reply) => return vec![reply],
        Request::Query(query) => query,
    };
    drop((query.key(), query.address_name()));
    let mut replies = vec![render(&failure(&query, SERVFAIL), &query, |ttl| ttl, query.udp_limit()).0];
    let id = get_u16(answer, 0).unwrap_or(0);
    for edns in [true, false] {
        if let Ok(answer) = parse_answer(answer, &query, id, edns, limits) {
            replies.push(render(&answer, &query, |ttl| ttl.saturating_sub(1), query.udp_limit()).0);
            drop(hickory_proto::op::Message::from_vec(answer.bytes()));
        }
    }
    replies
}

/// An answer together with the question that it has in it: for fuzzing.
pub(crate) fn exercise_answer(packet: &[u8]) -> Option<(Query, Answer)> {
    let mut request = packet.to_vec();
    // One question, and nothing else.
    request.get_mut(2..HEADER)?.copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let Request::Query(query) = parse_request(&request) else { return None };
    let limit = std::time::Duration::from_secs(60);
    let limits = Limits { min_ttl: std::time::Duration::ZERO, max_ttl: limit, max_negative_ttl: limit };
    let answer = parse_answer(packet, &query, get_u16(packet, 0)?, false, limits).ok()?;
    Some((query, answer))
}

#[cfg(test)]
mod tests;
