//! What both sides of a conversation saw, and as lines to compare.

use weft_testbed::scripted::{
    ClientRecord, Ending, Field, Framing, Message, ServerConnection, latin1, requests,
};

/// Longer bodies are shown by their length and checksum.
const SHOWN: usize = 160;

/// Everything that either side can see of one conversation.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// What the client asked; for judging how its connection may end.
    pub(crate) asked: Vec<Message>,
    /// What the client saw, interim answers included.
    pub(crate) answers: Vec<Message>,
    /// Bytes behind the last answer.
    pub(crate) surplus: Vec<u8>,
    /// How the client's connection stands in the end.
    pub(crate) ending: Ending,
    /// A step of the client's that failed.
    pub(crate) note: Option<String>,
    /// What the server saw, in the order in which requests began.
    pub(crate) requests: Vec<Seen>,
    /// Bytes that are no request, by connection.
    pub(crate) odd: Vec<Vec<u8>>,
}

/// A request that the server saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) message: Message,
    /// The client left while it was waited for.
    pub(crate) left: bool,
}

impl View {
    pub(crate) fn new(client: &ClientRecord, server: &[ServerConnection]) -> Self {
        let (answers, surplus) = client.answers();
        let (asked, _) = requests(&client.sent, false);
        let mut seen = Vec::new();
        let mut odd = Vec::new();
        for connection in server {
            let (requests, rest) = connection.requests();
            for (index, message) in requests.into_iter().enumerate() {
                let number = connection.begun.get(index).copied().unwrap_or(usize::MAX);
                seen.push((number, Seen { message, left: connection.left.contains(&number) }));
            }
            if !rest.is_empty() {
                odd.push(rest);
            }
        }
        seen.sort_by_key(|(number, _)| *number);
        Self {
            asked,
            answers,
            surplus,
            ending: client.ending,
            note: client.note.clone(),
            requests: seen.into_iter().map(|(_, seen)| seen).collect(),
            odd,
        }
    }

    /// The status of the first answer that is not interim, or "".
    pub(crate) fn status(&self) -> &str {
        self.answers.iter().find(|answer| !answer.is_interim()).map_or("", Message::status)
    }

    /// For comparison and for reading.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec!["client saw".to_owned()];
        for answer in &self.answers {
            show(&mut lines, answer);
        }
        odd(&mut lines, &self.surplus);
        lines.extend(self.note.iter().map(|note| format!("  ! {note}")));
        lines.push(format!("  connection: {:?}", self.ending));
        lines.push("server saw".to_owned());
        for seen in &self.requests {
            show(&mut lines, &seen.message);
            lines.extend(seen.left.then(|| "    the client left".to_owned()));
        }
        for rest in &self.odd {
            odd(&mut lines, rest);
        }
        lines
    }
}

fn odd(lines: &mut Vec<String>, bytes: &[u8]) {
    if !bytes.is_empty() {
        lines.push(format!("  no message: {}", text(bytes)));
    }
}

fn show(lines: &mut Vec<String>, message: &Message) {
    lines.push(format!("  {:?}", message.start));
    lines.extend(message.fields.iter().map(field));
    let how = match message.framing {
        Framing::Nothing => None,
        Framing::Length => Some("length"),
        Framing::Chunked => Some("chunked"),
        Framing::End => Some("to the end"),
    };
    lines.extend(how.map(|how| format!("    body ({how}): {}", text(&message.body))));
    lines.extend(message.trailers.iter().map(|trailer| format!("    trailer{}", field(trailer))));
    if !message.whole {
        lines.push("    CUT OFF".to_owned());
    }
}

fn field(field: &Field) -> String {
    format!("    {}: {:?}", field.name, field.value)
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN {
        return format!("{:?}", latin1(bytes));
    }
    let mut sum = weft_testbed::apps::Checksum::default();
    sum.add(bytes);
    format!("{} bytes, checksum {:x}", bytes.len(), sum.value())
}

/// Two lists of lines side by side; `None` where they are the same.
pub(crate) fn diff(direct: &[String], pair: &[String]) -> Option<String> {
    if direct == pair {
        return None;
    }
    let common = longest_common(direct, pair);
    let (mut left, mut right) = (direct.iter().peekable(), pair.iter().peekable());
    let mut out = format!("   {:<78} | {}\n", "DIRECTLY", "THROUGH THE PAIR");
    let mut row = |mark: char, left: &str, right: &str| {
        out.push_str(&format!(" {mark} {left:<78} | {right}\n"));
    };
    for shared in common.iter().map(Some).chain([None]) {
        loop {
            let on_left = left.next_if(|line| Some(*line) != shared);
            let on_right = right.next_if(|line| Some(*line) != shared);
            match (on_left, on_right) {
                (None, None) => break,
                (left, right) => row('*', left.map_or("", |l| l), right.map_or("", |r| r)),
            }
        }
        if let Some(line) = shared {
            left.next();
            right.next();
            row(' ', line, line);
        }
    }
    Some(out)
}

fn longest_common(left: &[String], right: &[String]) -> Vec<String> {
    let width = right.len() + 1;
    let mut table = vec![0_usize; (left.len() + 1) * width];
    for (i, one) in left.iter().enumerate().rev() {
        for (j, other) in right.iter().enumerate().rev() {
            table[i * width + j] = if one == other {
                table[(i + 1) * width + j + 1] + 1
            } else {
                table[(i + 1) * width + j].max(table[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut common) = (0, 0, Vec::new());
    while i < left.len() && j < right.len() {
        if left[i] == right[j] {
            common.push(left[i].clone());
            (i, j) = (i + 1, j + 1);
        } else if table[(i + 1) * width + j] >= table[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}

#[test]
fn a_difference_is_shown_side_by_side() {
    let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(diff(&lines("a b c"), &lines("a b c")), None);
    let shown = diff(&lines("a b c d"), &lines("a x c")).unwrap_or_default();
    let marks: String = shown.lines().skip(1).filter_map(|line| line.chars().nth(1)).collect();
    assert_eq!(marks, " * *", "{shown}");
}
