//! `AdmissionReview` (admission.k8s.io/v1): the question, and the answer to it.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inject::{self, Injector, Limits, Namespace, Outcome, ProbeSecret, Skip};

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// HTTP codes in the status of a pod that is not admitted; the API server hands them on.
const UNPROCESSABLE: u16 = 422;
const BAD_REQUEST: u16 = 400;
const INTERNAL: u16 = 500;
/// Problems that are told at once. Nobody reads more in an event, which has 1,024 characters.
const TOLD: usize = 20;
/// The API server cuts longer warnings.
const MAX_WARNING: usize = 256;

/// What became of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Injected,
    Skipped,
    Refused,
    Invalid,
    /// Larger than any may be.
    TooLarge,
    /// There was no room for it beside others.
    Busy,
}

/// A question about one object.
#[derive(Debug)]
pub(crate) struct Question {
    uid: String,
    object: Value,
    /// Whether it is about a new pod; nothing else is changed.
    new_pod: bool,
    /// The pod's, which the object itself may not tell yet.
    pub(crate) namespace: Option<String>,
    name: String,
}

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Answer {
    /// The JSON of the `AdmissionReview`.
    pub body: Vec<u8>,
    pub(crate) verdict: Verdict,
    pub(crate) skip: Option<Skip>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    sub_resource: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    kind: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    message: String,
}

/// Answers a review. `labels` are those of the namespace that it names, where they are known; its LimitRanges are not.
///
/// # Errors
/// Where `body` is not a review of a version that can be answered: what is wrong with it.
pub fn answer(
    body: &[u8],
    labels: Option<std::collections::BTreeMap<String, String>>,
    injector: &Injector,
) -> Result<Answer, String> {
    Ok(Question::read(body)?.answer(labels, Limits::default(), injector))
}

impl Question {
    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let review: Review =
            serde_json::from_slice(body).map_err(|error| format!("this is not an {KIND}: {error}"))?;
        if review.api_version != VERSION || review.kind != KIND {
            return Err(format!(
                "this is {} {}; {VERSION} {KIND} is wanted",
                review.api_version, review.kind
            ));
        }
        let request = review.request.ok_or_else(|| format!("this {KIND} has no request"))?;
        let of_pods = request.kind.group.is_empty() && request.kind.kind == "Pod";
        let whole = request.sub_resource.is_none_or(|part| part.is_empty());
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let metadata = |name: &str| {
            let metadata = request.object.get("metadata")?.get(name)?;
            metadata.as_str().map(str::to_owned)
        };
        Ok(Self {
            uid: request.uid,
            new_pod: of_pods && whole && request.operation == "CREATE",
            namespace: given(request.namespace).or_else(|| metadata("namespace")),
            name: given(request.name).or_else(|| metadata("generateName")).unwrap_or_default(),
            object: request.object,
        })
    }

    pub(crate) fn answer(
        &self,
        labels: Option<std::collections::BTreeMap<String, String>>,
        limits: Limits,
        injector: &Injector,
    ) -> Answer {
        if !self.new_pod {
            return self.reply(Verdict::Skipped, None, self.allowed());
        }
        let namespace = Namespace { name: self.namespace.clone(), labels, limits };
        let in_namespace = self.namespace.as_deref().unwrap_or("");
        let secret = match ProbeSecret::draw() {
            Ok(secret) => secret,
            Err(error) => return self.denied(Verdict::Invalid, INTERNAL, format!("weft: {error}")),
        };
        match inject::inject(&self.object, &namespace, injector, &secret) {
            Outcome::Skip(skip) => {
                tracing::debug!(
                    namespace = in_namespace,
                    pod = self.name,
                    reason = skip.as_str(),
                    "left alone"
                );
                self.reply(Verdict::Skipped, Some(skip), self.allowed())
            }
            Outcome::Patched(injected) => {
                tracing::debug!(namespace = in_namespace, pod = self.name, "injected");
                match serde_json::to_vec(&inject::patch(&self.object, &injected.object)) {
                    Ok(patch) => {
                        let warnings = injected.warnings.iter().map(|text| short(text)).collect();
                        let patch = Some(ByteString(patch));
                        let response =
                            Response { patch, patch_type: Some("JSONPatch"), warnings, ..self.allowed() };
                        self.reply(Verdict::Injected, None, response)
                    }
                    Err(error) => self.denied(Verdict::Invalid, BAD_REQUEST, error.to_string()),
                }
            }
            Outcome::Refuse(problems) => {
                let mut told: Vec<String> = problems.iter().take(TOLD).map(ToString::to_string).collect();
                if let Some(more) = problems.len().checked_sub(TOLD).filter(|more| *more > 0) {
                    told.push(format!("and {more} more"));
                }
                let message = format!("weft: this pod cannot join the mesh as it is: {}", told.join(" | "));
                tracing::info!(namespace = in_namespace, pod = self.name, message, "refused");
                self.denied(Verdict::Refused, UNPROCESSABLE, message)
            }
            Outcome::Invalid(reason) => {
                tracing::warn!(namespace = in_namespace, pod = self.name, reason, "this is no pod");
                self.denied(Verdict::Invalid, BAD_REQUEST, format!("weft: this is no pod: {reason}"))
            }
        }
    }

    fn allowed(&self) -> Response<'_> {
        Response {
            uid: &self.uid,
            allowed: true,
            status: None,
            patch_type: None,
            patch: None,
            warnings: Vec::new(),
        }
    }

    fn denied(&self, verdict: Verdict, code: u16, message: String) -> Answer {
        let status = Some(Status { code, message });
        self.reply(verdict, None, Response { allowed: false, status, ..self.allowed() })
    }

    fn reply(&self, verdict: Verdict, skip: Option<Skip>, response: Response<'_>) -> Answer {
        let reply = Reply { api_version: VERSION, kind: KIND, response };
        // Strings and numbers only: it cannot fail. An empty answer would be an error to the API server, no more.
        Answer { body: serde_json::to_vec(&reply).unwrap_or_default(), verdict, skip }
    }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_WARNING).collect()
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
