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
/// an answer may take as long as it likes.
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

fn made(mut config: Config, answer: Option<Duration>) -> Result<Client, KubeError> {
    config.connect_timeout = Some(CONNECT);
    if answer.is_some() {
        config.read_timeout = answer;
    }
    Client::try_from(config).map_err(|error| unreachable(&describe(&error)))
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
