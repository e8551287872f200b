//! What went over the wire: tcpdump on a pod's link, read back as packets and TCP flows.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::pod::Pod;
use crate::process::Process;

/// A capture that runs.
#[derive(Debug)]
#[must_use = "call stop() to see what was captured"]
pub struct Capture {
    process: Arc<Process>,
    file: PathBuf,
}

impl Capture {
    pub(crate) fn start(pod: &Pod, filter: &str) -> Result<Self> {
        let count = pod.captures();
        let file = pod.dir().join(format!("capture-{count}.pcap"));
        let path = file.display().to_string();
        let link = pod.link();
        // In the node's namespace, on the far end of the pod's link. `-Z root`: a change of user would cost the death
        // signal and the right to write here. `-U --immediate-mode`: a packet is in the file when it has passed.
        let mut args = vec!["tcpdump", "-i", &link, "-w", &path, "-Z", "root", "-s", "0", "-U"];
        args.extend(["--immediate-mode", "-B", "16384"]);
        args.extend(filter.split_whitespace());
        let process = pod.spawn_on_node(&format!("tcpdump-{count}"), &args)?;
        process.wait_for_log("listening on", Duration::from_secs(10))?;
        Ok(Self { process, file })
    }

    /// Ends the capture and reads it.
    ///
    /// # Errors
    /// The capture lost packets (then nothing can be said about what was *not* on the wire) or cannot be read.
    pub fn stop(self) -> Result<Packets> {
        stopped(&self.process, &self.file)
    }
}

/// Ends tcpdump and reads its file.
pub(crate) fn stopped(process: &Process, file: &Path) -> Result<Packets> {
    process.signal(Signal::INT);
    process.wait_exit(Duration::from_secs(10))?;
    let log = process.log();
    let dropped = log.lines().find(|line| line.contains("dropped by kernel")).unwrap_or("no count of drops");
    if !dropped.starts_with("0 ") {
        bail!("the capture is not complete: {dropped}");
    }
    Packets::read(&fs::read(file).context("reading the capture")?)
}

/// One direction of one TCP connection.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// The bytes in order, each once.
    pub bytes: Vec<u8>,
    /// Whether this direction began with a SYN without ACK: it comes from the client.
    pub from_client: bool,
    next: Option<u32>,
    later: BTreeMap<u32, Vec<u8>>,
}

impl Flow {
    /// Whether the bytes begin as TLS does: a handshake record (type 22) of version 3.x (RFC 8446 section 5.1).
    pub fn is_tls(&self) -> bool {
        matches!(self.bytes.as_slice(), [22, 3, 0..=4, ..])
    }

    fn add(&mut self, sequence: u32, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        self.later.entry(sequence).or_insert_with(|| payload.to_vec());
        let mut next = *self.next.get_or_insert(sequence);
        loop {
            // Sequence numbers wrap (RFC 9293 section 3.4): compare by distance.
            let found = self.later.iter().find_map(|(start, bytes)| {
                let skip = next.wrapping_sub(*start);
                (skip < 1 << 31).then_some((*start, skip as usize, bytes.len()))
            });
            let Some((start, skip, length)) = found else { break };
            let bytes = self.later.remove(&start).unwrap_or_default();
            if skip < length {
                self.bytes.extend_from_slice(&bytes[skip..]);
                next = start.wrapping_add(u32::try_from(length).unwrap_or(0));
            }
        }
        self.next = Some(next);
    }
}

/// A finished capture.
#[derive(Debug, Default)]
pub struct Packets {
    count: usize,
    raw: Vec<Vec<u8>>,
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
}

impl Packets {
    /// How many packets were seen.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the bytes are anywhere: in a packet of any protocol, or across the packets of a TCP flow.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.raw.iter().any(|packet| has(packet, bytes))
            || self.flows.values().any(|flow| has(&flow.bytes, bytes))
    }

    /// The TCP flows, by source and destination, in which the bytes are.
    pub fn flows_with(&self, bytes: &[u8]) -> Vec<(SocketAddr, SocketAddr)> {
        self.flows.iter().filter(|(_, flow)| has(&flow.bytes, bytes)).map(|(ends, _)| *ends).collect()
    }

    /// The TCP flows by (source, destination), each direction apart.
    pub fn flows(&self) -> &BTreeMap<(SocketAddr, SocketAddr), Flow> {
        &self.flows
    }

    /// How many bytes TCP carried.
    pub fn tcp_bytes(&self) -> usize {
        self.flows.values().map(|flow| flow.bytes.len()).sum()
    }

    /// Reads the pcap format (draft-ietf-opsawg-pcap), little-endian, with Ethernet frames, as tcpdump writes it here.
    fn read(file: &[u8]) -> Result<Self> {
        let header = file.get(..24).context("the capture has no header")?;
        if header[..4] != [0xd4, 0xc3, 0xb2, 0xa1] || header[20] != 1 {
            bail!("not a little-endian Ethernet capture");
        }
        let mut packets = Self::default();
        let mut rest = &file[24..];
        while let Some(record) = rest.get(..16) {
            let length = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
            let Some(frame) = rest.get(16..16 + length) else { break };
            packets.count += 1;
            packets.add(frame);
            packets.raw.push(frame.to_vec());
            rest = &rest[16 + length..];
        }
        Ok(packets)
    }

    fn add(&mut self, frame: &[u8]) {
        let Some(segment) = Segment::parse(frame) else { return };
        let flow = self.flows.entry((segment.from, segment.to)).or_default();
        flow.from_client |= segment.opens;
        flow.add(segment.sequence, segment.payload);
    }
}

struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    opens: bool,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Ethernet II, then IPv4 (RFC 791) or IPv6 without extension headers (RFC 8200), then TCP (RFC 9293).
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let (from, to, segment) = match frame.get(12..14)? {
            [0x08, 0x00] if *packet.get(9)? == 6 => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
                (IpAddr::from(from), IpAddr::from(to), packet.get(header..total)?)
            }
            [0x86, 0xdd] if *packet.get(6)? == 6 => {
                let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
                (IpAddr::from(from), IpAddr::from(to), packet.get(40..40 + length)?)
            }
            _ => return None,
        };
        let tcp = segment.get(..20)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let flags = tcp[13];
        Some(Self {
            from: SocketAddr::new(from, port(0)),
            to: SocketAddr::new(to, port(2)),
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            // SYN (0x02) without ACK (0x10).
            opens: flags & 0x12 == 0x02,
            payload: segment.get(usize::from(tcp[12] >> 4) * 4..)?,
        })
    }
}

fn has(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_put_in_order_without_repetition() {
        let mut flow = Flow::default();
        flow.add(u32::MAX - 1, b"ab");
        flow.add(4, b"ghi");
        flow.add(0, b"cdef");
        flow.add(u32::MAX - 1, b"ab");
        flow.add(2, b"efghij");
        assert_eq!(flow.bytes, b"abcdefghij");
    }

    #[test]
    fn tls_is_told_from_text() {
        let flow = |bytes: &[u8]| Flow { bytes: bytes.to_vec(), ..Flow::default() };
        assert!(flow(&[22, 3, 1, 2, 0]).is_tls());
        assert!(!flow(b"GET / HTTP/1.1").is_tls());
        assert!(!flow(b"").is_tls());
    }

    #[test]
    fn bytes_are_found_across_packets() {
        let mut packets = Packets::default();
        let flow =
            packets.flows.entry(("1.1.1.1:1".parse().unwrap(), "2.2.2.2:2".parse().unwrap())).or_default();
        flow.add(10, b"sec");
        flow.add(13, b"ret");
        assert!(packets.contains(b"secret"));
        assert!(!packets.contains(b"secreT"));
    }
}
