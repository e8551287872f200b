//! The step between fork and exec: join a pod's namespaces, change user, tie one's life to the test's.
//!
//! Doing this in a program of its own, instead of in the forked child of a process with many threads, needs no unsafe
//! code. Binaries of this crate call [`dispatch`] first thing in `main`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use rustix::process::{Gid, Signal, Uid, getppid, set_parent_process_death_signal};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_gid, set_thread_groups, set_thread_uid,
};

/// The first argument that asks for the helper.
const WORD: &str = "__enter";

/// The name of the binary that tests use as the helper.
const BINARY: &str = "weft-testapp";

/// Where a command is to run.
#[derive(Debug, Clone)]
pub(crate) struct Enter {
    /// The network and the mount namespace, as paths that a child process can open; those of this process when absent.
    pub(crate) namespaces: Option<(String, String)>,
    /// The user and group to run as; root of the namespace when absent.
    pub(crate) uid: Option<u32>,
}

impl Enter {
    /// A command that runs `program` in there.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(helper_binary()?);
        let uid = self.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        let (net, mnt) = self.namespaces.as_ref().map_or(("-", "-"), |(net, mnt)| (net, mnt));
        command.args([WORD, &std::process::id().to_string(), net, mnt, &uid, program]);
        Ok(command)
    }
}

/// Becomes the program that the arguments name, if they ask for the helper; otherwise returns `None` at once.
pub fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(WORD) {
        return None;
    }
    let error = become_program(args).err()?;
    let mut text = String::from("weft-testbed: cannot enter the pod");
    for cause in error.chain() {
        text.push_str(": ");
        text.push_str(&cause.to_string());
    }
    text.push('\n');
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    // 126: "found but not executable", as shells have it.
    Some(ExitCode::from(126))
}

fn become_program(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut next = |what| args.next().with_context(|| format!("no {what}"));
    let parent: u32 = next("parent")?.parse().context("parent pid")?;
    let (net, mnt, uid, program) = (next("net")?, next("mnt")?, next("uid")?, next("program")?);
    if net != "-" {
        enter(&net, &mnt)?;
    }
    if uid != "-" {
        let id: u32 = uid.parse().context("uid")?;
        // Groups before user: afterwards there is no right left to change them.
        set_thread_groups(&[]).context("dropping groups")?;
        set_thread_gid(Gid::from_raw(id)).context("changing group")?;
        set_thread_uid(Uid::from_raw(id)).context("changing user")?;
    }
    // After the change of user, which clears it (prctl(2), PR_SET_PDEATHSIG).
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking for a death signal")?;
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if i64::from(now) != i64::from(parent) {
        bail!("the test is gone already");
    }
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("running {program}"))
}

fn enter(net: &str, mnt: &str) -> Result<()> {
    // Opened before the mounts change: the path leads through the /proc of the outer mount namespace.
    let net = File::open(net).with_context(|| format!("opening {net}"))?;
    let mnt = File::open(mnt).with_context(|| format!("opening {mnt}"))?;
    let directory = std::env::current_dir().context("working directory")?;
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).context("network namespace")?;
    move_into_link_name_space(mnt.as_fd(), Some(LinkNameSpaceType::Mount)).context("mount namespace")?;
    drop((net, mnt));
    // Entering a mount namespace moves to its root (setns(2)).
    std::env::set_current_dir(&directory).with_context(|| format!("going to {}", directory.display()))
}

/// The running binary if it can be the helper itself, otherwise `weft-testapp` beside the test's executable.
pub(crate) fn helper_binary() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding this executable")?;
    if exe.file_name().is_some_and(|name| name == "weft-demo" || name == BINARY) {
        return Ok(exe);
    }
    beside_tests(BINARY)?
        .with_context(|| format!("{BINARY} is not built: cargo build -p weft-testbed --bin {BINARY}"))
}

/// A binary of the workspace: in the directory of the test's executable or the one above (`target/<profile>`).
pub(crate) fn beside_tests(name: &str) -> Result<Option<PathBuf>> {
    let exe = std::env::current_exe().context("finding this executable")?;
    Ok(exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()))
}
