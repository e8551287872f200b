//! The body of the fuzz target `program`, with its corpus and with mutations of that. `WEFT_FUZZ_ROUNDS` says how many.

#[path = "../../../fuzz/bodies/program.rs"]
mod bodies;

use std::path::Path;

/// Pieces that mutations are made of.
const WORDS: &[&str] = &[
    "\n---\n",
    "*",
    "*.",
    "/",
    "//",
    "/..",
    "%2f",
    "%00",
    "0",
    "1",
    "65536",
    "-1",
    "null",
    "{}",
    "[]",
    "\"\"",
    "Exact",
    "RegularExpression",
    "PathPrefix",
    "ReplaceFullPath",
    "ReplacePrefixMatch",
    "https",
    "http",
    "TCP",
    "HTTPS",
    "HTTP",
    "TLS",
    "Passthrough",
    "Terminate",
    "shop",
    "infra",
    "team",
    "edge",
    "orders",
    "a.shop.test",
    "grpc.test",
    "weight: 0",
    "weight: 1000000",
    "port: 80",
    "(",
    "(a|b)*c",
    "^$",
    "Service",
    "Gateway",
    "Backend",
    "kind: List\nitems:\n",
    "1970-01-01T00:00:00Z",
    "h2",
    "tcp",
    "\u{e9}",
];

fn corpus() -> Vec<String> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut texts = Vec::new();
    for of in ["program", "resources"] {
        for file in std::fs::read_dir(fuzz.join(of)).unwrap() {
            texts.push(String::from_utf8(std::fs::read(file.unwrap().path()).unwrap()).unwrap());
        }
    }
    texts.sort();
    assert!(texts.len() >= 14, "the corpora are there");
    texts
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 20) % most.max(1) as u64).unwrap()
    }

    /// A place in a text where it may be cut.
    fn place(&mut self, text: &str) -> usize {
        let at = self.roll(text.len() + 1);
        (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
    }

    fn mutate(&mut self, text: &mut String, other: &str) {
        for _ in 0..=self.roll(4) {
            let (at, end) = (self.place(text), self.place(text));
            let (at, end) = (at.min(end), at.max(end));
            match self.roll(5) {
                0 => text.insert_str(at, WORDS[self.roll(WORDS.len())]),
                // One word in place of another leaves most of a document as it is.
                1 | 2 => {
                    let begin = text[..at].rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
                    if text.is_char_boundary(begin) {
                        let end = text[at..]
                            .find(|c: char| !c.is_ascii_alphanumeric())
                            .map_or(text.len(), |end| at + end);
                        text.replace_range(begin..end, WORDS[self.roll(WORDS.len())]);
                    }
                }
                3 => {
                    let end =
                        (at..=end.min(at + 30)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(at);
                    text.replace_range(at..end, "");
                }
                _ => {
                    text.push_str("\n---\n");
                    text.push_str(other);
                }
            }
        }
    }
}

#[test]
fn any_documents_compile_to_what_answers() {
    let corpus = corpus();
    corpus.iter().for_each(|text| bodies::program(text));
    // All together they are one program, which has something to ask.
    bodies::program(&corpus.join("\n---\n"));
    let rounds = std::env::var("WEFT_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(400);
    let mut dice =
        Dice(std::env::var("WEFT_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11) | 1);
    for _ in 0..rounds {
        let mut text = corpus[dice.roll(corpus.len())].clone();
        let other = corpus[dice.roll(corpus.len())].clone();
        dice.mutate(&mut text, &other);
        let input = text.clone();
        if std::panic::catch_unwind(move || bodies::program(&input)).is_err() {
            panic!("{text}");
        }
    }
}
