//! `weft wait-ready`: holds until the proxy takes traffic.
//!
//! Where the proxy is an ordinary container (Kubernetes before 1.29), this is its `postStart` hook: the kubelet starts the
//! next container when the hook has ended, so the application never meets a mesh that is not there yet.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often to ask.
const PAUSE: Duration = Duration::from_millis(100);
/// The proxy answers on loopback, at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Wait until the proxy is ready.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The health port of the proxy on this machine.
    #[arg(long, value_name = "PORT", default_value_t = 15021)]
    port: u16,
    /// Give up, with exit code 1, after this time.
    #[arg(long, value_name = "TIME", default_value = "2m")]
    timeout: humantime::Duration,
}

#[expect(clippy::print_stderr, reason = "the kubelet shows what a failed hook has written")]
pub(crate) fn run(args: &Args) -> ExitCode {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let end = Instant::now() + *args.timeout;
    loop {
        let why = match ask(address) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return ExitCode::SUCCESS,
            Ok(answer) => answer.lines().last().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            eprintln!("weft: the proxy was not ready within {}: {why}", args.timeout);
            return ExitCode::FAILURE;
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "there is one thread, and nothing else for it to do")]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// One request by hand: a client library would be more than the question.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // A status and a line of text; whoever sends more is not the proxy.
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers its nth connection with the nth text.
    fn server(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 512]).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn it_waits_until_the_proxy_says_so() {
        let port =
            server(&["HTTP/1.1 503 No\r\n\r\nno valid certificate yet", "HTTP/1.1 200 OK\r\n\r\nready"]);
        let args = Args { port, timeout: Duration::from_secs(20).into() };
        assert_eq!(format!("{:?}", run(&args)), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn it_gives_up() {
        let port = server(&["HTTP/1.1 503 No\r\n\r\nnot yet"]);
        let args = Args { port, timeout: Duration::ZERO.into() };
        assert_eq!(format!("{:?}", run(&args)), format!("{:?}", ExitCode::FAILURE));
    }
}
