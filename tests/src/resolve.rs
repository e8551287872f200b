//! A stub resolver as an application has one, for code that runs on a thread in a pod.
//!
//! The C library reads `/etc/resolv.conf` once for the whole process, so it cannot serve threads of different pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// An answer, in the terms a test compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `NoError`, `NXDomain`, ... as text.
    pub code: String,
    /// The answer section: one record a string, as in a zone file, without name, class and TTL.
    pub records: Vec<String>,
    /// The TTLs of the answer section, in the same order.
    pub ttls: Vec<u32>,
    /// The additional section (glue), in the same form.
    pub additional: Vec<String>,
    addresses: Vec<IpAddr>,
    exists: bool,
}

/// When to ask again, in milliseconds. Short at first: nsd may lose a query at the moment of a reload.
const PATIENCE: [u64; 4] = [200, 500, 1000, 2000];

/// Asks over UDP, and again when no answer comes.
pub(crate) async fn lookup(server: SocketAddr, name: &str, kind: &str) -> Result<Answer> {
    let kind = RecordType::from_str(kind).with_context(|| format!("record type {kind}"))?;
    let mut name = Name::from_ascii(name).with_context(|| format!("name {name}"))?;
    name.set_fqdn(true);
    let local =
        if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    for patience in PATIENCE {
        let socket = UdpSocket::bind((local, 0)).await.context("opening a UDP socket")?;
        socket.connect(server).await.context("connecting to the name server")?;
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name.clone(), kind));
        let id = query.metadata.id;
        socket.send(&query.to_vec().context("encoding a query")?).await.context("asking the name server")?;
        let mut buffer = vec![0; 4096];
        let Ok(received) = timeout(Duration::from_millis(patience), socket.recv(&mut buffer)).await else {
            continue;
        };
        let length = received.context("the name server does not answer")?;
        let message = Message::from_vec(&buffer[..length]).context("decoding an answer")?;
        if message.metadata.id == id {
            return Ok(answer(&message));
        }
    }
    bail!("no answer for {name} {kind} from {server}")
}

fn answer(message: &Message) -> Answer {
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    });
    Answer {
        code: format!("{:?}", message.metadata.response_code),
        records: message.answers.iter().map(|record| record.data.to_string()).collect(),
        ttls: message.answers.iter().map(|record| record.ttl).collect(),
        additional: message.additionals.iter().map(|record| record.data.to_string()).collect(),
        addresses: addresses.collect(),
        exists: message.metadata.response_code == ResponseCode::NoError,
    }
}

/// What an application in a pod knows from its `resolv.conf`.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    pub(crate) server: SocketAddr,
    pub(crate) namespace: String,
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Resolver {
    /// Search domains and `ndots:5` as resolv.conf(5) has them; the first name with an address wins.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        if let Ok(ip) = name.trim_matches(['[', ']']).parse() {
            return Ok(vec![ip]);
        }
        for candidate in self.candidates(name) {
            let mut addresses = Vec::new();
            for (wanted, kind) in [(self.v4, "A"), (self.v6, "AAAA")] {
                if !wanted {
                    continue;
                }
                let answer = lookup(self.server, &candidate, kind).await?;
                if !answer.exists && answer.code != "NXDomain" {
                    bail!("{candidate} {kind}: {}", answer.code);
                }
                addresses.extend(answer.addresses);
            }
            if !addresses.is_empty() {
                return Ok(addresses);
            }
        }
        bail!("no address for {name}")
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let namespace = &self.namespace;
        let searched =
            [format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()]
                .map(|domain| format!("{name}.{domain}."));
        let absolute = format!("{name}.");
        if name.matches('.').count() >= 5 {
            std::iter::once(absolute).chain(searched).collect()
        } else {
            searched.into_iter().chain(std::iter::once(absolute)).collect()
        }
    }
}
