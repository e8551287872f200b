//! A question as it is sent to a running process.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use weft_core::ServiceKey;

use super::{Door, Explanation, Question, Unexplained, explain};
use crate::Program;

/// A request and where it comes in, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuestionText {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// Names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The gateway, as `namespace/name`.
    pub gateway: Option<String>,
    /// The service, as `name:port` with its whole name.
    pub service: Option<String>,
}

impl From<&Question<'_>> for QuestionText {
    fn from(question: &Question<'_>) -> Self {
        let (gateway, service) = match &question.door {
            Door::AnyGateway => (None, None),
            Door::Gateway { namespace, name } => (Some(format!("{namespace}/{name}")), None),
            Door::Service(key) => (None, Some(key.to_string())),
        };
        let headers = question.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        Self {
            method: question.method.to_string(),
            url: question.url.to_owned(),
            headers: headers.collect(),
            gateway,
            service,
        }
    }
}

impl QuestionText {
    /// Tells what becomes of the request in this program.
    ///
    /// # Errors
    /// The question is none.
    pub fn answer(&self, program: &Program) -> Result<Explanation, Unexplained> {
        let method = Method::from_bytes(self.method.as_bytes());
        let method = method.map_err(|_| Unexplained::Method(self.method.clone()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let bad = || Unexplained::Header(name.clone());
            let name: HeaderName = name.parse().map_err(|_| bad())?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| bad())?);
        }
        let question = Question { method, url: &self.url, headers, door: self.door()? };
        explain(program, &question)
    }

    pub(super) fn door(&self) -> Result<Door, Unexplained> {
        match (&self.gateway, &self.service) {
            (None, None) => Ok(Door::AnyGateway),
            (Some(gateway), None) => {
                let named =
                    gateway.split_once('/').filter(|(space, name)| !space.is_empty() && !name.is_empty());
                let (namespace, name) = named.ok_or_else(|| Unexplained::Gateway(gateway.clone()))?;
                Ok(Door::Gateway { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            (None, Some(service)) => {
                let bad = || Unexplained::Service(service.clone());
                let (name, port) = service.rsplit_once(':').ok_or_else(bad)?;
                let key = ServiceKey::new(name.parse().map_err(|_| bad())?, port.parse().map_err(|_| bad())?);
                Ok(Door::Service(key))
            }
            (Some(_), Some(_)) => Err(Unexplained::TwoDoors),
        }
    }
}
