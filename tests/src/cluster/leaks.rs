//! Logs of Weft's own containers, and looking in them for what must be in none.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::Cluster;
use super::node::entries;

/// How much of a token or key is enough to know it by.
const MARK: usize = 24;
/// How long each part of what looks like a token must be at least.
const PART: usize = 10;

/// What containers wrote, by `<namespace>_<pod>_<uid>/<container>/<restart>`.
#[derive(Debug, Clone, Default)]
pub struct Logs(BTreeMap<String, String>);

impl Logs {
    /// Those of containers with this name.
    pub fn of<'a>(&'a self, container: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mine = move |name: &&String| name.split('/').nth(1) == Some(container);
        self.0.iter().filter(move |(name, _)| mine(name)).map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Takes in a later look: logs that have grown replace what was there, those of pods that are gone stay.
    pub fn join(&mut self, later: Self) {
        self.0.extend(later.0);
    }
}

impl Cluster {
    /// All logs of the containers `weft-*` that the nodes have now, those of earlier restarts included.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn weft_logs(&self) -> Result<Logs> {
        let mut logs = BTreeMap::new();
        for library in self.node_libraries() {
            // <node>/var-log/pods/<namespace>_<pod>_<uid>/<container>/<restart>.log
            let pods = library.with_file_name("var-log").join("pods");
            for file in entries(&pods).iter().flat_map(entries).flat_map(entries) {
                let name = file.strip_prefix(&pods).context("a log's path")?.with_extension("");
                let name = name.display().to_string();
                if !name.split('/').nth(1).is_some_and(|container| container.starts_with("weft-")) {
                    continue;
                }
                match fs::read(&file) {
                    Ok(bytes) => drop(logs.insert(name, String::from_utf8_lossy(&bytes).into_owned())),
                    // Of a pod that went meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
                }
            }
        }
        Ok(Logs(logs))
    }
}

/// What must not be in a log.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// What it is, and the part that tells it.
    known: Vec<(String, String)>,
}

impl Secrets {
    /// A token: its signature is what makes it one.
    pub fn token(&mut self, what: &str, token: &str) {
        let signature = token.trim().rsplit('.').next().unwrap_or_default();
        self.text(what, signature);
    }

    /// A key in PEM: each line of its body.
    pub fn pem(&mut self, what: &str, pem: &str) {
        pem.lines().filter(|line| !line.starts_with('-')).for_each(|line| self.text(what, line));
    }

    /// Any other text.
    pub fn text(&mut self, what: &str, text: &str) {
        let mark: String = text.trim().chars().take(MARK).collect();
        // What is too short is found everywhere.
        if mark.len() >= PART {
            self.known.push((what.to_owned(), mark));
        }
    }

    /// How many are known; beyond them, whatever looks like a key or a token is found as well.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What of it is in a text, each with its line number; the secret itself is not repeated.
    pub fn found_in(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let mut tell = |what: &str| found.push(format!("line {}: {what}", number + 1));
            if line.contains("PRIVATE KEY") {
                tell("a private key in PEM");
            }
            if has_jwt(line) {
                tell("what looks like a token");
            }
            for (what, mark) in &self.known {
                if line.contains(mark.as_str()) {
                    tell(what);
                }
            }
        }
        found
    }
}

/// Whether a text has two parts of base64url with a dot between them that both begin as a JSON object does.
fn has_jwt(text: &str) -> bool {
    const OBJECT: &str = "eyJ";
    let length = |text: &str| {
        text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).count()
    };
    text.match_indices(OBJECT).any(|(at, _)| {
        let rest = text.get(at..).unwrap_or_default();
        let header = length(rest);
        let claims = rest.get(header..).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
        header >= PART && claims.starts_with(OBJECT) && length(claims) >= PART
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.\
                         c2lnbmF0dXJlLW9mLXRoaXMtdG9rZW4tYW5kLW5vLW90aGVy";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n\
                       q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=\n-----END PRIVATE KEY-----\n";

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        secrets.token("web's token", TOKEN);
        secrets.pem("the CA's key", KEY);
        secrets.text("a password", "correct horse battery staple");
        secrets
    }

    #[test]
    fn each_secret_is_found_wherever_it_is() {
        let signature = TOKEN.rsplit('.').next().unwrap();
        let second = KEY.lines().nth(2).unwrap();
        for (log, what) in [
            (
                format!("INFO fine\nWARN authorization=\"Bearer {TOKEN}\"\n"),
                "line 2: what looks like a token",
            ),
            (format!("a {signature}"), "line 1: web's token"),
            (format!("{KEY:?}"), "line 1: a private key in PEM"),
            (format!("\n\nkey={second}"), "line 3: the CA's key"),
            ("login(correct horse battery staple)".to_owned(), "line 1: a password"),
        ] {
            let found = secrets().found_in(&log);
            assert!(found.iter().any(|found| found == what), "{what} in {log:?}: {found:?}");
            assert!(!found.concat().contains(&signature[..8]), "the report leaks: {found:?}");
        }
        // Of a token that nobody told of, its shape is enough; cut after the claims too.
        assert_eq!(Secrets::default().found_in(TOKEN).len(), 1);
        assert_eq!(Secrets::default().found_in(TOKEN.rsplit_once('.').unwrap().0).len(), 1);
    }

    #[test]
    fn what_a_log_may_have_is_not_found() {
        let log = "INFO weft::audit: identity=spiffe://weft.local/ns/a/sa/b serial=4f2a8c outcome=\"signed\"\n\
                   WARN reason=the token has expired file=/var/run/secrets/weft/token\n\
                   hash=eyJhbGciOiJFUzI1NiJ9 eyJ.eyJ weft-ca-key.pem\n";
        assert_eq!(secrets().found_in(log), Vec::<String>::new());
        assert_eq!(secrets().len(), 4);
        let mut none = Secrets::default();
        none.text("too short to mean anything", "a");
        assert!(none.is_empty());
    }

    #[test]
    fn logs_of_pods_that_are_gone_stay() {
        let of = |name: &str, text: &str| Logs(BTreeMap::from([(name.to_owned(), text.to_owned())]));
        let mut logs = of("a_web_1/weft-proxy/0", "one");
        logs.join(of("a_web_2/weft-proxy/0", "two"));
        logs.join(of("a_web_2/weft-init/0", "three"));
        logs.join(of("a_web_2/weft-proxy/0", "two and more"));
        let texts: Vec<&str> = logs.of("weft-proxy").map(|(_, text)| text).collect();
        assert_eq!(texts, ["one", "two and more"]);
    }
}
