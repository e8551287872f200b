//! Processes that cannot outlive the test.
//!
//! Each runs in a process group of its own, which is killed when the [`Process`] is dropped; and each asks the kernel
//! for a death signal should the test process itself be killed. The kernel ties that signal to the *thread* that
//! forked, so all processes are started from one thread that lives as long as the test process.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::wait::eventually;

type Job = Box<dyn FnOnce() + Send>;

/// Starts `command` from the thread that lives as long as this process.
pub(crate) fn spawn_on_lasting_thread(mut command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (tx, rx) = channel::<Job>();
        std::thread::spawn(move || rx.into_iter().for_each(|job| job()));
        Mutex::new(tx)
    });
    let (tx, rx) = channel();
    let job: Job = Box::new(move || {
        let _ = tx.send(command.spawn());
    });
    let gone = || std::io::Error::other("the spawning thread is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send(job).map_err(|_| gone())?;
    rx.recv().map_err(|_| gone())?
}

/// A running program of a pod, with its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    log: PathBuf,
}

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, as text (invalid UTF-8 replaced).
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

impl Output {
    /// The output if the command succeeded, otherwise an error that shows both streams.
    ///
    /// # Errors
    /// The exit status was not 0.
    pub fn ok(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}\nstdout: {}\nstderr: {}", self.status, self.stdout.trim(), self.stderr.trim());
    }
}

impl Process {
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let file = append(log)?;
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("duplicating the log file")?)
            .stderr(file);
        let child = spawn_on_lasting_thread(command).with_context(|| format!("starting {name}"))?;
        let pid = pid_of(&child)?;
        Ok(Self { name: name.to_owned(), pid, child: Mutex::new(child), log: log.to_owned() })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Everything the program has written so far, both streams.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until the output has `text`.
    ///
    /// # Errors
    /// The program ended, or `deadline` passed; the error shows the output.
    pub fn wait_for_log(&self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{} to write {text:?}", self.name);
        eventually(&what, deadline, || {
            if self.log().contains(text) {
                return Ok(Some(()));
            }
            if !self.is_running() {
                bail!("{} ended: {}", self.name, self.log().trim());
            }
            Ok(None)
        })
        .with_context(|| format!("output of {}: {}", self.name, self.log().trim()))
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        // NOWAIT leaves a dead process in the table, so that its pid and group stay ours until `reap`.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Sends a signal to the program itself, not to its group.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Asks it to end.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Stops it without ending it: packets to it are taken by the kernel, answers do not come.
    pub fn pause(&self) {
        let _ = kill_process_group(self.pid, Signal::STOP);
    }

    /// Undoes [`Process::pause`].
    pub fn resume(&self) {
        let _ = kill_process_group(self.pid, Signal::CONT);
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        eventually(&format!("{} to end", self.name), deadline, || Ok((!self.is_running()).then_some(())))?;
        self.reap()
    }

    /// Ends it and its group at once.
    pub fn kill(&self) {
        let _ = self.reap();
    }

    fn reap(&self) -> Result<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // `try_wait` remembers a status it has seen; before that the pid, and so the group, cannot be somebody else's.
        if self.is_reaped() {
            return child.wait().context("reading the exit status again");
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        child.wait().context("waiting for a process to end")
    }

    fn is_reaped(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid), options).is_err()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end, killing its group at the deadline.
pub(crate) fn run(name: &str, mut command: Command, dir: &Path, deadline: Duration) -> Result<Output> {
    use std::os::unix::process::CommandExt;
    // Files rather than pipes: nothing to read while waiting, and a grandchild that keeps a pipe open cannot hang us.
    let out = tempfile::NamedTempFile::new_in(dir).context("creating an output file")?;
    let err = tempfile::NamedTempFile::new_in(dir).context("creating an output file")?;
    command.process_group(0).stdin(Stdio::null()).stdout(out.reopen()?).stderr(err.reopen()?);
    let child = spawn_on_lasting_thread(command).with_context(|| format!("starting {name}"))?;
    let pid = pid_of(&child)?;
    let log = err.path().to_owned();
    let process = Process { name: name.to_owned(), pid, child: Mutex::new(child), log };
    let status = process.wait_exit(deadline)?;
    let read = |file: &Path| -> Result<String> { Ok(String::from_utf8_lossy(&fs::read(file)?).into_owned()) };
    Ok(Output { status, stdout: read(out.path())?, stderr: read(err.path())? })
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the process has no usable pid")
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_takes_its_group_along() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo child $!; wait"]);
        let process = Process::start("sh", command, &dir.path().join("log")).unwrap();
        process.wait_for_log("\n", Duration::from_secs(5)).unwrap();
        let child = process.log().trim().rsplit_once(' ').unwrap().1.to_owned();
        drop(process);
        let gone = || {
            // A killed grandchild may stay a zombie until init reads its status.
            let stat = fs::read_to_string(format!("/proc/{child}/stat"));
            Ok(stat.map_or(true, |stat| stat.contains(") Z ")).then_some(()))
        };
        eventually("the grandchild to die", Duration::from_secs(5), gone).unwrap();
    }

    #[test]
    fn run_reports_status_and_both_streams() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let output = run("sh", command, dir.path(), Duration::from_secs(5)).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(output.status.code(), Some(3));
        assert!(output.ok().is_err());
    }

    #[test]
    fn run_gives_up_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        assert!(run("sleep", command, dir.path(), Duration::from_millis(100)).is_err());
    }
}
