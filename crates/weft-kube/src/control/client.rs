//! The client of the API server.

use std::error::Error;
use std::time::Duration;

use kube::{Client, Config};

use crate::KubeError;

/// To an API server that is there a connection takes milliseconds; from a dead address nothing ever comes.
const CONNECT: Duration = Duration::from_secs(5);

/// A client as the surroundings say: `KUBECONFIG` or `~/.kube/config`, else the service account of the pod.
///
/// Nothing is asked yet: whether the API server is there shows at the first request.
///
/// # Errors
/// [`KubeError::Api`] where there is neither, or what is there cannot be read.
pub async fn client() -> Result<Client, KubeError> {
    let fail = |reason: String| KubeError::Api { what: "no way to the API server".to_owned(), reason };
    let mut config = Config::infer().await.map_err(|error| fail(error.to_string()))?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| fail(describe(&error)))
}

/// What went wrong, in one line that holds nothing of what was sent or answered beyond the API server's own message:
/// requests and answers here hold tokens and keys.
pub(crate) fn describe(error: &kube::Error) -> String {
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
