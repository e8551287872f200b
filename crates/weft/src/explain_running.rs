//! The question to a running process: one request to its admin server.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use weft_config::HostPort;
use weft_route::explain::{Explanation, QuestionText};

use crate::ask;

/// The admin server answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// An explanation has a dozen of rules at most; whoever sends more than this is no admin server.
const MOST: u64 = 4 << 20;

/// Asks, and tells the person what went wrong if there is no answer.
pub(super) fn ask(admin: &HostPort, question: &QuestionText) -> Result<Explanation, ExitCode> {
    let (status, body) = exchange(admin, question).map_err(|error| {
        ask::fail(format!(
            "{admin}: {error}; is this the admin port (bind.admin) of a running weft gateway or weft proxy?"
        ))
    })?;
    match status {
        200 => serde_json::from_str(&body).map_err(|error| {
            ask::fail(format!("{admin}: this is no explanation ({error}); are both of the same version?"))
        }),
        400 | 422 => Err(crate::usage(body.trim())),
        404 | 405 => {
            Err(ask::fail(format!("{admin}: there is no /explain; what listens there is older, or no Weft")))
        }
        _ => Err(ask::fail(format!("{admin}: {}", body.trim()))),
    }
}

/// One request by hand: a client library would be more than the question.
fn exchange(admin: &HostPort, question: &QuestionText) -> std::io::Result<(u16, String)> {
    let body = serde_json::to_string(question)?;
    let addrs = (admin.host.as_str(), admin.port).to_socket_addrs()?;
    let mut stream = connect(addrs)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!(
        "POST /explain HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    let no_http = || std::io::Error::other("what answers there speaks no HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).ok_or_else(no_http)?;
    Ok((status.parse().map_err(|_| no_http())?, body.to_owned()))
}

fn connect(addrs: impl Iterator<Item = std::net::SocketAddr>) -> std::io::Result<TcpStream> {
    let mut failed = std::io::Error::other("the name has no address");
    for addr in addrs {
        match TcpStream::connect_timeout(&addr, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn asked(answer: &'static str) -> Result<Explanation, ExitCode> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin: HostPort = listener.local_addr().unwrap().to_string().parse().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 1000];
            let read = stream.read(&mut asked).unwrap();
            let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
            assert!(asked.starts_with("POST /explain HTTP/1.1\r\n") && asked.ends_with('}'), "{asked}");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let question =
            QuestionText { method: "GET".to_owned(), url: "http://a/".to_owned(), ..QuestionText::default() };
        ask(&admin, &question)
    }

    #[test]
    fn an_answer_is_read_and_a_failure_is_told() {
        let good = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"request\":{\"method\":\"GET\",\"host\":\"a\",\"path\":\"/\",\"query\":null},\"door\":null,\"outcome\":\"404: no rule matches\",\"status\":404,\"rule\":null,\"nearMisses\":[]}";
        assert_eq!(asked(good).unwrap().status, Some(404));
        let usage = format!("{:?}", ExitCode::from(2));
        assert_eq!(format!("{:?}", asked("HTTP/1.1 400 Bad Request\r\n\r\nno method\n").unwrap_err()), usage);
        for bad in [
            "HTTP/1.1 503 Busy\r\n\r\nnot yet\n",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "220 mail\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "",
        ] {
            assert_eq!(format!("{:?}", asked(bad).unwrap_err()), format!("{:?}", ExitCode::FAILURE), "{bad}");
        }
    }
}
