//! Numbers in sentences.

/// `1 node`, `2 nodes`: a number and what it counts.
pub(crate) fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// `is` or `are`, for the number that goes before.
pub(crate) fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// `has` or `have`.
pub(crate) fn have(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one() {
        let say = |count| format!("{} {}", counted(count, "node", "nodes"), are(count));
        assert_eq!(
            (say(0), say(1), say(2)),
            ("0 nodes are".into(), "1 node is".into(), "2 nodes are".into())
        );
        assert_eq!((have(1), have(3)), ("has", "have"));
    }
}
