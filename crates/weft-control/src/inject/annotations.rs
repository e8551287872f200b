//! The `weft.dev/*` annotations of a pod: read strictly, because a mistake that is passed over becomes a pod that is not
//! protected as its author thinks.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use weft_config::{Env, Origin, ProxyConfig, ProxyProtocolPort};

use super::limits::Limits;
use super::pod::{INIT, PROXY, Pod};
use super::problem::Problem;
use super::quantity::Quantity;
use super::settings::{InjectSettings, Resources};
use super::share;
pub(crate) use crate::names::{INJECT_LABEL, INJECTED, MESH, MODE, PREFIX};
use weft_intercept::PortRange;

const SKIP_INBOUND: &str = "weft.dev/skip-inbound-ports";
const SKIP_OUTBOUND: &str = "weft.dev/skip-outbound-ports";
const SKIP_CIDRS: &str = "weft.dev/skip-outbound-cidrs";
const OPAQUE: &str = "weft.dev/opaque-ports";
const CONNECT: &str = "weft.dev/connect-ports";
const PROXY_PROTOCOL: &str = "weft.dev/proxy-protocol-ports";
const LOG: &str = "weft.dev/log";
pub(crate) const CONFIG: &str = "weft.dev/config";
const REWRITE_PROBES: &str = "weft.dev/rewrite-probes";

/// An annotation for one resource of one of our containers.
struct Share {
    annotation: &'static str,
    resource: &'static str,
    is_limit: bool,
}

const fn request(annotation: &'static str, resource: &'static str) -> Share {
    Share { annotation, resource, is_limit: false }
}

const fn limit(annotation: &'static str, resource: &'static str) -> Share {
    Share { annotation, resource, is_limit: true }
}

const OF_PROXY: [Share; 6] = [
    request("weft.dev/proxy-cpu-request", "cpu"),
    limit("weft.dev/proxy-cpu-limit", "cpu"),
    request("weft.dev/proxy-memory-request", "memory"),
    limit("weft.dev/proxy-memory-limit", "memory"),
    request("weft.dev/proxy-ephemeral-storage-request", "ephemeral-storage"),
    limit("weft.dev/proxy-ephemeral-storage-limit", "ephemeral-storage"),
];
const OF_INIT: [Share; 6] = [
    request("weft.dev/init-cpu-request", "cpu"),
    limit("weft.dev/init-cpu-limit", "cpu"),
    request("weft.dev/init-memory-request", "memory"),
    limit("weft.dev/init-memory-limit", "memory"),
    request("weft.dev/init-ephemeral-storage-request", "ephemeral-storage"),
    limit("weft.dev/init-ephemeral-storage-limit", "ephemeral-storage"),
];

/// Every annotation that a pod may carry, as the reference page lists them.
pub const POD_ANNOTATIONS: [&str; 23] = [
    MODE,
    SKIP_INBOUND,
    SKIP_OUTBOUND,
    SKIP_CIDRS,
    OPAQUE,
    CONNECT,
    PROXY_PROTOCOL,
    OF_PROXY[0].annotation,
    OF_PROXY[1].annotation,
    OF_PROXY[2].annotation,
    OF_PROXY[3].annotation,
    OF_PROXY[4].annotation,
    OF_PROXY[5].annotation,
    OF_INIT[0].annotation,
    OF_INIT[1].annotation,
    OF_INIT[2].annotation,
    OF_INIT[3].annotation,
    OF_INIT[4].annotation,
    OF_INIT[5].annotation,
    LOG,
    CONFIG,
    REWRITE_PROBES,
    INJECTED,
];

/// A list of ports that is longer than this is a mistake, and would not fit into one rule after another either.
const MAX_ENTRIES: usize = 256;

/// What a pod's annotations ask for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) mode: Option<String>,
    /// As `weft init` and the configuration read them: `22,9000-9010`; empty for none.
    pub(crate) skip_inbound: String,
    pub(crate) skip_outbound: String,
    pub(crate) skip_cidrs: String,
    pub(crate) opaque: String,
    pub(crate) connect: String,
    /// As the configuration reads it: `5432=v1,8080=v2`.
    pub(crate) proxy_protocol: String,
    pub(crate) log: Option<String>,
    /// Fields and values for `--set`.
    pub(crate) config: Vec<(String, String)>,
    pub(crate) keep_probes: bool,
    /// Of `weft-proxy`.
    pub(crate) resources: Resources,
    /// Of `weft-init`.
    pub(crate) init_resources: Resources,
    /// What a LimitRange has against these.
    pub(crate) warnings: Vec<String>,
}

/// Reads one pod's annotations, collecting what is wrong.
struct Reader<'a> {
    pod: &'a Pod,
    limits: &'a Limits,
    problems: &'a mut Vec<Problem>,
    warnings: Vec<String>,
}

impl Asked {
    /// Reads the annotations of `pod`; `settings` have the resources where none ask for others, and `limits` bounds them.
    pub(crate) fn read(
        pod: &Pod,
        settings: &InjectSettings,
        limits: &Limits,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let fitting = |defaults| share::within(defaults, pod.spec.resources.as_ref());
        let mut reader = Reader { pod, limits, problems, warnings: Vec::new() };
        reader.unknown();
        let asked = Self {
            mode: reader.word(MODE, &["strict", "permissive", "disable"]),
            skip_inbound: reader.list(SKIP_INBOUND, port),
            skip_outbound: reader.list(SKIP_OUTBOUND, port),
            skip_cidrs: reader.list(SKIP_CIDRS, cidr),
            opaque: reader.list(OPAQUE, port),
            connect: reader.list(CONNECT, port),
            proxy_protocol: reader.proxy_protocol(),
            log: reader.log(),
            config: reader.config(),
            keep_probes: reader.word(REWRITE_PROBES, &["enabled", "disabled"]).as_deref() == Some("disabled"),
            resources: reader.resources((PROXY, &OF_PROXY), fitting(&settings.resources)),
            init_resources: reader.resources((INIT, &OF_INIT), fitting(&settings.init_resources)),
            warnings: reader.warnings,
        };
        asked.check_twice(problems);
        asked.check_announced(problems);
        asked
    }

    /// A field that an annotation of its own sets may not be set by `weft.dev/config` as well: one of them would be
    /// silently without effect.
    fn check_twice(&self, problems: &mut Vec<Problem>) {
        let own = [
            (MODE, "inbound.mode", self.mode.is_some()),
            (LOG, "log", self.log.is_some()),
            (OPAQUE, "inbound.opaquePorts", !self.opaque.is_empty()),
            (OPAQUE, "outbound.opaquePorts", !self.opaque.is_empty()),
            (CONNECT, "inbound.connectPorts", !self.connect.is_empty()),
            (PROXY_PROTOCOL, "inbound.proxyProtocol", !self.proxy_protocol.is_empty()),
        ];
        for (annotation, field, given) in own {
            if given && self.config.iter().any(|(set, _)| set == field) {
                let what = format!("annotation {CONFIG}, field {field}");
                problems.push(Problem::new(
                    what,
                    format!("{annotation} sets this as well"),
                    "keep one of them",
                ));
            }
        }
    }
}

impl Asked {
    /// What is not captured, the proxy cannot put a header before: the application would refuse all of it.
    fn check_announced(&self, problems: &mut Vec<Problem>) {
        let skipped: Vec<PortRange> =
            self.skip_inbound.split(',').filter_map(|range| range.parse().ok()).collect();
        let announced = self.proxy_protocol.split(',').filter_map(|entry| entry.parse().ok());
        for ProxyProtocolPort { port, .. } in announced {
            if skipped.iter().any(|range| range.contains(port)) {
                let reason =
                    format!("{SKIP_INBOUND} has port {port} as well, so that no header would come before it");
                let what = format!("annotation {PROXY_PROTOCOL}");
                problems.push(Problem::new(what, reason, "take the port out of one of them"));
            }
        }
    }
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        self.pod.annotations.get(name).cloned()
    }

    fn wrong(&mut self, name: &str, value: &str, reason: impl Into<String>, cure: impl Into<String>) {
        self.problems.push(Problem::new(format!("annotation {name}: {}", shown(value)), reason, cure));
    }

    fn unknown(&mut self) {
        let unknown: Vec<(String, String)> = self
            .pod
            .annotations
            .iter()
            .filter(|(name, _)| name.starts_with(PREFIX) && !POD_ANNOTATIONS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in unknown {
            let (reason, cure) = match name.as_str() {
                INJECT_LABEL => (
                    "this is a label, not an annotation",
                    format!("write it under metadata.labels, as {INJECT_LABEL}: enabled or disabled"),
                ),
                MESH => (
                    "this is for Services, not for pods",
                    format!("write it on the Service; to leave a pod out, label it {INJECT_LABEL}: disabled"),
                ),
                _ => (
                    "there is no such annotation",
                    match nearest(&name) {
                        Some(known) => format!("did you mean {known}?"),
                        None => format!("there are: {}", POD_ANNOTATIONS.join(", ")),
                    },
                ),
            };
            self.wrong(&name, &value, reason, cure);
        }
    }

    fn word(&mut self, name: &str, words: &[&str]) -> Option<String> {
        let value = self.get(name)?;
        if words.contains(&value.as_str()) {
            return Some(value);
        }
        self.wrong(name, &value, "this value is not known", format!("write {}", words.join(" or ")));
        None
    }

    /// A list with commas, each entry written by `read` as the proxy reads it.
    fn list(&mut self, name: &str, read: fn(&str) -> Result<String, String>) -> String {
        let Some(value) = self.get(name) else { return String::new() };
        if value.trim().is_empty() {
            return String::new();
        }
        let (mut entries, mut wrong) = (Vec::new(), Vec::new());
        for entry in value.split(',').map(str::trim) {
            match read(entry) {
                Ok(entry) if entries.contains(&entry) => {}
                Ok(entry) => entries.push(entry),
                Err(reason) => wrong.push(format!("{entry:?}: {reason}")),
            }
        }
        if entries.len() > MAX_ENTRIES {
            wrong.push(format!("these are {} entries; at most {MAX_ENTRIES} are allowed", entries.len()));
        }
        if !wrong.is_empty() {
            wrong.truncate(3);
            self.wrong(name, &value, wrong.join(", "), "separate entries with commas");
            return String::new();
        }
        entries.join(",")
    }

    fn proxy_protocol(&mut self) -> String {
        let entries = self.list(PROXY_PROTOCOL, announced);
        // Each is right by itself; the proxy also compares them.
        let set = [("inbound.proxyProtocol".to_owned(), entries.clone())];
        match check(&set) {
            Ok(()) => entries,
            Err(reasons) => {
                let reasons: Vec<String> = reasons.into_iter().map(|(_, reason)| reason).collect();
                self.wrong(PROXY_PROTOCOL, &entries, reasons.join(", "), "write each port once");
                String::new()
            }
        }
    }

    fn log(&mut self) -> Option<String> {
        let value = self.get(LOG)?;
        match check(&[("log".to_owned(), value.clone())]) {
            Ok(()) => Some(value),
            Err(reasons) => {
                let reason = reasons.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join(", ");
                self.wrong(
                    LOG,
                    &value,
                    reason,
                    "write a level such as debug, or directives such as info,weft_proxy=debug",
                );
                None
            }
        }
    }

    fn config(&mut self) -> Vec<(String, String)> {
        let Some(value) = self.get(CONFIG) else { return Vec::new() };
        let (mut sets, mut seen) = (Vec::new(), BTreeSet::new());
        let lines = value.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let Some((field, set)) = line.split_once('=').map(|(field, set)| (field.trim(), set.trim()))
            else {
                self.wrong(CONFIG, line, "this line has no =", "write one field=value a line");
                continue;
            };
            if field.starts_with("bind.") || field.starts_with("workload.") {
                let reason =
                    format!("{field} belongs to the injector: probes and interception rules rely on it");
                self.wrong(CONFIG, line, reason, "leave it out");
            } else if !seen.insert(field.to_owned()) {
                self.wrong(CONFIG, line, format!("{field} is set above already"), "keep one of them");
            } else {
                sets.push((field.to_owned(), set.to_owned()));
            }
        }
        if let Err(reasons) = check(&sets) {
            for (field, reason) in reasons {
                let what = format!("annotation {CONFIG}, field {field}");
                self.problems.push(Problem::new(what, reason, "see the reference of weft.yaml"));
            }
            return Vec::new();
        }
        sets
    }

    /// `resources` with what annotations ask for in the place of the defaults, and the rest made to fit.
    fn resources(&mut self, (name, shares): (&str, &[Share]), mut resources: Resources) -> Resources {
        let mut asked = Vec::new();
        let mut fixed = Vec::new();
        for Share { annotation, resource, is_limit } in shares {
            let Some(value) = self.get(annotation) else { continue };
            match Quantity::from_str(value.trim()) {
                Ok(quantity) => {
                    let of = if *is_limit { &mut resources.limits } else { &mut resources.requests };
                    of.insert((*resource).to_owned(), quantity);
                    asked.push(*annotation);
                    fixed.push((*resource, *is_limit));
                }
                Err(reason) => self.wrong(annotation, &value, "this is not a quantity", reason),
            }
        }
        if !asked.is_empty() {
            for problem in resources.problems() {
                let what = format!("annotation {}", asked.join(", "));
                self.problems.push(Problem::new(
                    what,
                    problem,
                    "set request and limit so that the request is not above the limit",
                ));
            }
        }
        self.warnings.extend(self.limits.fit(name, &mut resources, &fixed));
        resources
    }
}

/// What the proxy itself would say to these fields: field and reason of each that it would refuse.
///
/// The rest of its configuration is not known here, so a value is judged by itself. That is also why the file that is
/// checked has nothing but what must not be missing.
fn check(sets: &[(String, String)]) -> Result<(), Vec<(String, String)>> {
    const LEAST: &str = "identity: {ca: {address: \"weft-ca.weft-system.svc:15012\"}}";
    let env =
        sets.iter().fold(Env::empty(), |env, (field, value)| env.with_flag(field, field, value.clone()));
    let Err(errors) = ProxyConfig::from_text(Path::new("weft.yaml"), LEAST, &env) else { return Ok(()) };
    let told = errors.problems.into_iter().map(|problem| {
        let field = match problem.origin {
            Origin::Flag(field) => field,
            Origin::File { .. } | Origin::Env(_) | Origin::Default => problem.field,
        };
        let cure = if problem.cure.is_empty() { String::new() } else { format!("; {}", problem.cure) };
        (field, format!("{}{cure}", problem.reason))
    });
    Err(told.collect())
}

/// A port or range, as both the rules and the configuration read it.
fn port(entry: &str) -> Result<String, String> {
    let strict = entry.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let range: PortRange = entry
        .parse()
        .ok()
        .filter(|_| strict)
        .ok_or("write a port from 1 to 65535, or a range such as 6000-6100")?;
    Ok(if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    })
}

/// A port whose connections begin with a header of the PROXY protocol.
fn announced(entry: &str) -> Result<String, String> {
    let entry = entry.parse::<ProxyProtocolPort>().map(|entry| entry.to_string());
    entry.map_err(|reason| format!("this {reason}; write a port such as 8080, or 5432=v1"))
}

/// A network. Stray bits behind the prefix are a mistake: either the prefix or the address is not what was meant.
fn cidr(entry: &str) -> Result<String, String> {
    let net = entry.parse::<IpNet>().or_else(|_| entry.parse::<std::net::IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| "write a network such as 10.0.0.0/8 or fd00::/8, or an address".to_owned())?;
    if net != net.trunc() {
        return Err(format!("there are bits behind the prefix; write {} or {}", net.trunc(), net.addr()));
    }
    Ok(net.to_string())
}

/// The known annotation that is one or two slips away.
fn nearest(name: &str) -> Option<&'static str> {
    let scored = POD_ANNOTATIONS
        .iter()
        .filter(|known| **known != INJECTED)
        .map(|known| (distance(name, known), *known));
    scored.min_by_key(|(far, _)| *far).filter(|(far, _)| *far <= 2).map(|(_, known)| known)
}

/// Levenshtein distance, octet by octet. Annotation names have 317 octets at most.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (y, above) in b.bytes().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != y)).min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// A value in a message: quoted, and not longer than a line.
fn shown(value: &str) -> String {
    const MOST: usize = 80;
    if value.chars().count() <= MOST {
        return format!("{value:?}");
    }
    let start: String = value.chars().take(MOST).collect();
    format!("{start:?}...")
}

#[cfg(test)]
#[path = "annotations_tests.rs"]
mod tests;
