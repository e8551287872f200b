//! Writes, checks and removes the rules.

use crate::backend::{Backend, BackendChoice, Families, Tool, capabilities, has_ipv6, own_addresses, run};
use crate::config::{Family, InterceptConfig};
use crate::error::InterceptError;
use crate::rules::{CHAINS, JUMPS, Present};

/// How long to wait for another program that holds iptables' lock, seconds.
const LOCK_WAIT: &str = "10";

/// The machine as it was found: which program writes the rules of which family.
#[derive(Clone, Debug)]
pub struct Host {
    tools: Vec<Tool>,
    notices: Vec<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The families that have rules now (or had them, after a removal), and the implementation of each.
    pub families: Vec<(Family, Backend)>,
    /// What a person should know though nothing failed.
    pub notices: Vec<String>,
}

impl Host {
    /// Looks for iptables, IPv6 and capabilities.
    ///
    /// # Errors
    /// What is missing, with the cure.
    pub fn detect(families: Families, choice: BackendChoice) -> Result<Self, InterceptError> {
        let mut host = Self { tools: Vec::new(), notices: Vec::new() };
        if families != Families::V6 {
            host.tools.push(Tool::choose(Family::V4, choice)?);
        }
        match families {
            Families::V4 => {
                host.notices.push("IPv6 is left alone, as asked: IPv6 traffic is not captured".to_owned());
            }
            Families::Auto if !has_ipv6() => {
                host.notices.push("the kernel has no IPv6: only IPv4 has rules".to_owned());
            }
            Families::Auto | Families::V6 | Families::Both => {
                host.tools.push(Tool::choose(Family::V6, choice)?);
            }
        }
        for tool in &host.tools {
            capabilities(tool.backend)?;
        }
        Ok(host)
    }

    pub(crate) fn tools(&self) -> &[Tool] {
        &self.tools
    }

    fn report(&self) -> Report {
        let families = self.tools.iter().map(|tool| (tool.family, tool.backend)).collect();
        Report { families, notices: self.notices.clone() }
    }
}

/// Writes the rules. Rules of an earlier run, of either implementation, are replaced.
///
/// # Errors
/// What is wrong with `config` or with the machine. A family whose table nat could not be written keeps what it had.
pub fn install(config: &InterceptConfig, host: &Host) -> Result<Report, InterceptError> {
    config.validate()?;
    let mut report = host.report();
    for tool in host.tools() {
        match write(config, tool) {
            Ok(notice) => report.notices.extend(notice),
            // A kernel without the tables but with IPv6 only on paper: there is no traffic that could slip past.
            Err(error @ InterceptError::Kernel { .. })
                if tool.family == Family::V6 && own_addresses(Family::V6).is_empty() =>
            {
                report.families.retain(|(family, _)| *family != Family::V6);
                report.notices.push(format!("IPv6 has no rules, and no address but loopback: {error}"));
                continue;
            }
            Err(error) => return Err(error),
        }
        // The copy that another implementation may have from an earlier run would capture as well.
        for other in Tool::installed(tool.family).iter().filter(|other| other.backend != tool.backend) {
            clear(other)?;
        }
    }
    Ok(report)
}

/// Writes the rules of one family; a notice where the kernel has no conntrack zones.
fn write(config: &InterceptConfig, tool: &Tool) -> Result<Option<String>, InterceptError> {
    let present = tool.present()?;
    let error = match restore(tool, &config.render_over(tool.family, true, &present)) {
        Ok(()) => return Ok(None),
        Err(
            error @ (InterceptError::Capability { .. }
            | InterceptError::Lock { .. }
            | InterceptError::Run { .. }),
        ) => {
            return Err(error);
        }
        Err(error) => error,
    };
    if config.dns_port.is_none() {
        return Err(error);
    }
    // Table raw is committed first, so what failed may have been the zones alone.
    let present = tool.present()?;
    restore(tool, &config.render_over(tool.family, false, &present))?;
    Ok(Some(format!(
        "{} has no conntrack zones (module xt_CT, table raw): now and then a DNS query of the proxy that gets the port of \
         an earlier query of the application is lost and asked again ({error})",
        tool.family
    )))
}

/// Removes the rules, of every implementation that is installed.
///
/// # Errors
/// Where a program cannot be run or refuses.
pub fn remove(host: &Host) -> Result<Report, InterceptError> {
    let mut report = Report { notices: host.notices.clone(), ..Report::default() };
    for tool in host.tools().iter().flat_map(|tool| Tool::installed(tool.family)) {
        if clear(&tool)? {
            report.families.push((tool.family, tool.backend));
        }
    }
    Ok(report)
}

/// Removes the rules that `tool` sees. Whether there were any.
fn clear(tool: &Tool) -> Result<bool, InterceptError> {
    let present = tool.present()?;
    if present.is_empty() {
        return Ok(false);
    }
    restore(tool, &present.removal())?;
    Ok(true)
}

/// Checks that the rules are there, whole and once.
///
/// # Errors
/// The first thing that is missing.
pub fn verify_installed(config: &InterceptConfig, host: &Host) -> Result<Report, InterceptError> {
    let mut report = host.report();
    for tool in host.tools() {
        let present = tool.present()?;
        // Without zones is what a kernel without them has.
        let (full, plain) = (differs(config, tool, true, &present), differs(config, tool, false, &present));
        match (full, plain) {
            (None, _) => {}
            (Some(_), None) => report.notices.push(format!("{} has no conntrack zones", tool.family)),
            (Some(reason), Some(_))
                if tool.family == Family::V6
                    && present.is_empty()
                    && own_addresses(Family::V6).is_empty() =>
            {
                report.families.retain(|(family, _)| *family != Family::V6);
                report.notices.push(format!("IPv6 has no address but loopback, and no rules: {reason}"));
            }
            (Some(reason), Some(_)) => {
                return Err(InterceptError::NotInstalled {
                    family: tool.family,
                    backend: tool.backend,
                    reason,
                });
            }
        }
    }
    Ok(report)
}

/// The first difference between what should be there and what is.
fn differs(config: &InterceptConfig, tool: &Tool, zones: bool, present: &Present) -> Option<String> {
    let rules = config.rules(tool.family, zones);
    for (_, chain) in CHAINS {
        let wanted: Vec<&str> =
            rules.iter().filter(|rule| rule.chain == chain).map(|rule| rule.comment).collect();
        let there = present.comments(chain);
        if wanted != there {
            return Some(format!(
                "chain {chain} should have {} rules of ours and has {}",
                wanted.len(),
                there.len()
            ));
        }
    }
    for jump in &JUMPS {
        let wanted = usize::from(rules.iter().any(|rule| rule.chain == jump.to));
        let there = present.jumps(jump);
        if wanted != there {
            return Some(format!(
                "{} of table {} should jump to {} {wanted} times, not {there}",
                jump.from, jump.table, jump.to
            ));
        }
    }
    None
}

fn restore(tool: &Tool, input: &str) -> Result<(), InterceptError> {
    let said = run(&tool.restore, &["-w", LOCK_WAIT, "--noflush"], input)?;
    if said.ok { Ok(()) } else { Err(explain(tool, &said.err, input)) }
}

/// Turns what iptables says into what to do.
fn explain(tool: &Tool, err: &str, input: &str) -> InterceptError {
    let said = err.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |text: &str| said.contains(text);
    if has("lock file") {
        return InterceptError::Lock { detail: said };
    }
    if has("Permission denied") || has("Operation not permitted") || has("must be root") {
        return InterceptError::Capability { capability: "CAP_NET_ADMIN" };
    }
    // "Error occurred at line: 3", "line 3 failed", "line 3: RULE_APPEND failed".
    let number = said.split("line").skip(1).find_map(|rest| {
        let digits: String =
            rest.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    let line = number.and_then(|n| n.checked_sub(1)).and_then(|n| input.lines().nth(n)).unwrap_or("");
    let feature = if line.contains("-j CT") || line.starts_with("*raw") {
        Some(("CT target", "xt_CT iptable_raw"))
    } else if line.contains("-m owner") {
        Some(("owner match", "xt_owner"))
    } else if line.contains("-j REDIRECT") {
        Some(("REDIRECT target", "xt_REDIRECT nf_nat"))
    } else if line.contains("-m comment") {
        Some(("comment match", "xt_comment"))
    } else {
        None
    };
    let table = has("can't initialize")
        || has("unable to initialize")
        || has("Table does not exist")
        || has("TABLE_ADD failed");
    let missing = has("missing kernel module")
        || has("No chain/target/match")
        || has("No such file or directory")
        || has("not supported");
    let alternative = match tool.backend {
        Backend::Nft => ", or try --backend legacy",
        Backend::Legacy => ", or try --backend nft",
    };
    let (feature, modules) = match feature {
        _ if table => {
            let modules = match (tool.backend, tool.family) {
                (Backend::Nft, _) => "nf_tables nft_chain_nat nft_compat",
                (Backend::Legacy, Family::V4) => "ip_tables iptable_nat iptable_raw",
                (Backend::Legacy, Family::V6) => "ip6_tables ip6table_nat ip6table_raw",
            };
            ("table nat".to_owned(), modules)
        }
        Some((feature, modules)) if missing || has("failed") => (feature.to_owned(), modules),
        _ => {
            let line = if line.is_empty() { String::new() } else { format!(" (the rule: {line})") };
            return InterceptError::Restore {
                program: tool.restore.display().to_string(),
                detail: said,
                line,
            };
        }
    };
    InterceptError::Kernel {
        feature,
        family: tool.family,
        detail: said,
        modules: modules.to_owned(),
        alternative,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(backend: Backend) -> Tool {
        Tool { family: Family::V4, backend, save: "iptables-save".into(), restore: "iptables-restore".into() }
    }

    /// Words of iptables 1.8.9, seen on kernels and containers that lack the thing.
    #[test]
    fn what_iptables_says_becomes_what_to_do() {
        let input = "*nat\n:WEFT_X - [0:0]\n-A WEFT_X -m owner --uid-owner 1 -j RETURN\nCOMMIT\n";
        let told = |backend, err: &str| explain(&tool(backend), err, input).to_string();
        let legacy = told(
            Backend::Legacy,
            "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\n\nError occurred at line: 1\n",
        );
        assert!(
            legacy.contains("modprobe ip_tables iptable_nat") && legacy.contains("--backend nft"),
            "{legacy}"
        );
        let owner = told(
            Backend::Nft,
            "Warning: Extension owner revision 0 not supported, missing kernel module?\niptables-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (No such file or directory): rule in chain WEFT_X\n",
        );
        assert!(owner.contains("owner match") && owner.contains("modprobe xt_owner"), "{owner}");
        let root = told(
            Backend::Nft,
            "iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n",
        );
        assert!(root.contains("CAP_NET_ADMIN") && root.contains("capabilities.add"), "{root}");
        let lock =
            told(Backend::Legacy, "Fatal: can't open lock file /run/xtables.lock: Read-only file system\n");
        assert!(lock.contains("emptyDir"), "{lock}");
        let other = told(Backend::Legacy, "iptables-restore: line 2 failed\n");
        assert!(other.contains(":WEFT_X"), "{other}");
    }
}
