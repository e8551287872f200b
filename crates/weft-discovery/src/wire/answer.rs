//! Answers: from upstream into the cache, and from there to the application.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::{Header, MessageType, OpCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::*;

const TYPE_SOA: u16 = 6;
/// The flag in the third octet that says that records are missing.
const TC: u8 = 0x02;
/// CNAMEs that are looked at. Resolvers end a chain after 8 to 17.
const MAX_ALIASES: usize = 16;

/// How long answers may be kept; from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) min_ttl: Duration,
    pub(crate) max_ttl: Duration,
    pub(crate) max_negative_ttl: Duration,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has the records.
    Positive,
    /// There is no such name, or no such record of it.
    Negative,
    /// The server could not answer.
    Failure,
}

/// An upstream answer without its OPT record, ready to be given to anybody who asks the same.
#[derive(Debug)]
pub(crate) struct Answer {
    bytes: Box<[u8]>,
    ttl_at: Box<[u16]>,
    pub(crate) kind: Kind,
    /// How long it may be kept; zero: not at all.
    pub(crate) ttl: Duration,
    /// The addresses in the answer section.
    pub(crate) addresses: Box<[IpAddr]>,
    /// What the CNAMEs lead to, one after the other, from the question's name on. Empty where there is no address.
    pub(crate) aliases: Box<[DnsName]>,
}

/// Why bytes from an upstream server are not the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// They belong to another query, or are no answer: keep waiting.
    Mismatch,
    /// The answer does not fit UDP: ask over TCP.
    Truncated,
    /// The server does not take our EDNS (FORMERR, NOTIMP or BADVERS to a query with it): ask without.
    Edns,
}

struct Sections {
    ttl_at: Vec<u16>,
    addresses: Vec<IpAddr>,
    /// Owner and target of each CNAME.
    cnames: Vec<(Name, Name)>,
    has_asked: bool,
    answer_ttl: Option<u32>,
    /// Offset of the SOA's TTL in the authority section, and the negative TTL it gives.
    soa: Option<(usize, u32)>,
    /// Where the OPT record begins, and how many additional records stand before it.
    opt: Option<(usize, u16)>,
    code_high: u8,
}

/// Checks that `packet` answers `query`, sent with `id` (and with EDNS, if `edns`), and makes it ready for the cache.
pub(crate) fn parse_answer(
    packet: &[u8],
    query: &Query,
    id: u16,
    edns: bool,
    limits: Limits,
) -> Result<Answer, Unusable> {
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).map_err(|_| Unusable::Mismatch)?;
    if header.id != id || header.message_type != MessageType::Response || header.op_code != OpCode::Query {
        return Err(Unusable::Mismatch);
    }
    let code = packet.get(3).map_or(SERVFAIL, |low| low & 0x0f);
    if header.counts.queries == 0 && matches!(code, FORMERR | SERVFAIL | NOTIMP | REFUSED) {
        // Some servers leave the question out of an error; the id and the connected socket are then the check.
        return if edns && matches!(code, FORMERR | NOTIMP) {
            Err(Unusable::Edns)
        } else {
            Ok(failure(query, code))
        };
    }
    let question_end = HEADER + query.question().len();
    let question = packet.get(HEADER..question_end).ok_or(Unusable::Mismatch)?;
    // Type and class have no letters, so that comparing all of it without case compares them exactly enough: a type
    // that differs only in bit 5 of an octet in letter range is caught by the second comparison.
    let fixed = question.len().saturating_sub(4);
    if header.counts.queries != 1
        || !question.eq_ignore_ascii_case(query.question())
        || question.get(fixed..) != query.question().get(fixed..)
    {
        return Err(Unusable::Mismatch);
    }
    if header.truncation {
        return Err(Unusable::Truncated);
    }
    decoder.read_slice(question_end - HEADER).map_err(|_| Unusable::Mismatch)?;
    let sections = read_sections(&mut decoder, &header, query).ok_or(Unusable::Mismatch)?;
    if edns && (matches!(code, FORMERR | NOTIMP) || sections.code_high != 0) {
        return Err(Unusable::Edns);
    }
    let mut bytes = match sections.opt {
        // What stands after an OPT record is optional (additional section), and almost never there.
        Some((at, before)) => {
            let mut bytes = packet.get(..at).ok_or(Unusable::Mismatch)?.to_vec();
            put_u16(&mut bytes, 10, before);
            bytes
        }
        None => packet.get(..decoder.index()).ok_or(Unusable::Mismatch)?.to_vec(),
    };
    let (kind, ttl) = lifetime(code, &sections, limits, &mut bytes);
    let aliases = if sections.addresses.is_empty() { Vec::new() } else { chain(query, &sections.cnames) };
    Ok(Answer {
        bytes: bytes.into(),
        ttl_at: sections.ttl_at.into(),
        kind,
        ttl,
        addresses: sections.addresses.into(),
        aliases: aliases.into(),
    })
}

fn read_sections(decoder: &mut BinDecoder<'_>, header: &Header, query: &Query) -> Option<Sections> {
    let counts = header.counts;
    let mut found = Sections {
        ttl_at: Vec::new(),
        addresses: Vec::new(),
        cnames: Vec::new(),
        has_asked: false,
        answer_ttl: None,
        soa: None,
        opt: None,
        code_high: 0,
    };
    for _ in 0..counts.answers {
        let record = read_record(decoder).ok()?;
        found.ttl_at.push(u16::try_from(record.ttl_at).ok()?);
        let ttl = sane_ttl(record.ttl);
        found.answer_ttl = Some(found.answer_ttl.map_or(ttl, |least| least.min(ttl)));
        found.has_asked |= query.asks_for(record.rtype);
        if record.class == CLASS_IN && query.asks_addresses() {
            found.addresses.extend(address(record.rtype, record.rdata));
            if record.rtype == TYPE_CNAME && found.cnames.len() < MAX_ALIASES {
                let at = u16::try_from(record.rdata_at).ok()?;
                found.cnames.push((record.owner, Name::read(&mut decoder.clone(at)).ok()?));
            }
        }
    }
    for _ in 0..counts.authorities {
        let record = read_record(decoder).ok()?;
        found.ttl_at.push(u16::try_from(record.ttl_at).ok()?);
        if record.rtype == TYPE_SOA && found.soa.is_none() {
            // The last of the five numbers at the end of the data is the minimum (RFC 1035 section 3.3.13).
            let minimum = get_u32(record.rdata, record.rdata.len().checked_sub(4)?)?;
            found.soa = Some((record.ttl_at, sane_ttl(record.ttl).min(sane_ttl(minimum))));
        }
    }
    for before in 0..counts.additionals {
        let record = read_record(decoder).ok()?;
        if record.rtype == TYPE_OPT {
            let [code_high, ..] = record.ttl.to_be_bytes();
            found.code_high = code_high;
            found.opt = Some((record.start, before));
            break;
        }
        found.ttl_at.push(u16::try_from(record.ttl_at).ok()?);
    }
    Some(found)
}

/// Follows `cnames` from the question on. They come in any order; a ring ends where it began. A name that no service can
/// have is gone through, and not told.
fn chain(query: &Query, cnames: &[(Name, Name)]) -> Vec<DnsName> {
    let mut aliases = Vec::new();
    let Some(question) = query.name().filter(|_| !cnames.is_empty()) else { return aliases };
    let mut at = &question;
    for _ in 0..cnames.len() {
        // Names compare without case.
        let Some((_, next)) = cnames.iter().find(|(owner, _)| owner == at) else { break };
        aliases.extend(service_name(next));
        at = next;
    }
    aliases
}

/// A TTL with the top bit set counts as zero (RFC 2181 section 8).
fn sane_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

fn address(rtype: u16, rdata: &[u8]) -> Option<IpAddr> {
    match rtype {
        TYPE_A => Some(Ipv4Addr::from(<[u8; 4]>::try_from(rdata).ok()?).into()),
        TYPE_AAAA => Some(Ipv6Addr::from(<[u8; 16]>::try_from(rdata).ok()?).into()),
        _ => None,
    }
}

/// What an answer says and how long it may be kept. TTLs in it are brought under the same limits, so that no client
/// keeps it longer than we do.
fn lifetime(code: u8, sections: &Sections, limits: Limits, bytes: &mut [u8]) -> (Kind, Duration) {
    let seconds = |limit: Duration| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    for at in &sections.ttl_at {
        if let Some(ttl) = get_u32(bytes, usize::from(*at)) {
            put_u32(bytes, usize::from(*at), sane_ttl(ttl).min(seconds(limits.max_ttl)));
        }
    }
    match code {
        NOERROR if sections.has_asked => {
            let ttl = Duration::from_secs(sections.answer_ttl.unwrap_or(0).into());
            (Kind::Positive, ttl.clamp(limits.min_ttl.min(limits.max_ttl), limits.max_ttl))
        }
        NOERROR | NXDOMAIN => {
            // RFC 2308 section 5: without a SOA a negative answer is not kept. A CNAME before it limits it as well.
            let Some((ttl_at, ttl)) = sections.soa else { return (Kind::Negative, Duration::ZERO) };
            let ttl = ttl.min(seconds(limits.max_negative_ttl));
            put_u32(bytes, ttl_at, ttl);
            let ttl = sections.answer_ttl.map_or(ttl, |least| least.min(ttl));
            (Kind::Negative, Duration::from_secs(ttl.into()))
        }
        _ => (Kind::Failure, Duration::ZERO),
    }
}

/// An answer of our own that says only that there is none.
pub(crate) fn failure(query: &Query, code: u8) -> Answer {
    let mut bytes = vec![0; HEADER];
    bytes[3] = code & 0x0f;
    bytes[5] = 1;
    bytes.extend(query.question());
    Answer {
        bytes: bytes.into(),
        ttl_at: Box::default(),
        kind: Kind::Failure,
        ttl: Duration::ZERO,
        addresses: Box::default(),
        aliases: Box::default(),
    }
}

impl Answer {
    /// What it takes in memory.
    pub(crate) fn octets(&self) -> usize {
        let names = self.aliases.iter().map(|name| name.as_str().len() + size_of::<DnsName>()).sum::<usize>();
        size_of::<Self>()
            + self.bytes.len()
            + size_of_val(&*self.ttl_at)
            + size_of_val(&*self.addresses)
            + names
    }

    /// Whether the server cut it, and nothing of what was asked for is left.
    pub(crate) fn is_cut_away(&self) -> bool {
        self.kind == Kind::Failure && self.bytes.get(2).is_some_and(|flags| flags & TC != 0)
    }

    /// The packet, for decoding.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads what is there of an answer that was cut to fit UDP (TC), where no other is to be had. The flag stays in it, and it
/// is not kept. One that has nothing of what was asked for is a failure, which other servers may know better than, and goes
/// to the client as it came, if none does: it asks over TCP then (RFC 2181 section 9, RFC 7766 section 5).
pub(crate) fn cut_answer(packet: &[u8], query: &Query, edns: bool) -> Option<Answer> {
    let mut whole = packet.to_vec();
    *whole.get_mut(2)? &= !TC;
    let none = Limits { min_ttl: Duration::ZERO, max_ttl: Duration::ZERO, max_negative_ttl: Duration::ZERO };
    let mut answer = parse_answer(&whole, query, get_u16(packet, 0)?, edns, none).ok()?;
    *answer.bytes.get_mut(2)? |= TC;
    if answer.kind == Kind::Negative {
        answer.kind = Kind::Failure;
    }
    Some(answer)
}

/// As many records of an answer as fit.
struct Fitting {
    end: usize,
    counts: [u16; 3],
    /// Whether records that were asked for are missing; additional ones nobody has to be told of (RFC 2181 section 9).
    cut: bool,
}

impl Answer {
    fn fitting(&self, question: usize, room: usize) -> Fitting {
        let counts = [6, 8, 10].map(|at| get_u16(&self.bytes, at).unwrap_or(0));
        let mut fitting = Fitting { end: HEADER + question, counts: [0; 3], cut: false };
        // Each record ends with its data, whose length stands behind its TTL.
        let mut ends = self.ttl_at.iter().map(|at| {
            let length_at = usize::from(*at) + 4;
            get_u16(&self.bytes, length_at).map_or(usize::MAX, |length| length_at + 2 + usize::from(length))
        });
        for ((section, count), kept) in counts.iter().enumerate().zip(&mut fitting.counts) {
            for _ in 0..*count {
                match ends.next() {
                    Some(end) if end <= room => (fitting.end, *kept) = (end, *kept + 1),
                    _ => {
                        fitting.cut = section < 2;
                        return fitting;
                    }
                }
            }
        }
        fitting
    }
}

/// The packet for a client: `answer` with TTLs as given by `ttl` (old value to new), within `limit` octets. The flag
/// says that it had to be cut. Then it has TC and the records that fit: a client that takes TC for what it means asks over
/// TCP, and one that does not (musl before 1.2.4) has something to connect to.
pub(crate) fn render(
    answer: &Answer,
    query: &Query,
    ttl: impl Fn(u32) -> u32,
    limit: usize,
) -> (Vec<u8>, bool) {
    let opt = if query.edns_used() { OPT_LEN } else { 0 };
    let mut packet = Vec::with_capacity((answer.bytes.len() + opt).min(limit));
    let mut cut = false;
    if answer.bytes.len() + opt <= limit {
        packet.extend_from_slice(&answer.bytes);
    } else {
        let fitting = answer.fitting(query.question().len(), limit.saturating_sub(opt));
        packet.extend_from_slice(answer.bytes.get(..fitting.end).unwrap_or_default());
        for (at, count) in [6, 8, 10].into_iter().zip(fitting.counts) {
            put_u16(&mut packet, at, count);
        }
        cut = fitting.cut;
        if let Some(flags) = packet.get_mut(2).filter(|_| cut) {
            *flags |= TC;
        }
    }
    for at in &answer.ttl_at {
        let at = usize::from(*at);
        if let Some(old) = get_u32(&packet, at) {
            put_u32(&mut packet, at, ttl(old));
        }
    }
    query.stamp(&mut packet);
    query.push_edns(&mut packet, 0);
    (packet, cut)
}
