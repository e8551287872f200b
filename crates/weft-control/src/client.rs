//! The way to the API server.

use std::error::Error;
use std::time::Duration;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use crate::KubeError;

/// To an API server that is there a connection takes milliseconds; from a dead address nothing ever comes.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer to a command, the longest of which is a page of a list.
const ANSWER: Duration = Duration::from_secs(60);

/// A client as the surroundings say: `KUBECONFIG` or `~/.kube/config`, else the service account of the pod. It may watch:
/// an answer may take as long as it likes. It asks once: whoever has it decides whether and when to ask again.
///
/// Nothing is asked yet: whether the API server is there shows at the first request.
///
/// # Errors
/// [`KubeError::Api`] where there is neither, or what is there cannot be read.
pub async fn of_surroundings() -> Result<Client, KubeError> {
    made(Config::infer().await.map_err(|error| unreachable(&error))?, None)
}

/// A client for a command that somebody runs: of the context named, else as the surroundings say. Nothing is asked yet.
///
/// # Errors
/// [`KubeError::Api`] where there is no such context, or what is there cannot be read.
pub async fn of_context(context: Option<&str>) -> Result<Client, KubeError> {
    let config = match context {
        None => Config::infer().await.map_err(|error| unreachable(&error))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
            Config::from_kubeconfig(&options).await.map_err(|error| unreachable(&error))?
        }
    };
    made(config, Some(ANSWER))
}

fn made(config: Config, answer: Option<Duration>) -> Result<Client, KubeError> {
    Client::try_from(tuned(config, answer)).map_err(|error| unreachable(&describe(&error)))
}

fn tuned(mut config: Config, answer: Option<Duration>) -> Config {
    config.connect_timeout = Some(CONNECT);
    if answer.is_some() {
        config.read_timeout = answer;
    }
    // kube asks up to 15 times again after a 429, 503 or 504, the first time after 5 ms. A PodDisruptionBudget refuses by
    // a 429: such a client would be a storm against it. Everything that runs for long here has its own pauses.
    config.default_retry = answer.is_some();
    config
}

fn unreachable(reason: &dyn ToString) -> KubeError {
    KubeError::Api { what: "no way to the API server".to_owned(), reason: reason.to_string() }
}

/// What went wrong, in one line that holds nothing of what was sent or answered beyond the API server's own message:
/// requests and answers here hold tokens and keys.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => format!("status {}", status.code),
        kube::Error::Api(status) => format!("{} (status {})", status.message, status.code),
        kube::Error::SerdeError(_) => "an answer of another form than expected".to_owned(),
        other => {
            let mut text = String::new();
            let mut cause: Option<&(dyn Error + 'static)> = Some(other);
            while let Some(error) = cause {
                let part = error.to_string();
                // Some errors repeat their source in their own words.
                if !text.contains(&part) {
                    if !text.is_empty() {
                        text.push_str(": ");
                    }
                    text.push_str(&part);
                }
                cause = error.source();
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_runs_for_long_asks_once_and_a_command_asks_again() {
        let config = || Config::new("https://192.0.2.1".parse().unwrap());
        assert!(config().default_retry, "kube has another default now");
        let long = tuned(config(), None);
        assert!(!long.default_retry && long.connect_timeout == Some(CONNECT));
        let command = tuned(config(), Some(ANSWER));
        assert!(command.default_retry && command.read_timeout == Some(ANSWER));
    }
}
