//! What can go wrong with interception, each with its cure.

use crate::{Backend, Family};

/// An error of the rules or of their self-test.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// An option that cannot be used.
    #[error("{option} {value:?}: {reason}")]
    Option {
        /// The command-line option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and the cure.
        reason: String,
    },
    /// No usable iptables.
    #[error(
        "none of {tried} can be run; install the iptables package (Debian, Alpine, RHEL: iptables){hint}"
    )]
    NoBinary {
        /// The programs that were looked for.
        tried: String,
        /// More to say.
        hint: &'static str,
    },
    /// The process may not change rules.
    #[error(
        "the capability {capability} is missing; run as root, in Kubernetes with \
         securityContext.capabilities.add: [NET_ADMIN, NET_RAW] and runAsUser: 0"
    )]
    Capability {
        /// `CAP_NET_ADMIN` or `CAP_NET_RAW`.
        capability: &'static str,
    },
    /// The kernel lacks something.
    #[error(
        "the kernel of this machine has no {feature} for {family} ({detail}); on the node: modprobe {modules}{alternative}"
    )]
    Kernel {
        /// What it lacks.
        feature: String,
        /// The family.
        family: Family,
        /// iptables' own words.
        detail: String,
        /// The modules that provide it.
        modules: String,
        /// Another way.
        alternative: &'static str,
    },
    /// The lock file cannot be made.
    #[error(
        "iptables cannot make its lock file ({detail}); mount an emptyDir at /run, or set XTABLES_LOCKFILE"
    )]
    Lock {
        /// iptables' own words.
        detail: String,
    },
    /// iptables refused for another reason.
    #[error("{program} failed: {detail}{line}")]
    Restore {
        /// The program.
        program: String,
        /// Its own words.
        detail: String,
        /// The line of the input that it names, or nothing.
        line: String,
    },
    /// The program could not be run at all.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The rules are not there as they should be.
    #[error("{family} ({backend}): {reason}; run weft init again")]
    NotInstalled {
        /// The family.
        family: Family,
        /// The backend.
        backend: Backend,
        /// What is missing.
        reason: String,
    },
    /// A probe was not redirected.
    #[error("self-test, {family} {what}: {reason}")]
    Probe {
        /// The family.
        family: Family,
        /// What was probed.
        what: &'static str,
        /// What happened instead, and the cure.
        reason: String,
    },
}
