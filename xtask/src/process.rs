//! Child processes: one place that starts, watches and ends them.
//!
//! Two rules hold for every child. It is ended by its own id, never by name, because other people run the same
//! programs. And it asks the kernel to be killed when this process dies (`setpriv --pdeathsig`), so Ctrl-C, a
//! panic or a `kill -9` leave nothing behind, including the network namespaces that children keep alive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);
/// How often somebody who sees no progress bar is told that a build goes on: CI ends what says nothing for some minutes.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(30);

/// Sleeps on the calling thread: this program has no worker that it could block.
#[expect(clippy::disallowed_methods, reason = "no async runtime here, nothing shares this thread")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks at `condition` until it holds; an error after `limit` that names `what` was waited for.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > limit {
            bail!("{what}: not seen within {} s", limit.as_secs());
        }
        pause(POLL);
    }
    Ok(())
}

/// A command line as a person would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with its output on our terminal; true when it exits with 0.
pub(crate) fn stream(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    Ok(status.success())
}

/// As [`stream`], for a build. Cargo draws its bar on a terminal only, and one crate with link-time optimisation takes many
/// minutes: elsewhere, as in a pipe or a log, a line now and then says that it goes on, and at last how long it took.
pub(crate) fn stream_build(command: &mut Command) -> Result<bool> {
    if std::io::stderr().is_terminal() {
        return stream(command);
    }
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", line(command)))?;
    let status = watch(&mut child, TOLD_EVERY, |_| {
        println!("the build goes on, {} s so far", start.elapsed().as_secs());
    })?;
    println!("the build took {} s", start.elapsed().as_secs());
    Ok(status.success())
}

/// Waits for the end of a process, and tells something every so often.
pub(crate) fn watch(
    child: &mut Child,
    every: Duration,
    mut tell: impl FnMut(&mut Child),
) -> Result<ExitStatus> {
    let mut told = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if told.elapsed() >= every {
            told = Instant::now();
            tell(child);
        }
        pause(POLL);
    }
}

/// Runs a command with its output on our terminal and gives back its exit code; 1 where a signal ended it.
pub(crate) fn exit_code(command: &mut Command) -> Result<u8> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Runs a command and gives back what it printed; an error with its standard error when it fails.
pub(crate) fn capture(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        bail!("`{}` failed ({}): {}{}", line(command), output.status, stderr.trim(), stdout.trim());
    }
    Ok(output)
}

/// The standard output of a command, as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&capture(command)?.stdout).into_owned())
}

/// A command of these words.
pub(crate) fn command<S: AsRef<OsStr>>(words: &[S]) -> Command {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// A background process that ends with this value.
pub(crate) struct Background {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Background {
    /// Starts `command` with standard output and error in the file `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start `{}`", line(command)))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The id of the process. Starters such as `nsenter`, `taskset` and `setpriv` replace themselves, so this is
    /// the id of the program itself.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when the process is gone.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended early ({status}):\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// The last lines of what the process wrote.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks the process to end (SIGTERM) and waits for it; it is killed after `limit`.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<()> {
        capture(Command::new("kill").arg("-TERM").arg(self.id().to_string()))?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > limit {
                bail!("{} did not end within {} s of SIGTERM", self.name, limit.as_secs());
            }
            pause(POLL);
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_tells_its_error() {
        let error = capture(&mut command(&["sh", "-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_long_build_says_that_it_goes_on() {
        // It ends when its input does, and that is after it was told of.
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut told = 0;
        let status = watch(&mut child, Duration::ZERO, |child| {
            told += 1;
            drop(child.stdin.take());
        });
        assert!(status.unwrap().success() && told > 0);
    }

    #[test]
    fn a_background_process_ends_with_its_value() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut process = Background::start("sleep", &mut command(&["sleep", "60"]), log.path()).unwrap();
        process.check().unwrap();
        let proc = format!("/proc/{}", process.id());
        assert!(Path::new(&proc).exists());
        drop(process);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn an_early_end_is_reported_with_the_log() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut process =
            Background::start("sh", &mut command(&["sh", "-c", "echo bad config; exit 1"]), log.path())
                .unwrap();
        let mut error = None;
        wait_until("the end", Duration::from_secs(10), || {
            error = process.check().err();
            Ok(error.is_some())
        })
        .unwrap();
        assert!(error.unwrap().to_string().contains("bad config"));
    }
}
