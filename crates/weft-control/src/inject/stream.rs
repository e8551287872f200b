//! Files of manifests: YAML documents or JSON objects, one after another.
//!
//! What is not changed comes out as it was written, octet by octet, with its comments. A document that is changed is
//! written anew: its values are the same, its comments and the order of its fields are not kept. Values are read as
//! kubectl reads them (YAML 1.1 where the two differ: `0644` is octal) and written so that no reader takes a string for
//! something else.

use serde_json::Value;

use super::workload::{Workload, workloads};

/// A file, taken apart.
#[derive(Debug)]
pub struct Manifests {
    documents: Vec<Document>,
}

#[derive(Debug)]
struct Document {
    /// As written, with the separator before it.
    text: String,
    value: Value,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Its place in the file, from 1.
    pub document: usize,
    /// Kind and name of the object in it, where that is known.
    pub object: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "document {}", self.document)?;
        if let Some(object) = &self.object {
            write!(f, ", {object}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What was done to one pod or template.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// It is replaced by this.
    Changed(Value),
    /// It stays.
    Kept,
    /// It cannot be: each reason.
    Refused(Vec<String>),
}

impl Manifests {
    /// Takes a file apart.
    ///
    /// # Errors
    /// Each document that is neither YAML nor JSON, with its line.
    pub fn read(text: &str) -> Result<Self, Vec<Mistake>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if let Some(values) = json(text) {
            let documents = values.into_iter().map(|value| Document { text: yaml(&value), value });
            return Ok(Self { documents: documents.collect() });
        }
        let (mut documents, mut mistakes) = (Vec::new(), Vec::new());
        let mut line = 0;
        for (i, part) in split(text).into_iter().enumerate() {
            match parse(part) {
                Ok(value) => documents.push(Document { text: part.to_owned(), value }),
                Err((at, reason)) => {
                    let reason = format!("line {}: {reason}", line + at);
                    mistakes.push(Mistake { document: i + 1, object: None, reason });
                }
            }
            line += part.lines().count();
        }
        if mistakes.is_empty() { Ok(Self { documents }) } else { Err(mistakes) }
    }

    /// Does `change` to each pod and template.
    ///
    /// # Errors
    /// Every refusal.
    pub fn change(&mut self, mut change: impl FnMut(&Workload, &Value) -> Done) -> Result<(), Vec<Mistake>> {
        let mut mistakes = Vec::new();
        for (i, document) in self.documents.iter_mut().enumerate() {
            let mut changed = false;
            for workload in workloads(&document.value) {
                let Some(pod) = document.value.pointer_mut(&workload.pointer) else { continue };
                match change(&workload, pod) {
                    Done::Changed(object) => {
                        *pod = object;
                        changed = true;
                    }
                    Done::Kept => {}
                    Done::Refused(reasons) => mistakes.extend(reasons.into_iter().map(|reason| Mistake {
                        document: i + 1,
                        object: Some(workload.to_string()),
                        reason,
                    })),
                }
            }
            if changed {
                document.text = yaml(&document.value);
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// The file, put together again as YAML.
    pub fn write(&self) -> String {
        let mut out = String::new();
        for document in &self.documents {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push('\n');
            }
            if !out.is_empty() && !is_separator(&document.text) {
                out.push_str("---\n");
            }
            out.push_str(&document.text);
        }
        out
    }
}

/// The objects of a JSON file; `None` where it is none.
fn json(text: &str) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<Value>, _>>().ok()
}

/// The documents of a YAML file, each with the separator before it. At the start of a line `---` is a separator wherever
/// it stands, in a block of text as well (YAML 1.2 section 9.1.2).
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if is_separator(line) && at > start {
            parts.extend(text.get(start..at));
            start = at;
        }
        at += line.len();
    }
    parts.extend(text.get(start..).filter(|rest| !rest.is_empty()));
    parts
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// The line, from 1, and what is wrong there.
fn parse(text: &str) -> Result<Value, (usize, String)> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        let reason = error.without_snippet().to_string();
        // The place is told with the line of the whole file.
        let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
        (line.max(1), reason)
    })
}

/// A value as a YAML document.
fn yaml(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    // Maps with text as keys, and plain values: there is nothing in JSON that YAML cannot say.
    let mut text = serde_saphyr::to_string_with_options(value, options).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mark(pod: &Value) -> Done {
        let mut pod = pod.clone();
        if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("marked".to_owned(), json!("yes"));
            return Done::Changed(pod);
        }
        Done::Refused(vec!["no spec".to_owned(), "nothing to mark".to_owned()])
    }

    fn marked(text: &str) -> String {
        let mut manifests = Manifests::read(text).unwrap();
        manifests.change(|_, pod| mark(pod)).unwrap();
        manifests.write()
    }

    #[test]
    fn what_is_not_changed_stays_to_the_octet() {
        let text =
            "# head\n---\n# of a service\nkind:   Service\ndata: |\n  ---\n  a\n--- # next\nkind: X # c\n";
        assert_eq!(marked(text), text);
        assert_eq!(marked("\u{feff}a: 1"), "a: 1");
        assert_eq!(marked(""), "");
        let pod = "# head\nkind: A\n---\napiVersion: v1\nkind: Pod\nspec: {}\n---\n# end\nkind: B";
        assert_eq!(
            marked(pod),
            "# head\nkind: A\n---\napiVersion: v1\nkind: Pod\nspec:\n  marked: \"yes\"\n---\n# end\nkind: B"
        );
    }

    #[test]
    fn values_are_read_as_kubectl_reads_them_and_stay_what_they_are() {
        let spec = "{mode: 0644, a: \"0644\", b: 'on', c: \"1e3\", d: 1.5, e: null, f: \"\", g: ' x ', h: \"a\\nb\\n\", i: '=', j: \"2001-01-01\"}";
        let out = marked(&format!("apiVersion: v1\nkind: Pod\nspec: {spec}\n"));
        let again = parse(&out).unwrap_or_else(|(line, reason)| panic!("{line}: {reason}\n{out}"));
        let spec = json!({
            "mode": 420, "a": "0644", "b": "on", "c": "1e3", "d": 1.5, "e": null, "f": "", "g": " x ", "h": "a\nb\n",
            "i": "=", "j": "2001-01-01", "marked": "yes",
        });
        assert_eq!(again["spec"], spec, "{out}");
    }

    #[test]
    fn json_becomes_yaml() {
        let out = marked("{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"spec\": {}}\n{\"kind\": \"X\"}");
        assert_eq!(out, "apiVersion: v1\nkind: Pod\nspec:\n  marked: \"yes\"\n---\nkind: X\n");
    }

    #[test]
    fn mistakes_name_document_line_and_object() {
        let broken = Manifests::read("a: 1\n---\nb: [1\nc: 2\n---\nd: 1\n---\ne: {f]\n").unwrap_err();
        assert_eq!(broken.iter().map(|mistake| mistake.document).collect::<Vec<_>>(), [2, 4]);
        let line: usize =
            broken[1].reason.strip_prefix("line ").unwrap().split(':').next().unwrap().parse().unwrap();
        assert_eq!(line, 8, "{broken:?}");
        let text = "kind: X\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec: {template: {}}\n";
        let mut manifests = Manifests::read(text).unwrap();
        let mistakes = manifests.change(|_, pod| mark(pod)).unwrap_err();
        assert_eq!(mistakes[0].to_string(), "document 2, Deployment shop/web: no spec");
        assert_eq!(mistakes.len(), 2);
    }
}
