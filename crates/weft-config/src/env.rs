//! Values laid over the file: `WEFT_*` variables and command-line flags.

use std::collections::BTreeMap;

/// The prefix of every variable.
const PREFIX: &str = "WEFT_";

/// What overrides the file. Flags win over variables.
#[derive(Clone, Debug, Default)]
pub struct Env {
    vars: BTreeMap<String, String>,
    /// By field path: the flag's name and its value.
    flags: BTreeMap<String, (String, String)>,
    role: Role,
}

/// What a process is. It decides which fields of the configuration mean something, and what some of them are by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Beside an application (`weft proxy`).
    #[default]
    Sidecar,
    /// At an edge, with listeners of its own (`weft gateway`).
    Gateway,
}

impl Env {
    /// Nothing is overridden.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The `WEFT_*` variables of this process. Values that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        Self::from_vars(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// The `WEFT_*` variables among `vars`. An empty value counts as not set, because a manifest cannot leave a
    /// variable out on a condition.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars = vars.into_iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty());
        Self { vars: vars.collect(), flags: BTreeMap::new(), role: Role::default() }
    }

    /// Reads the configuration for a process of this role.
    #[must_use]
    pub fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Lays the value of `flag` (with its dashes) over `field`.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, field: &str, value: impl Into<String>) -> Self {
        self.flags.insert(field.to_owned(), (flag.to_owned(), value.into()));
        self
    }

    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    pub(crate) fn flag(&self, field: &str) -> Option<(&str, &str)> {
        self.flags.get(field).map(|(flag, value)| (flag.as_str(), value.as_str()))
    }

    /// The flags whose field is not among `used`: the flag's name and the field.
    pub(crate) fn unknown_flags<'a>(
        &'a self,
        used: &'a std::collections::BTreeSet<String>,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let unknown = self.flags.iter().filter(move |(field, _)| !used.contains(*field));
        unknown.map(|(field, (flag, _))| (flag.as_str(), field.as_str()))
    }

    /// Whether a field below the section at `path` is overridden.
    pub(crate) fn sets_below(&self, path: &str) -> bool {
        let variables = format!("{}_", variable(path));
        let fields = format!("{path}.");
        self.vars.keys().any(|name| name.starts_with(&variables))
            || self.flags.keys().any(|field| field.starts_with(&fields))
    }

    /// The variables that `used` does not have, without those that Kubernetes makes for a Service whose name begins
    /// with `weft` (`WEFT_CA_SERVICE_HOST`, `WEFT_CA_PORT_15012_TCP`) and those that are read elsewhere.
    pub(crate) fn unknown<'a>(
        &'a self,
        used: &'a std::collections::BTreeSet<String>,
    ) -> impl Iterator<Item = &'a str> {
        const ELSEWHERE: [&str; 2] = ["WEFT_CONFIG", "WEFT_LOG_FORMAT"];
        self.vars.keys().map(String::as_str).filter(move |name| {
            let link = name.contains("_SERVICE_HOST")
                || name.contains("_SERVICE_PORT")
                || name.ends_with("_PORT")
                || name.contains("_PORT_");
            !used.contains(*name) && !link && !ELSEWHERE.contains(name)
        })
    }
}

/// The variable that overrides the field at `path`: `timeouts.headerRead` is `WEFT_TIMEOUTS_HEADER_READ`.
pub(crate) fn variable(path: &str) -> String {
    let mut name = String::from(PREFIX);
    for c in path.chars() {
        match c {
            '.' => name.push('_'),
            c if c.is_ascii_uppercase() => {
                name.push('_');
                name.push(c);
            }
            c => name.push(c.to_ascii_uppercase()),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_variable() {
        assert_eq!(variable("workers"), "WEFT_WORKERS");
        assert_eq!(variable("timeouts.headerRead"), "WEFT_TIMEOUTS_HEADER_READ");
        assert_eq!(variable("limits.http2.maxFrameSize"), "WEFT_LIMITS_HTTP2_MAX_FRAME_SIZE");
    }

    #[test]
    fn the_variables_of_a_kubernetes_service_are_not_taken_for_mistakes() {
        let vars =
            ["WEFT_CA_SERVICE_HOST", "WEFT_CA_PORT_15012_TCP_ADDR", "WEFT_CA_PORT", "WEFT_WROKERS", "HOME"];
        let env = Env::from_vars(vars.map(|name| (name.to_owned(), "x".to_owned())));
        let used = std::collections::BTreeSet::new();
        assert_eq!(env.unknown(&used).collect::<Vec<_>>(), ["WEFT_WROKERS"]);
    }
}
