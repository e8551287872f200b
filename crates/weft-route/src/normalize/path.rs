//! The one form of a path.

use std::borrow::Cow;

/// Why a path is refused. The answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NotRooted,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits behind it")]
    BrokenCode,
    /// A control character or a space, encoded or not (an encoded space is fine).
    #[error("the path has a control character or a space")]
    Control,
    /// `\`, which some take for `/`, or `#`.
    #[error("the path has a `\\` or `#`")]
    Forbidden,
    /// `..` that leads above the root.
    #[error("the path leads above its root")]
    AboveRoot,
    /// A step up that one reader sees and another does not, such as `..%2F` or `..;`.
    #[error("the path has a `.` or `..` that not every reader takes for one")]
    HiddenStep,
}

/// Path and query of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// In its one form.
    pub path: Cow<'a, str>,
    /// What stands behind the first `?`, as it came.
    pub query: Option<&'a str>,
}

/// Path and query of an origin-form target (RFC 9112 section 3.2.1). An empty path is `/`, as it is in absolute-form.
///
/// # Errors
/// See [`path`].
pub fn target(raw: &str) -> Result<Target<'_>, BadPath> {
    let (raw, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    if query.is_some_and(|query| query.bytes().any(|b| b <= b' ' || b == 0x7f)) {
        return Err(BadPath::Control);
    }
    if query.is_some_and(|query| query.contains('#')) {
        return Err(BadPath::Forbidden);
    }
    let path = if raw.is_empty() { Cow::Borrowed("/") } else { path(raw)? };
    Ok(Target { path, query })
}

/// The one form of a path:
///
/// - Encoded letters, digits, `-`, `.`, `_` and `~` are decoded (RFC 3986 section 6.2.2.2: they mean the same); other codes stay, with
///   upper-case digits. What may not stand in a path unencoded, such as `{` or a letter beyond ASCII, is encoded.
/// - Several slashes are one: most servers take them for one, and `//admin` must not slip past what is said of `/admin`.
/// - `.` and `..` are resolved (RFC 3986 section 5.2.4), encoded dots among them. Above the root there is nothing: 400.
/// - `%2F` and `%5C` stay encoded, as data within an element. `;` stays.
/// - Refused: `\`, `#`, control characters in either form, broken codes; and a `.` or `..` that only shows to one who takes
///   `%2F`, `%5C` or `\` for a slash or cuts an element at `;` (`/a/..%2Fb`, `/a/..;/b`).
///
/// # Errors
/// The path has no such form.
pub fn path(raw: &str) -> Result<Cow<'_, str>, BadPath> {
    if !raw.starts_with('/') {
        return Err(BadPath::NotRooted);
    }
    match is_normal(raw.as_bytes()) {
        true => Ok(Cow::Borrowed(raw)),
        false => rebuilt(raw).map(Cow::Owned),
    }
}

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It stays.
    Plain,
    /// `/`.
    Slash,
    /// `%`.
    Code,
    /// It has to be encoded.
    Encode,
    /// It is refused.
    Refuse(BadPath),
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut table = [Class::Encode; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        table[at] = match byte {
            b'/' => Class::Slash,
            b'%' => Class::Code,
            b'\\' | b'#' => Class::Refuse(BadPath::Forbidden),
            0..=b' ' | 0x7f => Class::Refuse(BadPath::Control),
            // RFC 3986 section 3.3, "pchar".
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => Class::Plain,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' => Class::Plain,
            b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => Class::Plain,
            _ => Class::Encode,
        };
        at += 1;
    }
    table
}

fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Encode)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The byte that a code at the start of a text stands for.
fn code(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let byte = digit(1)? * 16 + digit(2)?;
    u8::try_from(byte).ok()
}

/// Whether a path is in its one form already, where that shows at one glance.
fn is_normal(bytes: &[u8]) -> bool {
    let mut before = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let fine = match class(*byte) {
            Class::Plain => {
                !(*byte == b'.' && before == b'/' && begins_with_step(bytes.get(at..).unwrap_or_default()))
            }
            Class::Slash => before != b'/',
            Class::Code | Class::Encode | Class::Refuse(_) => false,
        };
        if !fine {
            return false;
        }
        before = *byte;
    }
    true
}

/// Whether an element at the start of a text is `.` or `..`, perhaps with a parameter.
fn begins_with_step(text: &[u8]) -> bool {
    let dots = text.iter().take_while(|b| **b == b'.').count();
    dots <= 2 && text.get(dots).is_none_or(|b| matches!(b, b'/' | b';'))
}

fn rebuilt(raw: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut element = String::new();
    let mut last = "";
    for part in raw.split('/').skip(1) {
        last = part;
        element.clear();
        rewrite_element(part, &mut element)?;
        last = match element.as_str() {
            "" | "." => "",
            ".." => {
                out.truncate(out.rfind('/').ok_or(BadPath::AboveRoot)?);
                ""
            }
            step if has_hidden_step(step) => return Err(BadPath::HiddenStep),
            kept => {
                out.push('/');
                out.push_str(kept);
                last
            }
        };
    }
    // What ends in a slash, or in a step, is a directory.
    if last.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// One element with its codes in their one form.
fn rewrite_element(part: &str, out: &mut String) -> Result<(), BadPath> {
    let bytes = part.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match class(*byte) {
            Class::Refuse(why) => return Err(why),
            Class::Plain | Class::Slash => out.push(char::from(*byte)),
            Class::Encode => push_code(out, *byte),
            Class::Code => {
                let decoded = code(bytes.get(at - 1..).unwrap_or_default()).ok_or(BadPath::BrokenCode)?;
                at += 2;
                match decoded {
                    _ if is_unreserved(decoded) => out.push(char::from(decoded)),
                    0..=0x1f | 0x7f => return Err(BadPath::Control),
                    _ => push_code(out, decoded),
                }
            }
        }
    }
    Ok(())
}

fn push_code(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| DIGITS.get(usize::from(*digit))));
}

/// Whether one who takes an encoded slash or backslash for a slash, or cuts elements at `;`, sees a step here. Codes are in their one form.
fn has_hidden_step(element: &str) -> bool {
    if !element.contains('.') {
        return false;
    }
    let mut pieces = element.split("%2F").flat_map(|piece| piece.split("%5C"));
    pieces.any(|piece| {
        let name = piece.split(';').next().unwrap_or_default();
        let name = name.split("%3B").next().unwrap_or_default();
        matches!(name, "." | "..")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_in_its_form_is_borrowed() {
        for raw in
            ["/", "/a", "/a/b/", "/.well-known/x", "/a..b/...", "/a;v=1/b", "/!$&'()*+,;=:@-._~", "/a./b"]
        {
            assert!(matches!(path(raw), Ok(Cow::Borrowed(same)) if same == raw), "{raw}");
        }
    }

    #[test]
    fn brings_paths_into_one_form() {
        for (raw, form) in [
            ("/%61%2D%7e", "/a-~"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a%20b%3f", "/a%20b%3F"),
            ("/a{b}|\"<>^`", "/a%7Bb%7D%7C%22%3C%3E%5E%60"),
            ("/ü", "/%C3%BC"),
            ("/%c3%bc", "/%C3%BC"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/.", "/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a//../b", "/b"),
            ("/%2ewell-known", "/.well-known"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a%3Bb", "/a%3Bb"),
            ("/..a", "/..a"),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(form), "{raw}");
        }
    }

    #[test]
    fn refuses_what_has_no_form() {
        for (raw, why) in [
            ("", BadPath::NotRooted),
            ("a", BadPath::NotRooted),
            ("*", BadPath::NotRooted),
            ("http://a/", BadPath::NotRooted),
            ("/%", BadPath::BrokenCode),
            ("/%4", BadPath::BrokenCode),
            ("/%zz", BadPath::BrokenCode),
            ("/%+1", BadPath::BrokenCode),
            ("/a b", BadPath::Control),
            ("/%00", BadPath::Control),
            ("/%0d%0a", BadPath::Control),
            ("/%7F", BadPath::Control),
            ("/a\\b", BadPath::Forbidden),
            ("/a#b", BadPath::Forbidden),
            ("/..", BadPath::AboveRoot),
            ("/a/../../b", BadPath::AboveRoot),
            ("/%2e%2e/", BadPath::AboveRoot),
            ("/a/..%2Fb", BadPath::HiddenStep),
            ("/a/..%5cb", BadPath::HiddenStep),
            ("/a/x%2f..", BadPath::HiddenStep),
            ("/a/..;/b", BadPath::HiddenStep),
            ("/a/.;x=1/b", BadPath::HiddenStep),
            ("/a/..%3b/b", BadPath::HiddenStep),
            ("/a/%2e%2e%2fb", BadPath::HiddenStep),
        ] {
            assert_eq!(path(raw), Err(why), "{raw}");
        }
    }

    #[test]
    fn every_code_is_decoded_kept_or_refused() {
        for byte in 0..=255_u8 {
            let found = path(&format!("/x%{byte:02x}y")).map(Cow::into_owned);
            let form = match byte {
                0..=0x1f | 0x7f => Err(BadPath::Control),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    Ok(format!("/x{}y", char::from(byte)))
                }
                _ => Ok(format!("/x%{byte:02X}y")),
            };
            assert_eq!(found, form, "{byte:02x}");
        }
    }

    #[test]
    fn a_target_keeps_its_query() {
        let split = |raw| target(raw).map(|target| (target.path.into_owned(), target.query));
        assert_eq!(split("/a/../b?x=/../&y=%2e"), Ok(("/b".to_owned(), Some("x=/../&y=%2e"))));
        assert_eq!(split("?x"), Ok(("/".to_owned(), Some("x"))));
        assert_eq!(split(""), Ok(("/".to_owned(), None)));
        assert_eq!(split("/a?b#c"), Err(BadPath::Forbidden));
        assert_eq!(split("/a?b c"), Err(BadPath::Control));
    }

    /// The same in slow steps: decode, split, resolve.
    fn naive(raw: &str) -> Option<String> {
        let rest = raw.strip_prefix('/')?;
        let mut elements: Vec<String> = vec![String::new()];
        let mut bytes = rest.bytes();
        while let Some(byte) = bytes.next() {
            let (byte, coded) = match byte {
                b'/' => {
                    elements.push(String::new());
                    continue;
                }
                b'%' => {
                    let digits = [bytes.next()?, bytes.next()?];
                    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
                    let digits = std::str::from_utf8(&digits).ok().filter(|_| is_hex)?;
                    (u8::from_str_radix(digits, 16).ok()?, true)
                }
                b' ' | b'\\' | b'#' => return None,
                other => (other, false),
            };
            if byte < 0x20 || byte == 0x7f {
                return None;
            }
            let stays = if coded { "-._~" } else { "-._~!$&'()*+,;=:@" };
            let plain = byte.is_ascii_alphanumeric() || stays.contains(char::from(byte));
            let text = if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            elements.last_mut()?.push_str(&text);
        }
        let slash_last = elements.last().is_none_or(|last| matches!(last.as_str(), "" | "." | ".."));
        let mut kept: Vec<String> = Vec::new();
        for element in elements {
            match element.as_str() {
                "" | "." => {}
                ".." => drop(kept.pop()?),
                _ => {
                    let seen = element.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
                    let step = |piece: &str| matches!(piece.split(';').next(), Some("." | ".."));
                    if seen.split('/').any(step) {
                        return None;
                    }
                    kept.push(element);
                }
            }
        }
        let end = if slash_last && !kept.is_empty() { "/" } else { "" };
        Some(format!("/{}{end}", kept.join("/")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn agrees_with_the_slow_steps(raw in "/?([a-c./;%\\\\]|%2[eEfF]|%5[cC]|%3[bB]|%61|%00|\\.\\.|//|ü|\\{| ){0,12}") {
            prop_assert_eq!(path(&raw).ok().map(Cow::into_owned), naive(&raw));
        }

        #[test]
        fn a_form_is_its_own_form(raw in "/([a-c./;]|%2[eEfF]|%5[cC]|%61|%25|\\.\\.|//|ü){0,12}") {
            if let Ok(form) = path(&raw) {
                prop_assert_eq!(path(&form).map(Cow::into_owned), Ok(form.to_string()));
                prop_assert!(form.starts_with('/') && !form.contains("//") && form.is_ascii());
                prop_assert!(!form.split('/').any(|element| element == "." || element == ".."));
            }
        }
    }
}
