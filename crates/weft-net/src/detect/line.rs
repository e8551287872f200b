//! What the most lenient of servers take for a request: one automaton, for detection and for the watch behind it.
//!
//! Every server reads a first line in its own way (RFC 9112 section 3 lets it be lenient), and a line that one refuses is
//! a request to the next. What follows is no grammar of HTTP but the sum of what servers in use were seen to take, each
//! tried with each line (the table is in this module's tests):
//!
//! | what is said | who takes it |
//! |---|---|
//! | `WORD /x`, `WORD scheme:/x`, without any version | llhttp (node, httptools, aiohttp), waitress, `http.server` for `GET` |
//! | `WORD anything HTTP/..`, also behind tabs, a bare CR, 0x1c to 0x1f, 0x85, 0xa0 | Python's, which split as `str` does |
//! | the same with any octets in the word | wsgiref, werkzeug, gevent, eventlet, cheroot |
//! | `WORD * RTSP/1.0`, `ICE/1.0` | llhttp |
//! | `GET key`, `WORD key`, and header fields on the next lines | `http.server` and its kin, waitress |
//! | anything, a space, `/x`, a space, anything up to CR LF | `com.sun.net.httpserver` |
//! | any of it behind empty lines | most |
//!
//! Other protocols share some of these shapes. What they share at the first word and nobody serves without more is
//! followed further until the more is there: `KEYS *` and `GET key` are Redis, and HTTP only if a header field follows.

/// How much of a first line is followed, from the first octet that is no white space. The longest head that a server
/// takes by default is one MiB (Go's `DefaultMaxHeaderBytes`); those without a limit are told by how the line begins.
const WINDOW: u32 = 1 << 20;

/// The header that is not to be forged, for the one server that takes first lines nothing can be told by.
const FORGED: &[u8] = b"x-forwarded-client-cert";

/// What has come of a connection's first octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may still become a request.
    Open,
    /// Some server takes it for a request.
    Http,
    /// No server will.
    Never,
}

/// A connection's beginning, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    part: Part,
    words: Words,
    java: Java,
    seen: u32,
}

/// Where in the beginning it is, for servers whose lines end with LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Nothing but white space and line ends so far.
    Blank,
    /// So many octets of the second version of the PROXY protocol agree.
    Proxy2(u8),
    /// Behind its signature: the octets that remain of the header, and of the address block once that is known.
    Proxy2Rest(u8, u16),
    /// In the first line.
    First,
    /// In the lines behind a first one of two words.
    Fields(Field, bool),
    /// It is a request.
    Http,
    /// It is none.
    Never,
}

impl Beginning {
    pub(super) const NEW: Self =
        Self { part: Part::Blank, words: Words::NEW, java: Java::Method { cr: false, empty: true }, seen: 0 };

    /// Already known to be none.
    pub(super) const NEVER: Self = Self { part: Part::Never, java: Java::Off, ..Self::NEW };

    /// Where it is after these octets.
    pub(super) fn after(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            if self.verdict() != Verdict::Open {
                break;
            }
            self.step(*byte);
        }
        self
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.part, self.java) {
            (Part::Http, _) | (_, Java::Http) => Verdict::Http,
            (Part::Never, Java::Off) => Verdict::Never,
            _ => Verdict::Open,
        }
    }

    fn step(&mut self, byte: u8) {
        self.java = self.java.step(byte);
        self.part = match self.part {
            Part::Blank => self.blank(byte),
            Part::Proxy2(at) if PROXY2.get(usize::from(at)) == Some(&byte) => match at + 1 {
                // Version, command, family and the two octets of a length follow.
                at if usize::from(at) == PROXY2.len() => Part::Proxy2Rest(4, 0),
                at => Part::Proxy2(at),
            },
            Part::Proxy2(at) => self.no_proxy2(at, byte),
            Part::Proxy2Rest(left, length) => self.proxy2(left, length, byte),
            Part::First if byte == b'\n' => self.end_of_first(),
            Part::First => self.words.step(byte),
            Part::Fields(field, fresh) => self.field(field, fresh, byte),
            over => over,
        };
        if matches!(self.part, Part::First | Part::Never) {
            self.seen = self.seen.saturating_add(1);
            if self.seen > WINDOW {
                self.part = Part::Never;
                self.java = if self.java.has_target() { self.java } else { Java::Off };
            }
        }
    }

    fn blank(&mut self, byte: u8) -> Part {
        match byte {
            b'\r' if self.part == Part::Blank && self.java.is_new() => Part::Proxy2(1),
            byte if is_space(byte) => Part::Blank,
            byte => {
                self.words = Words::NEW;
                self.words.step(byte)
            }
        }
    }

    /// The octet differs from the signature, of which so many have come: they were the beginning of something else.
    fn no_proxy2(&mut self, at: u8, byte: u8) -> Part {
        self.part = Part::Blank;
        for said in PROXY2.iter().take(at.into()).skip(4).chain([&byte]) {
            self.part = match self.part {
                Part::Blank if is_space(*said) => Part::Blank,
                Part::Blank => self.blank(*said),
                Part::First if *said == b'\n' => self.end_of_first(),
                Part::First => self.words.step(*said),
                over => over,
            };
        }
        self.part
    }

    /// The first line is whole.
    fn end_of_first(&mut self) -> Part {
        match self.words.end() {
            Ended::Http => Part::Http,
            Ended::Proxy if self.words.are_two() => {
                self.words = Words::NEW;
                Part::Fields(Field::Start, true)
            }
            Ended::Proxy => self.restart(),
            Ended::Two => Part::Fields(Field::Start, false),
            Ended::Other => Part::Never,
        }
    }

    /// What comes now is looked at as if it were the first.
    fn restart(&mut self) -> Part {
        *self = Self::NEW;
        self.part
    }

    /// A line behind a first one of two words; `fresh`, where an empty line came before: to some a request is over then,
    /// and to waitress it was the end of the first line, if that had ended with LF alone.
    fn field(&mut self, field: Field, fresh: bool, byte: u8) -> Part {
        if fresh && byte == b'\n' && self.words.begun > 0 {
            match self.words.end() {
                Ended::Http => return Part::Http,
                Ended::Two => return Part::Fields(Field::Start, false),
                Ended::Proxy | Ended::Other => {}
            }
        } else if fresh && (self.words.begun > 0 || !is_space(byte)) && self.words.step(byte) == Part::Http {
            return Part::Http;
        }
        match field.step(byte) {
            Field::Blank => {
                self.words = Words::NEW;
                Part::Fields(Field::Start, true)
            }
            Field::Named => Part::Http,
            Field::None => Part::Never,
            field => Part::Fields(field, fresh && byte != b'\n'),
        }
    }

    fn proxy2(&mut self, left: u8, length: u16, byte: u8) -> Part {
        match left {
            0 if length <= 1 => self.restart(),
            0 => Part::Proxy2Rest(0, length - 1),
            1 => match (length << 8) | u16::from(byte) {
                0 => self.restart(),
                length => Part::Proxy2Rest(0, length),
            },
            // Version and family count for nothing here, the length begins at zero.
            2 => Part::Proxy2Rest(1, byte.into()),
            left => Part::Proxy2Rest(left - 1, 0),
        }
    }
}

/// The signature of the PROXY protocol's second version. Behind its header, and behind the line of the first version, the
/// connection begins, to a server that is configured so.
const PROXY2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY1: &[u8; 5] = b"PROXY";

/// What some server splits words at: ASCII white space (a bare CR among it), and what Python's `str.split` takes besides
/// in text that was read as Latin-1.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

/// The words of a first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words {
    /// How many have begun; beyond four it does not matter.
    begun: u8,
    /// How many there are where nothing but spaces parts them, as to waitress.
    spaced: u8,
    /// The next octet that is none begins one of those.
    gap: bool,
    /// The last octet belongs to a word.
    in_word: bool,
    /// The first word holds control characters.
    raw: bool,
    /// It holds a lower-case letter.
    lower: bool,
    /// It is [`PROXY1`], so far as it goes; `None`: it is not.
    proxy: Option<u8>,
    target: Target,
    version: Version,
}

/// The second word, while it may be a target that needs no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Start,
    Scheme,
    Colon,
    None,
}

/// The current word, while it may be a version, or the last one, if it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Start,
    /// Capital letters, of which so many are those of `HTTP`; `None`: others.
    Name(Option<u8>),
    /// `HTTP/`, whatever may follow.
    Http,
    Slash,
    Major,
    Dot,
    /// Whole.
    Minor,
    None,
}

/// What a whole first line is.
enum Ended {
    Http,
    /// The PROXY protocol's.
    Proxy,
    /// A request to some if header fields follow.
    Two,
    Other,
}

impl Words {
    const NEW: Self = Self {
        begun: 0,
        spaced: 0,
        gap: true,
        in_word: false,
        raw: false,
        lower: false,
        proxy: Some(0),
        target: Target::Start,
        version: Version::None,
    };

    /// One octet that is no LF.
    fn step(&mut self, byte: u8) -> Part {
        if self.gap && !matches!(byte, b' ' | b'\r') {
            self.spaced = self.spaced.saturating_add(1);
        }
        self.gap = byte == b' ' || (self.gap && byte == b'\r');
        if is_space(byte) {
            let whole = self.in_word && self.version == Version::Minor && !self.raw;
            self.in_word = false;
            return if whole { Part::Http } else { Part::First };
        }
        if !self.in_word {
            self.begun = self.begun.saturating_add(1);
            self.version = Version::Start;
            self.in_word = true;
        }
        if self.begun == 1 {
            self.raw |= byte.is_ascii_control();
            self.lower |= byte.is_ascii_lowercase();
            self.proxy = match self.proxy {
                Some(at) if PROXY1.get(usize::from(at)) == Some(&byte) => Some(at + 1),
                _ => None,
            };
            return Part::First;
        }
        self.version = self.version.step(byte);
        let target = self.begun == 2 && self.target.step(byte);
        if (target || self.version == Version::Http) && !self.raw { Part::Http } else { Part::First }
    }

    fn end(&self) -> Ended {
        match self.version {
            Version::Http => Ended::Http,
            Version::Minor if !self.raw => Ended::Http,
            _ if self.proxy.is_some_and(|at| usize::from(at) == PROXY1.len()) && self.begun > 1 => {
                Ended::Proxy
            }
            _ if self.are_two() && !self.lower && !self.raw => Ended::Two,
            _ => Ended::Other,
        }
    }

    /// There are two words, to some.
    fn are_two(&self) -> bool {
        self.begun == 2 || self.spaced == 2
    }
}

impl Target {
    /// Whether it is one now.
    fn step(&mut self, byte: u8) -> bool {
        *self = match (*self, byte) {
            (Self::Start | Self::Colon, b'/') => return true,
            (Self::Start, _) if byte.is_ascii_alphabetic() => Self::Scheme,
            (Self::Scheme, b'+' | b'-' | b'.') => Self::Scheme,
            (Self::Scheme, b':') => Self::Colon,
            (Self::Scheme, _) if byte.is_ascii_alphanumeric() => Self::Scheme,
            _ => Self::None,
        };
        false
    }
}

impl Version {
    fn step(self, byte: u8) -> Self {
        match self {
            Self::Start if byte == b'H' => Self::Name(Some(1)),
            Self::Start if byte.is_ascii_uppercase() => Self::Name(None),
            Self::Name(Some(4)) if byte == b'/' => Self::Http,
            Self::Name(_) if byte == b'/' => Self::Slash,
            Self::Name(Some(at)) if b"HTTP".get(usize::from(at)) == Some(&byte) => Self::Name(Some(at + 1)),
            Self::Name(_) if byte.is_ascii_uppercase() => Self::Name(None),
            Self::Http => Self::Http,
            Self::Slash | Self::Major if byte.is_ascii_digit() => Self::Major,
            Self::Major if byte == b'.' => Self::Dot,
            Self::Dot | Self::Minor if byte.is_ascii_digit() => Self::Minor,
            _ => Self::None,
        }
    }
}

/// A line behind a first one of two words. Python's parsers skip continuation lines, a line that begins with `From `,
/// and (gevent's) lines with a colon somewhere; whatever else there is ends their header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Start,
    /// At the LF of an empty line.
    Cr,
    /// The line was empty: a request without header fields is over.
    Blank,
    /// In a token, of which so many octets are `From`.
    Name(Option<u8>),
    /// White space behind a token.
    Gap,
    /// Header fields go on behind this line.
    Skip,
    /// They do if a colon comes.
    Colon,
    /// It is a header field.
    Named,
    /// It is none.
    None,
}

impl Field {
    fn step(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Start | Self::Cr, b'\n') => Self::Blank,
            (Self::Start, b'\r') => Self::Cr,
            (Self::Skip, b'\n') => Self::Start,
            (Self::Skip, _) => Self::Skip,
            (Self::Start, b' ' | b'\t') => Self::Skip,
            (Self::Start, b'F') => Self::Name(Some(1)),
            (Self::Start, _) if is_tchar(byte) => Self::Name(None),
            (Self::Name(_) | Self::Gap, b':') => Self::Named,
            (Self::Colon | Self::Start | Self::Cr, b':') => Self::Skip,
            (Self::Name(Some(4)), b' ') => Self::Skip,
            (Self::Name(_) | Self::Gap, b' ' | b'\t') => Self::Gap,
            (Self::Name(Some(at)), _) if b"From".get(usize::from(at)) == Some(&byte) => {
                Self::Name(Some(at + 1))
            }
            (Self::Name(_), _) if is_tchar(byte) => Self::Name(None),
            (_, b'\n') => Self::None,
            _ => Self::Colon,
        }
    }
}

/// The first line as `com.sun.net.httpserver` reads it: up to the first CR LF, a target between the first space and the
/// second, and whatever it likes before and behind. In TLS and other binary protocols a space and a slash may follow each
/// other by chance, so only the header that is not to be forged decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Java {
    /// Before the first space; whether the last octet was CR, and whether there was nothing before it.
    Method {
        cr: bool,
        empty: bool,
    },
    Target(Target),
    /// Behind the target's beginning, and whether the last octet was CR.
    Line {
        cr: bool,
    },
    /// In a line of the header: so many octets of [`FORGED`], or none that matter.
    Header(Option<u8>),
    Http,
    Off,
}

impl Java {
    fn step(self, byte: u8) -> Self {
        match self {
            Self::Method { cr: true, empty: true } if byte == b'\n' => {
                Self::Method { cr: false, empty: true }
            }
            Self::Method { cr: true, .. } if byte == b'\n' => Self::Off,
            Self::Method { .. } if byte == b' ' => Self::Target(Target::Start),
            Self::Method { cr, empty } => {
                Self::Method { cr: byte == b'\r', empty: empty && !cr && byte == b'\r' }
            }
            // It decodes what is encoded, and a slash may be.
            Self::Target(Target::Start) if byte == b'%' => Self::Line { cr: false },
            Self::Target(mut target) => match target.step(byte) {
                true => Self::Line { cr: false },
                false if target == Target::None => Self::Off,
                false => Self::Target(target),
            },
            Self::Line { cr: true } if byte == b'\n' => Self::Header(Some(0)),
            Self::Line { .. } => Self::Line { cr: byte == b'\r' },
            Self::Header(_) if matches!(byte, b'\n' | b'\r') => Self::Header(Some(0)),
            Self::Header(Some(0)) if matches!(byte, b' ' | b'\t') => self,
            Self::Header(Some(at)) => match FORGED.get(usize::from(at)) {
                // Whatever CGI maps to the same: see weft-http's `is_internal`.
                Some(b'-') if !byte.is_ascii_alphanumeric() && byte != b':' => Self::Header(Some(at + 1)),
                Some(wanted) if byte.eq_ignore_ascii_case(wanted) => {
                    if usize::from(at) + 1 == FORGED.len() {
                        Self::Http
                    } else {
                        Self::Header(Some(at + 1))
                    }
                }
                _ => Self::Header(None),
            },
            Self::Header(None) | Self::Http | Self::Off => self,
        }
    }

    /// Nothing but empty lines and half of one has come.
    fn is_new(self) -> bool {
        matches!(self, Self::Method { cr: true, empty: true })
    }

    /// It is followed for as long as it takes.
    fn has_target(self) -> bool {
        matches!(self, Self::Line { .. } | Self::Header(_) | Self::Http)
    }
}

/// A character of a token (RFC 9110 section 5.6.2).
pub(super) fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
