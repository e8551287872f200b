//! Where the messages of a body begin and end.

/// The first octet of the message that has the trailers ("Protocol differences vs gRPC over HTTP2").
pub(super) const TRAILERS: u8 = 0x80;
/// A message begins with its flags and its length (PROTOCOL-HTTP2.md, "Length-Prefixed-Message").
pub(super) const PREFIX: usize = 5;

/// Whether the octets so far end with a message.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    prefix: [u8; PREFIX],
    got: usize,
    left: u32,
}

impl Boundary {
    /// Whether messages may begin as these do. What has the trailers' mark is none of gRPC: only the one who turns an answer to gRPC-Web
    /// writes it. Of other flags a server knows what they mean.
    pub(super) fn pass(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            if self.left > 0 {
                let skipped = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                data = data.get(skipped..).unwrap_or_default();
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
                continue;
            }
            let wanted = (PREFIX - self.got).min(data.len());
            let (begin, behind) = data.split_at(wanted);
            if let Some(room) = self.prefix.get_mut(self.got..self.got + wanted) {
                room.copy_from_slice(begin);
            }
            (self.got, data) = (self.got + wanted, behind);
            if self.got == PREFIX {
                let [flags, a, b, c, d] = self.prefix;
                if flags & TRAILERS != 0 {
                    return false;
                }
                (self.got, self.left) = (0, u32::from_be_bytes([a, b, c, d]));
            }
        }
        true
    }

    pub(super) fn is_here(&self) -> bool {
        self.got == 0 && self.left == 0
    }
}
