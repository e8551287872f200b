//! How much memory a review will take, told before any of it is taken.
//!
//! A tree of JSON is larger than its text: `[{"":0},...]` takes a hundred times its octets, since each object has a node
//! of its own. So the tokens are counted first, without building anything, and what the tree and its copies will take is
//! reserved from the budget. The count may be too high, never too low; a test holds it against an allocator that counts.

use serde_json::Value;

/// As deep as `serde_json` reads. A pod is 20 deep, with its managed fields.
const MAX_DEPTH: usize = 128;
/// One entry of a list.
const SLOT: usize = size_of::<Value>();
/// A list begins with room for four entries, and doubles: at the moment of the move it is there three times over.
const FIRST_ENTRY: usize = 4 * SLOT;
const NEXT_ENTRY: usize = 3 * SLOT;
/// A node of an object has room for eleven entries, key and value, and is split when it is full: five are left in it at
/// least. The eighth part on top is for the nodes above.
const NODE: usize = 11 * (size_of::<String>() + SLOT) * 9 / 8;
const ENTRIES_OF_NODE: usize = 5;
/// What is added to a pod, however small that is.
const ADDED: usize = 64 << 10;
/// What an allocation is rounded up to.
const ROUNDED: usize = 16;
/// A text beside its octets: what is rounded up, and its part of what is told of it where it is wrong.
const TEXT: usize = 3 * ROUNDED;
/// How often the tree is there at the worst moment: as it came, as it is read into types (twice, for a moment), as it is
/// sent back; a probe also as it is kept for the way back, and as the proxy is told of it.
const COPIES: usize = 6;
/// The same for the octets of texts, and for those of them that are escaped when they are written: a probe's three times
/// over, in JSON within JSON within JSON.
const TEXT_COPIES: usize = 12;
const ESCAPED_COPIES: usize = 96;

/// The octets of memory that it takes at most to answer the review whose JSON this is, beside that JSON itself.
///
/// # Errors
/// Where it is nested deeper than anything that the API server sends.
pub fn weigh(json: &[u8]) -> Result<usize, String> {
    let mut open: Vec<Open> = Vec::with_capacity(MAX_DEPTH);
    let (mut tree, mut text) = (0_usize, 0_usize);
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let (end, escaped) = end_of_text(json, at);
                if end > at {
                    tree += TEXT;
                    text += (end - at).next_multiple_of(ROUNDED) * TEXT_COPIES + escaped * ESCAPED_COPIES;
                }
                at = end + 1;
            }
            b'{' | b'[' => {
                if open.len() == MAX_DEPTH {
                    return Err(format!("this is not an AdmissionReview: nested deeper than {MAX_DEPTH}"));
                }
                let mut begun = Open { object: *byte == b'{', entries: 0 };
                if !is_closed_at(json, at) {
                    tree += begun.entry();
                }
                open.push(begun);
            }
            b',' => tree += open.last_mut().map_or(0, Open::entry),
            b'}' | b']' => drop(open.pop()),
            _ => {}
        }
    }
    Ok(ADDED + tree * COPIES + text)
}

/// An object or a list that has begun.
struct Open {
    object: bool,
    entries: usize,
}

impl Open {
    /// What one more entry takes.
    fn entry(&mut self) -> usize {
        let before = self.entries;
        self.entries += 1;
        match (self.object, before) {
            (true, before) if before.is_multiple_of(ENTRIES_OF_NODE) => NODE,
            (true, _) => 0,
            (false, 0) => FIRST_ENTRY,
            (false, _) => NEXT_ENTRY,
        }
    }
}

/// Where the text that begins at `at` ends, at its quotation mark or at the end of everything, and how many of its octets
/// may have to be escaped.
fn end_of_text(json: &[u8], mut at: usize) -> (usize, usize) {
    let mut escaped = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return (at, escaped),
            b'\\' => {
                escaped += 2;
                at += 2;
            }
            0x7f.. => {
                escaped += 1;
                at += 1;
            }
            _ => at += 1,
        }
    }
    (json.len(), escaped)
}

/// Whether the next octet that counts closes what was just opened.
fn is_closed_at(json: &[u8], at: usize) -> bool {
    let rest = json.get(at..).unwrap_or_default();
    rest.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| matches!(byte, b'}' | b']'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_empty_weighs_nothing_and_objects_weigh_most() {
        for empty in ["", "{}", "[]", "null", "{ \n}", "\"\"", "12", "}", "]]]", "\\", "\""] {
            assert_eq!(weigh(empty.as_bytes()), Ok(ADDED), "{empty}");
        }
        let more = |json: &[u8]| weigh(json).unwrap() - ADDED;
        assert_eq!(more(b"[0,0,0]"), (FIRST_ENTRY + 2 * NEXT_ENTRY) * COPIES);
        assert_eq!(more(br#"{"":0,"":[]}"#), NODE * COPIES);
        // Six entries need a second node.
        assert_eq!(more(br#"{"":0,"":0,"":0,"":0,"":0,"":0}"#), 2 * NODE * COPIES);
        // What stands in a text is no token, also behind an escaped quotation mark.
        let text = br#""{[,\",,,\\""#;
        assert_eq!(more(text), TEXT * COPIES + ROUNDED * TEXT_COPIES + 4 * ESCAPED_COPIES);
    }

    #[test]
    fn depth_is_bounded() {
        assert!(weigh("[".repeat(MAX_DEPTH).as_bytes()).is_ok());
        let told = weigh("[".repeat(MAX_DEPTH + 1).as_bytes()).unwrap_err();
        assert!(told.contains("deeper than 128"), "{told}");
    }

    proptest! {
        /// Whatever comes in, it ends, and more text never weighs less.
        #[test]
        fn any_octets_are_weighed(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let whole = weigh(&octets);
            let half = weigh(&octets[..octets.len() / 2]);
            if let (Ok(whole), Ok(half)) = (whole, half) {
                prop_assert!(whole >= half);
            }
        }
    }
}
