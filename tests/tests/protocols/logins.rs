//! Logins that belong to a connection: curl's NTLM, and a server that knows its users by their connections.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use weft_testbed::{Pod, Service, Task, story};

use super::pair::{APP, Pair, Wire, pods};

/// The server's port.
const PORT: u16 = 8080;

/// Message types of NTLM ([MS-NLMP] section 2.2.1).
const NEGOTIATE: u8 = 1;
const AUTHENTICATE: u8 = 3;

/// A CHALLENGE_MESSAGE: its type, no target, NTLM and OEM names ([MS-NLMP] section 2.2.1.2), eight octets of challenge.
fn challenge() -> String {
    let mut message = b"NTLMSSP\0\x02\0\0\0\0\0\0\0\x30\0\0\0\x02\x02\0\0".to_vec();
    message.extend_from_slice(b"12345678");
    message.resize(48, 0);
    BASE64_STANDARD.encode(message)
}

/// The user that an AUTHENTICATE_MESSAGE names ([MS-NLMP] section 2.2.1.3: length at 36, place at 40).
fn user_of(message: &[u8]) -> Option<String> {
    let number = |at: usize| Some(usize::from(u16::from_le_bytes(message.get(at..at + 2)?.try_into().ok()?)));
    let (length, place) = (number(36)?, number(40)?);
    Some(String::from_utf8_lossy(message.get(place..place + length)?).into_owned())
}

/// One connection, and who has logged in on it. A proof counts behind a challenge of the same connection alone.
async fn connection(mut stream: TcpStream) -> Result<()> {
    let (mut challenged, mut user) = (false, None);
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.context("reading")? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let credentials = String::from_utf8_lossy(&request).into_owned();
        let credentials = credentials.lines().find_map(|line| line.strip_prefix("Authorization: NTLM "));
        let message =
            credentials.and_then(|text| BASE64_STANDARD.decode(text.trim()).ok()).unwrap_or_default();
        let answer = match message.get(8).copied() {
            _ if text.contains("weft-login") => "HTTP/1.1 500 Told\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Some(NEGOTIATE) => {
                (challenged, user) = (true, None);
                denied(&format!("NTLM {}", challenge()))
            }
            Some(AUTHENTICATE) if challenged => {
                (challenged, user) = (false, user_of(&message));
                user.as_deref().map_or_else(|| denied("NTLM"), welcome)
            }
            _ => user.as_deref().map_or_else(|| denied("NTLM"), welcome),
        };
        stream.write_all(answer.as_bytes()).await.context("writing")?;
    }
}

fn denied(challenge: &str) -> String {
    format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n")
}

fn welcome(user: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}\n", user.len() + 1)
}

/// Serves until the sender is dropped.
fn serve(pod: &Pod) -> Result<(oneshot::Sender<()>, Task<()>)> {
    let listener = pod.run(async || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("listening"))?;
    listener.set_nonblocking(true).context("a listener for tokio")?;
    let (until, mut over) = oneshot::channel();
    let serving = pod.start(async move || {
        let listener = tokio::net::TcpListener::from_std(listener).context("a listener for tokio")?;
        loop {
            tokio::select! {
                accepted = listener.accept() => drop(tokio::spawn(connection(accepted?.0))),
                _ = &mut over => return Ok(()),
            }
        }
    })?;
    Ok((until, serving))
}

/// What curl says of requests over one connection, with these arguments: content and status of each.
fn curl(client: &Pod, url: &str, login: &[&str], requests: usize) -> Result<String> {
    let mut args = vec!["curl", "-sS", "--max-time", "15", "-w", "%{http_code} "];
    args.extend_from_slice(login);
    args.extend(std::iter::repeat_n(url, requests));
    Ok(client.exec(&args)?.ok()?.stdout)
}

/// The server, through the mesh.
fn url() -> String {
    format!("http://{APP}:{PORT}/")
}

#[test]
fn each_client_logs_in_on_a_connection_of_its_own() {
    story("proto-logins", |mesh| {
        let (client, server) = pods(mesh, &[PORT])?;
        let (until, serving) = serve(&server)?;
        let logins: [&[&str]; 2] = [&["--ntlm", "-u", "anna:x"], &["--anyauth", "-u", "bert:x"]];
        let hold = |client: &Pod, url: &str| -> Result<Vec<String>> {
            logins.iter().map(|login| curl(client, url, login, 3)).collect()
        };
        let addresses = server.addresses();
        let address = addresses.first().context("an address")?;
        let direct = hold(&client, &format!("http://{}/", SocketAddr::new(*address, PORT)))?;
        assert_eq!(direct, ["anna\n200 anna\n200 anna\n200 ", "bert\n200 bert\n200 bert\n200 "]);
        let pair = Pair::meshed(mesh, client, server)?;
        assert_eq!(hold(&pair.client, &url())?, direct, "through two sidecars");

        // Others meet nobody's login, while a client that has one goes on using it.
        let status = async |wire: &mut Wire| -> Result<String> {
            wire.say(format!("GET / HTTP/1.1\r\nHost: {APP}\r\n\r\n")).await?;
            Ok(wire.answer(false).await?.split(' ').nth(1).unwrap_or_default().to_owned())
        };
        for _ in 0..4 {
            assert_eq!(pair.talk(PORT, status).context("a stranger")?, "401");
        }
        std::thread::scope(|scope| -> Result<()> {
            let clients: Vec<_> = ["carl", "dora", "emma"]
                .into_iter()
                .map(|user| {
                    let pair = &pair;
                    scope.spawn(move || -> Result<()> {
                        let said = curl(&pair.client, &url(), &["--ntlm", "-u", &format!("{user}:x")], 20)?;
                        assert_eq!(said, format!("{user}\n200 ").repeat(20));
                        Ok(())
                    })
                })
                .collect();
            for client in clients {
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(())
        })?;
        drop(until);
        serving.join()
    });
}

#[test]
fn a_login_stays_at_one_of_many_endpoints() {
    story("proto-logins-many", |mesh| {
        mesh.ca()?;
        let client = mesh.pod("client.shop").start()?;
        let servers = [
            mesh.pod("app-1.shop").start()?,
            mesh.pod("app-2.shop").start()?,
            mesh.pod("app-3.shop").start()?,
        ];
        mesh.dns().set(Service::virtual_ip(APP).port(PORT, PORT).on(&servers.each_ref()))?;
        let serving = servers.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let mut sidecars = vec![mesh.sidecar(&client)?.start()?];
        for server in &servers {
            sidecars.push(mesh.sidecar(server)?.start()?);
        }
        for user in ["anna", "bert", "carl"] {
            let said = curl(&client, &url(), &["--ntlm", "-u", &format!("{user}:x")], 20)?;
            assert_eq!(said, format!("{user}\n200 ").repeat(20));
        }
        serving.into_iter().try_for_each(|(until, serving)| {
            drop(until);
            serving.join()
        })
    });
}
