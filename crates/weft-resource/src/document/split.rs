//! A text to its documents.
//!
//! YAML forbids a line that begins with `---` or `...` and goes on with a space or ends there within any document, in whatever scalar
//! it stands (YAML 1.2.2, section 9.1.4 and `c-forbidden`). So the cut needs no parser, and a document whose syntax is broken ends where
//! the next one begins.

/// One document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'t> {
    /// The line of the file that is its first.
    pub(crate) first_line: u32,
    /// Its text, with the line of its `---`.
    pub(crate) text: &'t str,
}

/// The documents that say anything.
pub(crate) fn split(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    // Some editors begin a file with a byte order mark.
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    let chunks = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut end, mut lines) = (0, 0);
        for (index, this) in rest.split_inclusive('\n').enumerate() {
            let is_begin = is_marker(this, "---");
            if is_begin && index > 0 {
                break;
            }
            end += this.len();
            lines += 1;
            if is_marker(this, "...") {
                break;
            }
        }
        let (chunk, tail) = rest.split_at(end);
        let chunk = Chunk { first_line: line, text: chunk };
        (rest, line) = (tail, line + lines);
        Some(chunk)
    });
    chunks.filter(|chunk| !is_empty(chunk.text))
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether there is nothing but comments, markers and directives.
fn is_empty(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.strip_prefix("---").filter(|_| is_marker(line, "---")).unwrap_or(line);
        let said = line.trim_start();
        said.is_empty() || said.starts_with('#') || line.starts_with('%') || is_marker(line, "...")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(u32, &str)> {
        split(text).map(|chunk| (chunk.first_line, chunk.text)).collect()
    }

    #[test]
    fn documents_end_at_markers_and_nowhere_else() {
        for (text, documents) in [
            ("a: 1\n", vec![(1, "a: 1\n")]),
            ("\u{feff}a: 1", vec![(1, "a: 1")]),
            ("---\na: 1\n---\nb: 2\n", vec![(1, "---\na: 1\n"), (3, "---\nb: 2\n")]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![(1, "a: 1\r\n"), (2, "---\r\nb: 2\r\n")]),
            ("# only\n---\n\n---\n--- # twice\na: 1\n", vec![(5, "--- # twice\na: 1\n")]),
            ("%YAML 1.2\n---\na: 1\n...\nb: 2\n", vec![(2, "---\na: 1\n...\n"), (5, "b: 2\n")]),
            ("a: |\n  --- x\n  ---\n", vec![(1, "a: |\n  --- x\n  ---\n")]),
            ("-----BEGIN\n----\n---x\n", vec![(1, "-----BEGIN\n----\n---x\n")]),
            ("--- {a: 1}\n---\tb\n", vec![(1, "--- {a: 1}\n"), (2, "---\tb\n")]),
            ("", vec![]),
            ("\n# a\n---\n...\n", vec![]),
        ] {
            assert_eq!(cut(text), documents, "{text:?}");
        }
    }
}
