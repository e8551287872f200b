//! Queries: the application's, and our own.

use std::sync::Arc;

use hickory_proto::op::{Header, MessageType, OpCode};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::*;

/// Zone transfers are many messages, which one question and one answer cannot carry.
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;

/// What makes two queries the same for the cache: name in lower case, type, class, and the flags that change answers.
pub(crate) type Key = Arc<[u8]>;

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) id: u16,
    /// Name, type and class as they stand in the packet, in the client's spelling.
    question: Box<[u8]>,
    pub(crate) qtype: u16,
    qclass: u16,
    recursion_desired: bool,
    authentic_data: bool,
    checking_disabled: bool,
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug)]
struct Edns {
    payload: u16,
    dnssec_ok: bool,
}

/// What a packet from the application turns out to be.
#[derive(Debug)]
pub(crate) enum Request {
    /// A question to answer.
    Query(Query),
    /// Not a question that can be answered; the bytes say why.
    Reject(Vec<u8>),
    /// Not a query at all. To answer it could start a loop between two servers.
    Drop,
}

/// Reads a packet from the application.
pub(crate) fn parse_request(packet: &[u8]) -> Request {
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Request::Drop };
    if header.message_type != MessageType::Query {
        return Request::Drop;
    }
    let mut query = Query {
        id: header.id,
        question: Box::default(),
        qtype: 0,
        qclass: 0,
        recursion_desired: header.recursion_desired,
        authentic_data: header.authentic_data,
        checking_disabled: header.checking_disabled,
        edns: None,
    };
    if header.op_code != OpCode::Query {
        let opcode = packet.get(2).map_or(0, |flags| flags & 0x78);
        return Request::Reject(query.error(opcode, NOTIMP, 0));
    }
    if header.counts.queries != 1 || query.read_question(&mut decoder).is_none() {
        return Request::Reject(query.error(0, FORMERR, 0));
    }
    let before_additionals = usize::from(header.counts.answers) + usize::from(header.counts.authorities);
    for i in 0..before_additionals + usize::from(header.counts.additionals) {
        let Ok(record) = read_record(&mut decoder) else {
            return Request::Reject(query.error(0, FORMERR, 0));
        };
        if record.rtype != TYPE_OPT {
            continue;
        }
        // RFC 6891 section 6.1.1: one OPT, in the additional section, of the root name.
        if query.edns.is_some() || i < before_additionals || packet.get(record.start) != Some(&0) {
            return Request::Reject(query.error(0, FORMERR, 0));
        }
        let [_, version, flags, _] = record.ttl.to_be_bytes();
        query.edns = Some(Edns { payload: record.class, dnssec_ok: flags & 0x80 != 0 });
        if version != 0 {
            // BADVERS is 16: 1 in the upper bits.
            return Request::Reject(query.error(0, 0, 1));
        }
    }
    if matches!(query.qtype, TYPE_IXFR | TYPE_AXFR) {
        return Request::Reject(query.error(0, REFUSED, 0));
    }
    Request::Query(query)
}

impl Query {
    /// A question of our own, which asks for recursion and nothing else.
    pub(crate) fn new(name: &DnsName, qtype: u16) -> Self {
        let mut question = Vec::with_capacity(name.as_str().len() + 6);
        for label in name.labels() {
            // At most 63, by the type of the name.
            question.push(label.len() as u8);
            question.extend(label.as_bytes());
        }
        question.push(0);
        question.extend(qtype.to_be_bytes());
        question.extend(CLASS_IN.to_be_bytes());
        Self {
            id: 0,
            question: question.into(),
            qtype,
            qclass: CLASS_IN,
            recursion_desired: true,
            authentic_data: false,
            checking_disabled: false,
            edns: Some(Edns { payload: UPSTREAM_PAYLOAD, dnssec_ok: false }),
        }
    }

    fn read_question(&mut self, decoder: &mut BinDecoder<'_>) -> Option<()> {
        let name = Name::read(decoder).ok()?;
        self.qtype = decoder.read_u16().ok()?.unverified();
        self.qclass = decoder.read_u16().ok()?.unverified();
        let question = decoder.slice_from(HEADER).ok()?;
        // There is nothing before the question that its name could point to: a shorter form is compression, and ours
        // to copy into answers must stand alone. (A pointer takes two octets, a label at least as many.)
        let labels: usize = name.iter().map(|label| label.len() + 1).sum();
        if question.len() != labels + 5 {
            return None;
        }
        self.question = question.into();
        Some(())
    }

    /// The key for the cache.
    pub(crate) fn key(&self) -> Key {
        let flags = u8::from(self.recursion_desired)
            | u8::from(self.authentic_data) << 1
            | u8::from(self.checking_disabled) << 2
            | u8::from(self.dnssec_ok()) << 3;
        let (name, rest) = self.question.split_at(self.question.len().saturating_sub(4));
        name.iter().map(u8::to_ascii_lowercase).chain(rest.iter().copied()).chain([flags]).collect()
    }

    /// The name, where it is one that a service can have, of a question about addresses.
    pub(crate) fn address_name(&self) -> Option<DnsName> {
        if !self.asks_addresses() {
            return None;
        }
        service_name(&self.name()?)
    }

    /// Whether the question is about addresses.
    pub(super) fn asks_addresses(&self) -> bool {
        self.qclass == CLASS_IN && matches!(self.qtype, TYPE_A | TYPE_AAAA)
    }

    /// The name in the question.
    pub(super) fn name(&self) -> Option<Name> {
        Name::read(&mut BinDecoder::new(&self.question)).ok()
    }

    fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The octets that an answer over UDP may have.
    pub(crate) fn udp_limit(&self) -> usize {
        let payload = self.edns.map_or(PLAIN_PAYLOAD, |edns| edns.payload);
        usize::from(payload.clamp(PLAIN_PAYLOAD, CLIENT_PAYLOAD_MAX))
    }

    pub(super) fn edns_used(&self) -> bool {
        self.edns.is_some()
    }

    /// Name, type and class.
    pub(super) fn question(&self) -> &[u8] {
        &self.question
    }

    /// Whether the answer holds what was asked for if it holds a record of `rtype`.
    pub(super) fn asks_for(&self, rtype: u16) -> bool {
        const ANY: u16 = 255;
        self.qtype == rtype || self.qtype == ANY
    }

    /// The packet for an upstream server.
    pub(crate) fn for_upstream(&self, id: u16, edns: bool) -> Vec<u8> {
        let mut packet = Vec::with_capacity(HEADER + self.question.len() + OPT_LEN);
        packet.extend(id.to_be_bytes());
        packet.push(u8::from(self.recursion_desired));
        packet.push(u8::from(self.authentic_data) << 5 | u8::from(self.checking_disabled) << 4);
        packet.extend([0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
        packet.extend(&*self.question);
        if edns {
            push_opt(&mut packet, UPSTREAM_PAYLOAD, 0, self.dnssec_ok());
        }
        packet
    }

    /// Puts the client's id, flags and question over the front of an answer.
    pub(super) fn stamp(&self, packet: &mut [u8]) {
        put_u16(packet, 0, self.id);
        if let Some([high, low]) = packet.get_mut(2..4) {
            // QR; not authoritative, for it may come from the cache; TC as it is; the client's RD.
            *high = 0x80 | (*high & 0x02) | u8::from(self.recursion_desired);
            // RA; AD as it is, where the client can understand it (RFC 6840 section 5.8); the client's CD; the code.
            let ad = if self.authentic_data || self.dnssec_ok() { *low & 0x20 } else { 0 };
            *low = 0x80 | ad | u8::from(self.checking_disabled) << 4 | (*low & 0x0f);
        }
        if let Some(place) = packet.get_mut(HEADER..HEADER + self.question.len()) {
            place.copy_from_slice(&self.question);
        }
    }

    /// Our OPT record, if the client sent one.
    pub(super) fn push_edns(&self, packet: &mut Vec<u8>, code_high: u8) {
        if let Some(edns) = self.edns {
            push_opt(packet, CLIENT_PAYLOAD_MAX, code_high, edns.dnssec_ok);
            if let Some(count) = get_u16(packet, 10) {
                put_u16(packet, 10, count.saturating_add(1));
            }
        }
    }

    /// An answer of header, question and OPT only.
    pub(super) fn empty(&self, high: u8, code: u8, code_high: u8) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet[2] = high;
        packet[3] = code;
        packet[5] = u8::from(!self.question.is_empty());
        packet.extend(&*self.question);
        self.stamp(&mut packet);
        self.push_edns(&mut packet, code_high);
        packet
    }

    fn error(&self, opcode: u8, code: u8, code_high: u8) -> Vec<u8> {
        let mut packet = self.empty(0, code, code_high);
        packet[2] |= opcode;
        packet
    }
}
