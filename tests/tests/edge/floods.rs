//! Floods of HTTP/2 at the edge, where anybody may send them: with prior knowledge in plaintext and behind TLS. Each is cut off, the
//! backend hears little of it, and others do not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_testbed::frames::{self, CALM};
use weft_testbed::{Gateway, Teller};

use super::crowd::{Crowd, connector};
use super::doors::{PATIENCE, backend, gateway, route};

/// Attackers at once, at each of both doors.
const ATTACKERS: usize = 4;
/// Requests of each that are taken back.
const RESETS: u32 = 20_000;
/// How much memory the floods may leave in use, octets.
const MEMORY: f64 = 60e6;

/// Sends an attack, and reads until the server has ended it. The reason of the GOAWAY, if there was one.
async fn send(stream: impl AsyncRead + AsyncWrite, attack: &[u8]) -> Result<Option<u32>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut received = Vec::new();
    let work = async {
        let send = async {
            // No half-close: it is the server that has to end this.
            let _ = write.write_all(&frames::connection(attack)).await;
            let _ = write.flush().await;
        };
        let receive = async {
            let _ = read.read_to_end(&mut received).await;
        };
        tokio::join!(send, receive);
    };
    tokio::time::timeout(PATIENCE, work).await.context("a flood was never cut off")?;
    Ok(frames::goaway(&received))
}

struct Attackers<'g> {
    gateway: &'g Gateway,
    connector: TlsConnector,
    runtime: tokio::runtime::Runtime,
}

impl<'g> Attackers<'g> {
    fn new(gateway: &'g Gateway) -> Result<Self> {
        let connector = connector(&gateway.dir().join("ca.pem"), b"h2")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { gateway, connector, runtime })
    }

    /// All of them at once. None of them is answered to the end.
    fn attack(&self, what: &str, attack: &[u8]) -> Result<()> {
        let one = async |tls: bool| {
            let stream = TcpStream::connect(self.gateway.at(if tls { 8443 } else { 8080 })).await?;
            if !tls {
                return send(stream, attack).await;
            }
            let name = ServerName::try_from("a.shop.test")?;
            send(self.connector.connect(name, stream).await.context("TLS")?, attack).await
        };
        let all = (0..2 * ATTACKERS).map(|n| one(n % 2 == 1));
        let reasons = self.runtime.block_on(try_join_all(all)).with_context(|| what.to_owned())?;
        // The reset that follows unread input may overtake the GOAWAY on its way to the client.
        let calm = reasons.iter().all(|reason| reason.is_none_or(|reason| reason == CALM));
        ensure!(calm, "{what}: {reasons:?}");
        Ok(())
    }
}

#[test]
fn floods_of_http2_are_cut_off_and_others_do_not_notice() -> Result<()> {
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    let gateway = gateway(&resources, &[("WEFT_TELEMETRY_ACCESS_LOG_MODE", "off")])?;
    let crowd = Crowd::paced(
        gateway.at(8080),
        gateway.at(8443),
        &gateway.dir().join("ca.pem"),
        Duration::from_millis(20),
    )?;
    crowd.wait_for(50)?;
    let before = gateway.metric("process_resident_memory_bytes ")?;
    let attackers = Attackers::new(&gateway)?;
    for (what, attack) in frames::floods("a.shop.test") {
        attackers.attack(what, &attack)?;
        crowd.wait_for(10).with_context(|| what.to_owned())?;
    }
    for (what, attack) in [
        ("rapid reset", frames::rapid_reset(RESETS, "a.shop.test")),
        ("made to reset", frames::made_to_reset(RESETS, "a.shop.test")),
    ] {
        attackers.attack(what, &attack)?;
        crowd.wait_for(10).with_context(|| what.to_owned())?;
    }
    let taken = gateway.metric("process_resident_memory_bytes ")? - before;
    ensure!(taken <= MEMORY, "{taken} bytes of memory after the floods");
    crowd.stop();
    crowd.ended()?;
    // Of what was taken back the backend has heard of few.
    let attacked = teller.seen().iter().filter(|seen| seen.starts_with("GET / ")).count();
    let sent = 2 * 2 * ATTACKERS * RESETS as usize;
    ensure!(attacked < sent / 50, "{attacked} of {sent} came to the backend");
    ensure!(gateway.process().is_running());
    Ok(())
}
