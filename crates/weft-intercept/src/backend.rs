//! Which iptables to use, and whether this process may and can.
//!
//! Two implementations write to two separate rule sets in the kernel: legacy (`ip_tables`) and nft (`nf_tables`). Both
//! apply at once, so the choice is not about effect but about order and about not leaving two copies. Where one of them
//! has rules already, that one is taken; else the one that the machine's plain `iptables` is; else nft.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::config::Family;
use crate::error::InterceptError;
use crate::rules::Present;

/// An implementation of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Over nf_tables.
    Nft,
    /// Over ip_tables.
    Legacy,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Nft { "nft" } else { "legacy" })
    }
}

/// Which implementation is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// Found out: see the module.
    #[default]
    Auto,
    /// This one.
    Only(Backend),
}

/// Which families are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4, and IPv6 where the kernel has it.
    #[default]
    Auto,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both; an error where the kernel has no IPv6.
    Both,
}

/// The two programs of one implementation for one family.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) family: Family,
    pub(crate) backend: Backend,
    pub(crate) save: PathBuf,
    pub(crate) restore: PathBuf,
}

/// What a program said.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn run(program: &std::path::Path, args: &[&str], input: &str) -> Result<Said, InterceptError> {
    let failed = |source| InterceptError::Run { program: program.display().to_string(), source };
    let mut child = Command::new(program)
        .args(args)
        // iptables words its errors by locale; they are looked at.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails early closes its end; what it says is in its output.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
}

impl Tool {
    /// Every implementation that is installed for `family`, nft first.
    pub(crate) fn installed(family: Family) -> Vec<Self> {
        [Backend::Nft, Backend::Legacy]
            .into_iter()
            .filter_map(|backend| Self::find(family, backend))
            .collect()
    }

    fn find(family: Family, backend: Backend) -> Option<Self> {
        let stem = stem(family);
        let named = |stem: &str| Some((which(&format!("{stem}-save"))?, which(&format!("{stem}-restore"))?));
        let tool = |(save, restore)| Self { family, backend, save, restore };
        if let Some(found) = named(&format!("{stem}-{backend}")) {
            return Some(tool(found));
        }
        named(stem).map(tool).filter(|tool| tool.says() == Some(backend))
    }

    /// The implementation behind a program, by its own words: `iptables-save v1.8.9 (nf_tables)`.
    fn says(&self) -> Option<Backend> {
        let said = run(&self.save, &["-V"], "").ok()?;
        // Before 1.8 there was but one.
        Some(if said.out.contains("nf_tables") { Backend::Nft } else { Backend::Legacy })
    }

    /// The rules of the namespace, or `None` where the kernel does not have this implementation.
    pub(crate) fn saved(&self) -> Result<Option<String>, InterceptError> {
        let said = run(&self.save, &[], "")?;
        Ok(said.ok.then_some(said.out))
    }

    pub(crate) fn present(&self) -> Result<Present, InterceptError> {
        Ok(self.saved()?.map(|saved| Present::read(&saved)).unwrap_or_default())
    }

    /// The one to write with.
    pub(crate) fn choose(family: Family, choice: BackendChoice) -> Result<Self, InterceptError> {
        let mut installed = Self::installed(family);
        let none = |hint| {
            let stem = stem(family);
            InterceptError::NoBinary {
                tried: format!("{stem}-nft-restore, {stem}-legacy-restore, {stem}-restore"),
                hint,
            }
        };
        if let BackendChoice::Only(backend) = choice {
            installed.retain(|tool| tool.backend == backend);
            return installed.pop().ok_or_else(|| none(", or another --backend"));
        }
        let mut usable = Vec::new();
        for tool in installed {
            match tool.saved()? {
                Some(saved) => {
                    let ours = Present::read(&saved);
                    let rules = saved.lines().filter(|line| line.starts_with("-A")).count();
                    usable.push((tool, !ours.is_empty(), rules > 0));
                }
                None if tool.backend == Backend::Legacy => usable.push((tool, false, false)),
                // The program is there, the kernel's side is not.
                None => {}
            }
        }
        let plain = which(&format!("{}-save", stem(family)))
            .and_then(|save| Self { family, backend: Backend::Nft, restore: save.clone(), save }.says());
        let rank = |(tool, ours, rules): &(Self, bool, bool)| (*ours, *rules, Some(tool.backend) == plain);
        let best = usable.iter().map(rank).max();
        let best = usable.iter().find(|entry| Some(rank(entry)) == best).map(|(tool, ..)| tool.clone());
        best.ok_or_else(|| none(""))
    }
}

fn stem(family: Family) -> &'static str {
    if family == Family::V4 { "iptables" } else { "ip6tables" }
}

/// The program `name`, on PATH or where administrators' programs are.
fn which(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let runs = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(runs)
}

/// Refuses a process that may not change rules, before a program of iptables says so in its own way.
pub(crate) fn capabilities(backend: Backend) -> Result<(), InterceptError> {
    let Ok(status) = std::fs::read_to_string("/proc/thread-self/status") else { return Ok(()) };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Ok(());
    };
    // Bit numbers of linux/capability.h. Legacy iptables talks through a raw socket.
    let needed: &[(u32, &str)] = match backend {
        Backend::Nft => &[(12, "CAP_NET_ADMIN")],
        Backend::Legacy => &[(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")],
    };
    match needed.iter().find(|(bit, _)| effective >> bit & 1 == 0) {
        Some((_, capability)) => Err(InterceptError::Capability { capability }),
        None => Ok(()),
    }
}

/// Whether the kernel has IPv6 in this namespace.
pub(crate) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/thread-self/net/if_inet6").exists()
}

/// The namespace's own addresses of `family`, loopback left out.
pub(crate) fn own_addresses(family: Family) -> Vec<IpAddr> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    match family {
        Family::V4 => local_v4(&read("/proc/thread-self/net/fib_trie")).into_iter().map(IpAddr::V4).collect(),
        Family::V6 => local_v6(&read("/proc/thread-self/net/if_inet6")).into_iter().map(IpAddr::V6).collect(),
    }
}

/// The local addresses in fib_trie, where each is a `|-- 10.0.0.5` followed by `/32 host LOCAL`.
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.filter(|ip| !ip.is_loopback() && !found.contains(ip)));
        }
    }
    found
}

/// The usable addresses in if_inet6: `fd0000000000000000000000000000005 02 40 00 80 eth0`.
fn local_v6(table: &str) -> Vec<Ipv6Addr> {
    /// IFA_F_TENTATIVE and IFA_F_DADFAILED: not usable (yet).
    const UNUSABLE: u32 = 0x40 | 0x08;
    /// Link-local scope: needs an interface to be dialed.
    const LINK: &str = "20";
    let address = |line: &str| {
        let mut columns = line.split_whitespace();
        let address = u128::from_str_radix(columns.next()?, 16).ok()?;
        let scope = columns.nth(2)?;
        let flags = u32::from_str_radix(columns.next()?, 16).ok()?;
        let address = Ipv6Addr::from(address);
        (scope != LINK && flags & UNUSABLE == 0 && !address.is_loopback()).then_some(address)
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  |-- 0.0.0.0\n     /0 universe UNICAST\nLocal:\n  +-- 10.0.0.0/24\n     |-- 10.0.0.5\n        \
                    /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n\
                    Local:\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 0, 5)]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fd000000000000000000000000000005 02 40 00 80     eth0\n\
                     fd000000000000000000000000000006 02 40 00 c0     eth0\n\
                     fe800000000000000000000000000005 02 40 20 80     eth0\nnonsense\n";
        assert_eq!(local_v6(table), ["fd00::5".parse::<Ipv6Addr>().unwrap()]);
    }
}
