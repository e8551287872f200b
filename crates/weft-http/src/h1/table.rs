//! Where an incoming message ends (RFC 9112 section 6.3).

use http::{Method, StatusCode, Version};

/// How the body of an incoming message is delimited. It describes bytes that come in and says nothing about bytes that
/// go out: see [`super::heads::Outgoing`] for those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks, trailers behind.
    Chunked,
    /// Until the peer closes; answers only.
    UntilClose,
}

/// What a head says about its length, gathered while its fields are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Declared {
    length: Option<u64>,
    lengths: u8,
    /// Two lengths, or one that is none.
    length_faulty: bool,
    /// It has zeros in front.
    padded: bool,
    coding: Coding,
}

/// The transfer codings of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    /// `chunked`, once and alone.
    Chunked,
    /// `identity`, once and alone: none, as RFC 2616 said it.
    Identity,
    /// Anything else.
    Other,
}

impl Declared {
    /// Takes a `Content-Length` field in: one number, or (in answers) equal ones in a list.
    pub(crate) fn content_length(&mut self, value: &[u8]) {
        for number in value.split(|byte| *byte == b',') {
            self.lengths = self.lengths.saturating_add(1);
            let number = number.trim_ascii();
            self.padded |= number.len() > 1 && number.first() == Some(&b'0');
            match parse_length(number) {
                Some(number) if self.length.is_none_or(|before| before == number) => {
                    self.length = Some(number);
                }
                _ => self.length_faulty = true,
            }
        }
    }

    /// Takes a `Transfer-Encoding` field in.
    pub(crate) fn transfer_encoding(&mut self, value: &[u8]) {
        for coding in value.split(|byte| *byte == b',') {
            let coding = coding.trim_ascii();
            self.coding = match self.coding {
                Coding::None if coding.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                Coding::None if coding.eq_ignore_ascii_case(b"identity") => Coding::Identity,
                _ => Coding::Other,
            };
        }
    }

    /// Where a request ends. `Err`: nobody can say so for sure, and a second opinion is a smuggled request; the answer is
    /// 400 and the end of the connection.
    pub(crate) fn request(self, version: Version) -> Result<Framing, &'static str> {
        match self.coding {
            Coding::None => {}
            _ if self.lengths > 0 => return Err("both a length and a transfer coding"),
            // Section 6.1: whoever speaks HTTP/1.0 does not know of codings.
            _ if version == Version::HTTP_10 => return Err("a transfer coding in HTTP/1.0"),
            Coding::Chunked => return Ok(Framing::Chunked),
            Coding::Identity | Coding::Other => return Err("an unknown transfer coding"),
        }
        match self.length {
            _ if self.length_faulty || self.lengths > 1 => Err("not one content-length"),
            None | Some(0) => Ok(Framing::None),
            Some(length) => Ok(Framing::Length(length)),
        }
    }

    /// Where an answer ends.
    pub(crate) fn answer(self, method: &Method, status: StatusCode) -> Result<Framing, &'static str> {
        let bodyless = *method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodyless {
            return Ok(Framing::None);
        }
        match self.coding {
            // A coding overrides a length; `identity` is none, and a server that says it goes by the length like its clients.
            Coding::None | Coding::Identity => {}
            Coding::Chunked => return Ok(Framing::Chunked),
            // It belongs to one hop: nobody could tell the next receiver to undo it, who would take it for the content.
            Coding::Other => return Err("an unknown transfer coding"),
        }
        match self.length {
            _ if self.length_faulty => Err("contradicting content-lengths"),
            Some(0) => Ok(Framing::None),
            Some(length) => Ok(Framing::Length(length)),
            None => Ok(Framing::UntilClose),
        }
    }

    /// Whether length and coding contradict each other: a connection on which that happened is not used again.
    pub(crate) fn is_doubtful(self, version: Version) -> bool {
        self.coding != Coding::None && (self.lengths > 0 || version == Version::HTTP_10)
    }

    /// The one length that was declared, if it is one.
    pub(crate) fn length(self) -> Option<u64> {
        let none = matches!(self.coding, Coding::None | Coding::Identity);
        self.length.filter(|_| !self.length_faulty && none)
    }

    /// Nothing, or one length: nothing that another reader could take for something else.
    pub(crate) fn is_plain(self) -> bool {
        self.lengths <= 1 && !self.length_faulty && !self.padded && self.coding == Coding::None
    }

    /// Whether content was announced. A server that announces it with 204 may send it as well, and by and by it would be
    /// taken for the next answer.
    pub(crate) fn promises_content(self) -> bool {
        self.says_anything() && self.length() != Some(0)
    }

    /// Whether a length or a coding was declared at all.
    pub(crate) fn says_anything(self) -> bool {
        self.lengths > 0 || self.coding != Coding::None
    }
}

/// `1*DIGIT` and no more: no sign, no space, nothing that overflows.
pub(crate) fn parse_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let length = text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    });
    // More has no file, and `h2` and many others count with a sign.
    length.filter(|length| i64::try_from(*length).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(fields: &[(&str, &str)]) -> Declared {
        let mut declared = Declared::default();
        for (name, value) in fields {
            match *name {
                "cl" => declared.content_length(value.as_bytes()),
                _ => declared.transfer_encoding(value.as_bytes()),
            }
        }
        declared
    }

    #[test]
    fn requests() {
        let framing = |fields: &[(&str, &str)]| declared(fields).request(Version::HTTP_11);
        assert_eq!(framing(&[]), Ok(Framing::None));
        assert_eq!(framing(&[("cl", "0")]), Ok(Framing::None));
        assert_eq!(framing(&[("cl", "12")]), Ok(Framing::Length(12)));
        assert_eq!(framing(&[("te", "Chunked")]), Ok(Framing::Chunked));
        for doubt in [
            &[("cl", "5"), ("te", "chunked")][..],
            &[("te", "chunked"), ("cl", "0")],
            &[("cl", "5"), ("cl", "5")],
            &[("cl", "5, 5")],
            &[("cl", "5"), ("cl", "6")],
            &[("cl", "+5")],
            &[("cl", "5 5")],
            &[("cl", "0x5")],
            &[("cl", "")],
            &[("cl", "18446744073709551616")],
            &[("cl", "18446744073709551615")],
            &[("te", "chunked, chunked")],
            &[("te", "chunked"), ("te", "chunked")],
            &[("te", "gzip, chunked")],
            &[("te", "chunked, identity")],
            &[("te", "identity")],
            &[("te", "xchunked")],
            &[("te", "chunked;q=1")],
            &[("te", "\"chunked\"")],
            &[("te", "")],
        ] {
            assert!(framing(doubt).is_err(), "{doubt:?}");
        }
        assert!(declared(&[("te", "chunked")]).request(Version::HTTP_10).is_err());
    }

    #[test]
    fn answers() {
        let get = |fields: &[(&str, &str)]| declared(fields).answer(&Method::GET, StatusCode::OK);
        assert_eq!(get(&[]), Ok(Framing::UntilClose));
        assert_eq!(get(&[("cl", "3")]), Ok(Framing::Length(3)));
        assert_eq!(get(&[("cl", "3"), ("cl", "3")]), Ok(Framing::Length(3)), "equal lengths are one");
        assert_eq!(get(&[("cl", "3, 3")]), Ok(Framing::Length(3)));
        assert_eq!(get(&[("cl", "3"), ("te", "chunked")]), Ok(Framing::Chunked));
        assert!(declared(&[("cl", "3"), ("te", "chunked")]).is_doubtful(Version::HTTP_11));
        assert_eq!(get(&[("te", "identity"), ("cl", "3")]), Ok(Framing::Length(3)));
        assert_eq!(get(&[("te", "identity")]), Ok(Framing::UntilClose));
        assert!(declared(&[("te", "identity"), ("cl", "3")]).is_doubtful(Version::HTTP_11));
        assert!(get(&[("te", "gzip")]).is_err(), "it would arrive as if it were the content");
        assert!(get(&[("te", "chunked, identity")]).is_err());
        assert!(get(&[("cl", "3"), ("cl", "4")]).is_err());
        assert!(get(&[("cl", "-3")]).is_err());
        let length = declared(&[("cl", "3")]);
        assert_eq!(length.answer(&Method::HEAD, StatusCode::OK), Ok(Framing::None));
        for status in [100, 103, 204, 304] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(length.answer(&Method::GET, status), Ok(Framing::None), "{status}");
        }
    }
}
