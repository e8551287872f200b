//! What an application can see of a head and `http`'s types do not hold: how names are written, and reason phrases.
//!
//! Most clients and servers write names in Train-Case, so that is what is written where nothing else is known. All in
//! lower case is one mark. Anything else is told by the names themselves.

use bytes::Bytes;
use http::{HeaderName, StatusCode};

/// How the names of a head were written, where that is not Train-Case throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameCase {
    /// All in lower case.
    Lower,
    /// These were written just so (a comma between them), the others in Train-Case.
    Exact(Bytes),
}

/// The mark for [`NameCase::Lower`] on a mesh link. No name of its own: a name alone in a list says the same.
const LOWER: &[u8] = b"-";

/// Names beyond this are written in Train-Case: a head may not become twice as large on the way.
const MOST_EXACT: usize = 2048;

impl NameCase {
    /// The value that tells it on a mesh link.
    pub(crate) fn to_wire(&self) -> Bytes {
        match self {
            Self::Lower => Bytes::from_static(LOWER),
            Self::Exact(names) => names.clone(),
        }
    }

    /// Reads what a mesh link tells.
    pub(crate) fn from_wire(value: &[u8]) -> Option<Self> {
        if value == LOWER {
            return Some(Self::Lower);
        }
        let names = value.split(|byte| *byte == b',').all(|name| HeaderName::from_bytes(name).is_ok());
        (names && value.len() <= MOST_EXACT).then(|| Self::Exact(Bytes::copy_from_slice(value)))
    }

    fn of<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        let Self::Exact(names) = self else { return None };
        names.split(|byte| *byte == b',').find(|exact| exact.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Finds out how names are written, one after another.
#[derive(Debug)]
pub(super) struct CaseReader {
    all_lower: bool,
    exact: Vec<u8>,
}

/// What an octet of a name is. From a table, for it is asked of every octet of every head.
const KIND: [u8; 256] = {
    let mut kind = [0; 256];
    let mut letter = 0;
    while letter < 26 {
        kind[(b'a' + letter) as usize] = LOWER_LETTER;
        kind[(b'A' + letter) as usize] = UPPER_LETTER;
        letter += 1;
    }
    kind[b'-' as usize] = HYPHEN;
    kind
};
const LOWER_LETTER: u8 = 1;
const UPPER_LETTER: u8 = 2;
const HYPHEN: u8 = 4;

impl CaseReader {
    pub(super) fn new() -> Self {
        Self { all_lower: true, exact: Vec::new() }
    }

    pub(super) fn take(&mut self, name: &[u8]) {
        // What is not in Train-Case: a lower letter at the start or behind a hyphen, an upper one anywhere else.
        let (mut wrong, mut odd, mut seen) = (LOWER_LETTER, 0, 0);
        for byte in name {
            let kind = KIND.get(usize::from(*byte)).copied().unwrap_or(0);
            odd |= kind & wrong;
            seen |= kind;
            wrong = if kind == HYPHEN { LOWER_LETTER } else { UPPER_LETTER };
        }
        self.all_lower &= seen & UPPER_LETTER == 0;
        if odd != 0 && self.exact.len() + name.len() < MOST_EXACT {
            if !self.exact.is_empty() {
                self.exact.push(b',');
            }
            self.exact.extend_from_slice(name);
        }
    }

    pub(super) fn done(self) -> Option<NameCase> {
        match self {
            Self { exact, .. } if exact.is_empty() => None,
            Self { all_lower: true, .. } => Some(NameCase::Lower),
            Self { exact, .. } => Some(NameCase::Exact(exact.into())),
        }
    }
}

/// Writes a name as its sender did.
pub(super) fn write_name(out: &mut Vec<u8>, name: &str, case: Option<&NameCase>) {
    match case {
        Some(NameCase::Lower) => out.extend_from_slice(name.as_bytes()),
        Some(exact) if let Some(name) = exact.of(name) => out.extend_from_slice(name),
        _ => {
            let begin = out.len();
            out.extend_from_slice(name.as_bytes());
            let mut rest = out.get_mut(begin..).unwrap_or_default();
            while let Some((first, others)) = rest.split_first_mut() {
                first.make_ascii_uppercase();
                let hyphen = if *first == b'-' {
                    Some(0)
                } else {
                    others.iter().position(|byte| *byte == b'-').map(|at| at + 1)
                };
                let Some(hyphen) = hyphen else { break };
                rest = others.get_mut(hyphen..).unwrap_or_default();
            }
        }
    }
}

/// A reason phrase other than the usual one for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Bytes);

impl Reason {
    /// A phrase as it came, if it is not the usual one. RFC 9112 section 4: tabs, spaces, visible and 8-bit characters.
    pub(crate) fn new(status: StatusCode, phrase: &[u8]) -> Option<Self> {
        let usual = status.canonical_reason().unwrap_or("").as_bytes() == phrase;
        let legal = phrase.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
        (!usual && legal).then(|| Self(Bytes::copy_from_slice(phrase)))
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case_of(names: &[&str]) -> Option<NameCase> {
        let mut reader = CaseReader::new();
        names.iter().for_each(|name| reader.take(name.as_bytes()));
        reader.done()
    }

    fn written(names: &[&str]) -> Vec<String> {
        let case = case_of(names).map(|case| NameCase::from_wire(&case.to_wire()).unwrap());
        names
            .iter()
            .map(|name| {
                let mut out = Vec::new();
                write_name(&mut out, &name.to_ascii_lowercase(), case.as_ref());
                String::from_utf8(out).unwrap()
            })
            .collect()
    }

    #[test]
    fn names_come_out_as_they_went_in() {
        for names in [
            &["Host", "X-Request-Id", "Content-Type"][..],
            &["host", "x-request-id"],
            &["Host", "x-b3-traceid", "ETag", "WWW-Authenticate", "SOAPAction"],
            &["HOST", "x_y", "1-a"],
            &["l"],
            &["-"],
        ] {
            assert_eq!(written(names), names, "{:?}", case_of(names));
        }
        assert_eq!(case_of(&["Host", "Accept"]), None, "the usual case costs nothing");
        assert_eq!(case_of(&["host", "accept"]), Some(NameCase::Lower));
    }

    #[test]
    fn a_peer_cannot_write_what_is_no_name() {
        for value in ["", "a,,b", "a b", "a\r\nb: c", "a:"] {
            assert_eq!(NameCase::from_wire(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(NameCase::from_wire(&[b'a'; MOST_EXACT + 1]), None);
    }

    #[test]
    fn only_unusual_phrases_are_kept() {
        assert_eq!(Reason::new(StatusCode::OK, b"OK"), None);
        assert_eq!(Reason::new(StatusCode::OK, b"Fine").unwrap().as_bytes(), b"Fine");
        assert_eq!(Reason::new(StatusCode::OK, b"").unwrap().as_bytes(), b"");
        assert_eq!(Reason::new(StatusCode::OK, b"a\r\nb"), None);
        assert_eq!(Reason::new(StatusCode::from_u16(603).unwrap(), b""), None);
    }
}
