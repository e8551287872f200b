//! The bodies of the fuzz targets, with what is committed of their corpora and with mutations of that. `WEFT_FUZZ_ROUNDS`
//! says how many of each.

use std::path::Path;

use crate::bodies::{http1_answer, http1_client, http1_request, http1_server};

/// Pieces that mutations are made of.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    " ",
    ":",
    "0\r\n\r\n",
    "5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "Host: h\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.0",
    "hello",
    "\u{0}",
    "\u{e9}",
    ";x",
    "T: v\r\n",
    "ffffffffffffffff\r\n",
];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 20) % most.max(1) as u64).unwrap()
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(input.len() + 1);
            match self.roll(6) {
                0 if at < input.len() => input[at] = self.roll(256) as u8,
                1 if at < input.len() => drop(input.remove(at)),
                2 => drop(input.splice(at..at, WORDS[self.roll(WORDS.len())].bytes())),
                3 => {
                    let end = (at + self.roll(20)).min(input.len());
                    input.drain(at..end);
                }
                4 => {
                    let from = self.roll(other.len() + 1);
                    input.splice(at..at, other[from..].iter().copied().take(60));
                }
                _ if input.len() > 3 => input[self.roll(3)] = self.roll(256) as u8,
                _ => {}
            }
        }
        input.truncate(600);
    }
}

fn replay(target: &str, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs: Vec<Vec<u8>> =
        std::fs::read_dir(corpus).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    inputs.sort();
    assert!(inputs.len() > 2, "{target} has no corpus");
    inputs.iter().for_each(|input| body(input));
    let rounds = std::env::var("WEFT_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300);
    let mut dice =
        Dice(std::env::var("WEFT_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11) | 1);
    for _ in 0..rounds {
        let mut input = inputs[dice.roll(inputs.len())].clone();
        let other = inputs[dice.roll(inputs.len())].clone();
        dice.mutate(&mut input, &other);
        let told = input.clone();
        if std::panic::catch_unwind(move || body(&input)).is_err() {
            panic!("{target}: {:?} = {told:?}", String::from_utf8_lossy(&told));
        }
    }
}

#[test]
fn http1_request_holds_for_its_corpus() {
    replay("http1_request", http1_request);
}

#[test]
fn http1_answer_holds_for_its_corpus() {
    replay("http1_answer", http1_answer);
}

#[test]
fn http1_client_holds_for_its_corpus() {
    replay("http1_client", http1_client);
}

#[test]
fn http1_server_holds_for_its_corpus() {
    replay("http1_server", http1_server);
}
