//! The way to the API server, for commands that people run.

use std::time::Duration;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

use crate::KubeError;

/// To an API server that is there a connection takes milliseconds; from a dead address nothing ever comes.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer, the longest of which is a page of a list.
const ANSWER: Duration = Duration::from_secs(60);

/// A client of the cluster that `KUBECONFIG` (or `~/.kube/config`) names, by its current context or the one given;
/// without such a file, and without a context, of the cluster whose pod this is. Nothing is asked yet.
///
/// # Errors
/// [`KubeError::Api`] where there is neither, or what is there cannot be read.
pub async fn connect(context: Option<&str>) -> Result<Client, KubeError> {
    let fail = |reason: String| KubeError::Api { what: "no way to the API server".to_owned(), reason };
    let mut config = match context {
        None => Config::infer().await.map_err(|error| fail(error.to_string()))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
            Config::from_kubeconfig(&options).await.map_err(|error| fail(error.to_string()))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(ANSWER);
    Client::try_from(config).map_err(|error| fail(error.to_string()))
}
