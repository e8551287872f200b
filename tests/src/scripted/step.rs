//! What a scripted peer does, step by step; both ends know the same steps.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The steps of one conversation, or of a server's answer to one request.
pub type Script = Vec<Step>;

/// One thing that a peer does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends bytes at once.
    Say(Vec<u8>),
    /// Sends bytes one by one, each in a segment of its own.
    Drip(Vec<u8>),
    /// Reads on to the end of the next head.
    Head,
    /// Reads on to the end of the next whole message; a client's is an answer that is not 1xx.
    Whole,
    /// Reads until these bytes have come.
    Until(Vec<u8>),
    /// Gives the other side the time to act. Never what a verdict rests on.
    Wait(Duration),
    /// Closes the sending half.
    Finish,
    /// Closes the connection, whatever is unread.
    Close,
    /// Resets the connection.
    Reset,
    /// Reads until the other side has ended the connection.
    Gone,
}

/// Sends bytes at once.
pub fn say(bytes: impl AsRef<[u8]>) -> Step {
    Step::Say(bytes.as_ref().to_vec())
}

/// Sends bytes one by one.
pub fn drip(bytes: impl AsRef<[u8]>) -> Step {
    Step::Drip(bytes.as_ref().to_vec())
}

/// Reads a head.
pub fn head() -> Step {
    Step::Head
}

/// Reads a whole message.
pub fn whole() -> Step {
    Step::Whole
}

/// Reads a whole answer; the client's name for [`whole`].
pub fn answer() -> Step {
    Step::Whole
}

/// Reads until these bytes have come.
pub fn until(bytes: impl AsRef<[u8]>) -> Step {
    Step::Until(bytes.as_ref().to_vec())
}

/// Gives the other side this many milliseconds.
pub fn wait(milliseconds: u64) -> Step {
    Step::Wait(Duration::from_millis(milliseconds))
}

/// Closes the sending half.
pub fn finish() -> Step {
    Step::Finish
}

/// Closes the connection.
pub fn close() -> Step {
    Step::Close
}

/// Resets the connection.
pub fn reset() -> Step {
    Step::Reset
}

/// Reads until the other side ends the connection.
pub fn gone() -> Step {
    Step::Gone
}

/// Reads until the other side ends the connection; the client's name for [`gone`].
pub fn rest() -> Step {
    Step::Gone
}

/// How a connection stands, or what ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// Neither side has ended it.
    #[default]
    Open,
    /// The other side closed it, or its sending half.
    Closed,
    /// The other side reset it.
    Reset,
    /// This side ended it.
    Own,
}

/// What a `Whole` or a `Head` step reads to: the end of the next message in `bytes`, if it is there.
pub(super) type Find<'a> = &'a (dyn Fn(&Step, &[u8]) -> bool + Sync);

/// A connection of a scripted peer.
pub(super) struct Line {
    /// Gone once this side has ended the connection.
    stream: Option<TcpStream>,
    /// Everything that has come.
    pub(super) got: Vec<u8>,
    pub(super) ending: Ending,
}

impl Line {
    pub(super) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream: Some(stream), got: Vec::new(), ending: Ending::Open }
    }

    /// Whether more may come.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some() && self.ending == Ending::Open
    }

    /// Whether the other side may still be answered: a half-close ends what it sends, and no more.
    pub(super) fn can_answer(&self) -> bool {
        self.stream.is_some() && self.ending != Ending::Reset
    }

    /// Reads once. How the connection ended is kept, and is no error.
    pub(super) async fn more(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        match stream.read_buf(&mut self.got).await {
            Ok(0) => self.ending = Ending::Closed,
            Ok(_) => {}
            Err(_) => self.ending = Ending::Reset,
        }
    }

    /// Does one step. A reading step ends with the connection as well.
    pub(super) async fn take(&mut self, step: &Step, found: Find<'_>) -> Result<()> {
        match step {
            Step::Say(bytes) => self.write(bytes).await?,
            Step::Drip(bytes) => {
                for byte in bytes {
                    self.write(&[*byte]).await?;
                    // A segment of its own for each: the receiver gets its turn in between.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Step::Head | Step::Whole | Step::Until(_) => {
                while !found(step, &self.got) {
                    if !self.is_open() {
                        bail!("the end came before {step:?}");
                    }
                    self.more().await;
                }
            }
            Step::Wait(time) => tokio::time::sleep(*time).await,
            Step::Finish => {
                let stream = self.stream.as_mut().context("closed already")?;
                stream.shutdown().await.context("half-close")?;
            }
            Step::Close => self.end(),
            Step::Reset => {
                let stream = self.stream.as_ref().context("closed already")?;
                stream.set_zero_linger().context("SO_LINGER")?;
                self.end();
            }
            Step::Gone => {
                while self.is_open() {
                    self.more().await;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        self.stream = None;
        if self.ending == Ending::Open {
            self.ending = Ending::Own;
        }
    }

    /// Reads while it writes: a peer that answers before it has read everything must not be waited for for ever.
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &mut self.stream else { bail!("closed already") };
        let (mut read, mut write) = stream.split();
        let mut sending = std::pin::pin!(write.write_all(bytes));
        let mut listening = true;
        loop {
            tokio::select! {
                sent = sending.as_mut() => return sent.context("writing"),
                read = read.read_buf(&mut self.got), if listening => match read {
                    Ok(0) => {
                        listening = false;
                        self.ending = Ending::Closed;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.ending = Ending::Reset;
                        return Err(error).context("writing");
                    }
                }
            }
        }
    }
}
