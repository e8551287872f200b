//! The client: one connection, one script.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::{Message, answers, requests};
use super::server::contains;
use super::step::{Ending, Line, Script, Step};

/// Longer than any step takes that is not waited for in vain.
const PATIENCE: Duration = Duration::from_secs(4);

/// Silence after which nothing more is expected, once all that is known to come has come.
const QUIET: Duration = Duration::from_millis(300);

/// What a client sent and got.
#[derive(Debug, Clone, Default)]
pub struct ClientRecord {
    /// Every byte of the script that is sent.
    pub sent: Vec<u8>,
    /// Every byte that came.
    pub got: Vec<u8>,
    /// How the connection stands.
    pub ending: Ending,
    /// What a step failed at.
    pub note: Option<String>,
}

impl ClientRecord {
    /// The answers, and what is left behind the last of them.
    pub fn answers(&self) -> (Vec<Message>, Vec<u8>) {
        answers(&self.got, &methods(&self.sent), self.ending == Ending::Closed)
    }

    /// Whether as much has come as there.
    fn reaches(&self, other: &Self) -> bool {
        let count = |record: &Self| {
            let (answers, rest) = record.answers();
            (answers.iter().filter(|answer| answer.whole).count(), answers.len(), !rest.is_empty())
        };
        count(self) >= count(other) && (other.ending == Ending::Open || self.ending == other.ending)
    }
}

fn methods(sent: &[u8]) -> Vec<String> {
    let (requests, _) = requests(sent, false);
    let method = |request: &Message| request.start.split(' ').next().unwrap_or_default().to_owned();
    requests.iter().map(method).collect()
}

/// Connects, does what the script says, and listens until nothing more comes: until the connection ends or, where it stays open,
/// until it has been quiet for a moment while the server had nothing to do (`idle`). With a `goal`, which is what another client
/// got that did the same, it waits until as much has come, so that a slow path is not taken for another answer.
///
/// # Errors
/// Nobody takes the connection.
pub async fn talk(
    to: SocketAddr,
    script: &Script,
    goal: Option<&ClientRecord>,
    idle: impl Fn() -> bool,
) -> Result<ClientRecord> {
    let stream =
        timeout(PATIENCE, TcpStream::connect(to)).await.context("connecting")?.context("connecting")?;
    let mut line = Line::new(stream);
    let mut record = ClientRecord::default();
    for step in script {
        if let Step::Say(bytes) | Step::Drip(bytes) = step {
            record.sent.extend_from_slice(bytes);
        }
    }
    let mut seen = 0;
    for step in script {
        if matches!(step, Step::Whole) {
            seen += 1;
        }
        let methods = methods(&record.sent);
        let found = |step: &Step, got: &[u8]| match step {
            Step::Whole => finals(got, &methods, false) >= seen,
            Step::Head => contains(got, b"\r\n\r\n"),
            Step::Until(bytes) => contains(got, bytes),
            _ => true,
        };
        let done = timeout(PATIENCE, line.take(step, &found)).await;
        // The end of the connection may have been the end of the answer.
        if matches!(step, Step::Whole) && !line.is_open() && finals(&line.got, &methods, true) >= seen {
            continue;
        }
        if let Err(error) = done.unwrap_or_else(|_| Err(anyhow::anyhow!("waited in vain"))) {
            let error =
                if line.ending == Ending::Open { format!("{error:#}") } else { "cut short".to_owned() };
            record.note = Some(format!("{error}: {}", shown(step)));
            break;
        }
    }
    listen(&mut line, &mut record, goal, idle).await;
    Ok(record)
}

/// How many answers have come whole, interim ones not counted.
fn finals(got: &[u8], methods: &[String], ended: bool) -> usize {
    let (answers, _) = answers(got, methods, ended);
    answers.iter().filter(|answer| answer.whole && !answer.is_interim()).count()
}

fn shown(step: &Step) -> String {
    match step {
        Step::Say(_) => "sending".to_owned(),
        Step::Drip(_) => "sending byte by byte".to_owned(),
        step => format!("{step:?}"),
    }
}

async fn listen(
    line: &mut Line,
    record: &mut ClientRecord,
    goal: Option<&ClientRecord>,
    idle: impl Fn() -> bool,
) {
    let begun = Instant::now();
    let mut quiet = Instant::now();
    loop {
        record.got.clone_from(&line.got);
        record.ending = line.ending;
        if !line.is_open() {
            return;
        }
        let enough = goal.is_none_or(|goal| record.reaches(goal)) && idle();
        if (enough && quiet.elapsed() > QUIET) || begun.elapsed() > PATIENCE {
            return;
        }
        let before = line.got.len();
        let read = timeout(QUIET / 6, line.more()).await;
        if read.is_ok() && line.got.len() > before || !idle() {
            quiet = Instant::now();
        }
    }
}
