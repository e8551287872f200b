//! A small name server, for a machine that has no real one and no right to install it (see `dns.rs`).
//!
//! It reads the very zone file that is written for a real one, anew for each query, so that a change is in force at once.
//! UDP alone: the answers of the demo's few pods fit.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::ending::Ending;

/// Answers from the file `zone` of the working directory.
pub(super) async fn serve(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen).await.with_context(|| format!("binding {listen}"))?;
    super::report(&format!("listening on {listen}"));
    let ending = Ending::on_sigterm()?;
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => received.context("receiving")?,
            () = ending.now() => return Ok(()),
        };
        let zone = std::fs::read_to_string("zone").unwrap_or_default();
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let Some(answer) = answer(&query, &records(&zone)) else { continue };
        // Who asked may be gone; that is no reason to stop.
        let _ = socket.send_to(&answer.to_vec().context("encoding an answer")?, client).await;
    }
}

/// The records of a zone as `dns.rs` writes it: absolute names, one record a line, without class and TTL.
fn records(zone: &str) -> Vec<Record> {
    let mut ttl = 1;
    let mut found = Vec::new();
    for line in zone.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["$TTL", seconds] = words.as_slice() {
            ttl = seconds.parse().unwrap_or(ttl);
        }
        let Some((owner, data)) = words.split_first() else { continue };
        if let (Some(owner), Some(data)) = (name(owner), data_of(data)) {
            found.push(Record::from_rdata(owner, ttl, data));
        }
    }
    found
}

fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(if text == "@" { "." } else { text }).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn data_of(words: &[&str]) -> Option<RData> {
    match words {
        ["A", ip] => Some(RData::A(A(ip.parse().ok()?))),
        ["AAAA", ip] => Some(RData::AAAA(AAAA(ip.parse().ok()?))),
        ["SRV", priority, weight, port, target] => Some(RData::SRV(SRV::new(
            priority.parse().ok()?,
            weight.parse().ok()?,
            port.parse().ok()?,
            name(target)?,
        ))),
        ["SOA", server, mail, serial, refresh, retry, expire, minimum] => Some(RData::SOA(SOA::new(
            name(server)?,
            name(mail)?,
            serial.parse().ok()?,
            refresh.parse().ok()?,
            retry.parse().ok()?,
            expire.parse().ok()?,
            minimum.parse().ok()?,
        ))),
        _ => None,
    }
}

/// RFC 1034 section 4.3.2, for a zone that holds everything and has neither CNAME nor wildcard.
fn answer(query: &Message, zone: &[Record]) -> Option<Message> {
    let question = query.queries.first()?;
    let asked = question.name();
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.queries.clone_from(&query.queries);
    // A name exists with all those above it (RFC 8020).
    if !zone.iter().any(|record| asked.zone_of(&record.name)) {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    let wanted = |record: &&Record| record.name == *asked && record.record_type() == question.query_type();
    for record in zone.iter().filter(wanted) {
        reply.add_answer(record.clone());
        if let RData::SRV(srv) = &record.data {
            let glue = zone.iter().filter(|other| {
                other.name == srv.target && matches!(other.record_type(), RecordType::A | RecordType::AAAA)
            });
            glue.cloned().for_each(|glue| {
                reply.add_additional(glue);
            });
        }
    }
    if reply.answers.is_empty() {
        let soa = zone.iter().find(|record| record.record_type() == RecordType::SOA);
        soa.cloned().into_iter().for_each(|soa| {
            reply.add_authority(soa);
        });
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    const ZONE: &str = "$ORIGIN .\n$TTL 3\n@ SOA ns.x. root.x. 7 60 60 600 1\n@ NS ns.x.\n\
        web.x. A 127.0.0.9\n_p80._tcp.web-endpoints.x. SRV 0 100 8080 web.x.\n";

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        answer(&query, &records(ZONE)).unwrap()
    }

    #[test]
    fn records_glue_and_absence() {
        let found = ask("WEB.x.", RecordType::A);
        assert_eq!((found.answers.len(), found.answers[0].ttl), (1, 3));
        let found = ask("_p80._tcp.web-endpoints.x.", RecordType::SRV);
        assert_eq!((found.answers.len(), found.additionals.len()), (1, 1));
        // Nothing of this kind; nothing at the name but something below it; no such name.
        for (name, kind, code) in [
            ("web.x.", RecordType::AAAA, ResponseCode::NoError),
            ("web-endpoints.x.", RecordType::A, ResponseCode::NoError),
            ("nobody.x.", RecordType::A, ResponseCode::NXDomain),
        ] {
            let none = ask(name, kind);
            assert_eq!(
                (none.metadata.response_code, none.answers.len(), none.authorities.len()),
                (code, 0, 1)
            );
        }
    }
}
