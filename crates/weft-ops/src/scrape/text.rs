//! The Prometheus text format, version 0.0.4, read.
//!
//! Only samples are kept; HELP, TYPE, comments and timestamps are passed over. A line that cannot be read refuses the page:
//! half a page would be told as if it were the whole.

use std::iter::Peekable;
use std::str::Chars;

/// One line: a name, labels in the order of the page, a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name, with `_bucket`, `_sum` or `_count` in a histogram.
    pub name: String,
    /// Names and values of labels, unescaped.
    pub labels: Vec<(String, String)>,
    /// The value; may be infinite or not a number.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty where there is none, which means the same to Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// A page of metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Every sample, in the order of the page.
    pub samples: Vec<Sample>,
}

/// Why a page cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct PageError {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// [`PageError`] with the first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, PageError> {
        let mut samples = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            samples.push(sample(line).map_err(|reason| PageError { line: index + 1, reason })?);
        }
        Ok(Self { samples })
    }

    /// The samples of a name.
    pub fn of<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

fn sample(line: &str) -> Result<Sample, &'static str> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace()).ok_or("there is no value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("the name is none");
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => {
            // Blanks may stand between the name and its labels.
            let rest = rest.trim_start();
            match rest.strip_prefix('{') {
                Some(rest) => labels(rest)?,
                None => (Vec::new(), rest),
            }
        }
    };
    let mut words = rest.split_whitespace();
    let value = words.next().and_then(number).ok_or("the value is no number")?;
    if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
        return Err("there is something behind the value");
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// `+Inf`, `-Inf` and `NaN`, or what Go and Rust agree on.
fn number(word: &str) -> Option<f64> {
    word.parse().ok()
}

fn is_name(name: &str, colons: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// Names and values, and what comes after them.
type Labels<'t> = (Vec<(String, String)>, &'t str);

/// Labels without their opening brace; and what follows the closing one.
fn labels(text: &str) -> Result<Labels<'_>, &'static str> {
    let mut labels = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once('=').ok_or("a label has no value")?;
        let name = name.trim();
        if !is_name(name, false) {
            return Err("the name of a label is none");
        }
        let quoted = after.trim_start().strip_prefix('"').ok_or("the value of a label has no quotes")?;
        let (value, after) = quoted_text(quoted)?;
        labels.push((name.to_owned(), value));
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with('}') => {}
            None => return Err("labels do not end"),
        }
    }
}

/// A label's value without its opening quote, unescaped; and what follows the closing one.
fn quoted_text(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars: Peekable<Chars<'_>> = text.chars().peekable();
    let mut length = 0;
    while let Some(c) = chars.next() {
        length += c.len_utf8();
        match c {
            '"' => return Ok((value, text.get(length..).unwrap_or_default())),
            '\\' => {
                let escaped = chars.next().ok_or("the value of a label does not end")?;
                length += escaped.len_utf8();
                match escaped {
                    'n' => value.push('\n'),
                    '\\' | '"' => value.push(escaped),
                    // As Prometheus does.
                    other => value.extend(['\\', other]),
                }
            }
            c => value.push(c),
        }
    }
    Err("the value of a label does not end")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_is_read() {
        let text = "# HELP a Of \\\\ things\n# TYPE a counter\na 1\na_bucket{le=\"+Inf\",x=\"q\\\"\\\\\\n{},=\"} +Inf 17\n\n\
                    b { c = \"d\" , } -1e3\nnan{} NaN\n";
        let page = Page::parse(text).unwrap();
        assert_eq!(page.samples.len(), 4);
        assert_eq!(page.samples[0], Sample { name: "a".into(), labels: vec![], value: 1.0 });
        assert_eq!((page.samples[1].label("le"), page.samples[1].label("x")), ("+Inf", "q\"\\\n{},="));
        assert!(page.samples[1].value.is_infinite() && page.samples[3].value.is_nan());
        assert_eq!((page.samples[2].label("c"), page.samples[2].value), ("d", -1000.0));
        assert_eq!(page.samples[2].label("none"), "");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for line in [
            "a",
            "a x",
            "1a 1",
            "a{ 1",
            "a{b} 1",
            "a{b=c} 1",
            "a{b=\"c} 1",
            "a{b=\"c\" d=\"e\"} 1",
            "a{b=\"c\\",
            "a 1 2 3",
            "a 1 x",
            "a{b-c=\"d\"} 1",
            "{} 1",
        ] {
            let error = Page::parse(&format!("ok 1\n{line}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{line}: {error}");
        }
    }

    #[test]
    fn what_weft_writes_is_read() {
        use weft_telemetry::Registry;
        use weft_telemetry::metrics::{BuildInfo, register_process};
        let registry = Registry::default();
        register_process(&registry, BuildInfo { version: "1.2", revision: "\"\\", rustc: "x" });
        let mut text = String::new();
        registry.encode(&mut text);
        let page = Page::parse(&text).unwrap();
        let build = page.of("weft_build_info").next().unwrap();
        assert_eq!((build.label("version"), build.label("revision"), build.value), ("1.2", "\"\\", 1.0));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[a-z{}=\",\\\\\n #0-9.é]{0,200}") {
            let _ = Page::parse(&text);
        }

        #[test]
        fn any_label_comes_back(value in any::<String>(), number in any::<f64>()) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let page = Page::parse(&format!("m{{l=\"{escaped}\"}} {number}"));
            // A carriage return at a line's end, or another line separator, is not escaped by the format.
            prop_assume!(!value.contains('\r'));
            let page = page.unwrap();
            prop_assert_eq!(page.samples[0].label("l"), value.as_str());
            prop_assert!(page.samples[0].value == number || number.is_nan());
        }
    }
}
