//! `weft validate`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use weft_core::DnsName;
use weft_resource::{DocumentError, Resource, ResourceHandle, ResourceId};
use weft_route::{Note, Severity};

use crate::ask::{self, Output};
use crate::style::{Style, Tone};

/// Check files and directories of resources: each document alone, then all together.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files, or directories of .yaml, .yml and .json files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The domain under which a Service has its name.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: DnsName,
    /// How the answer looks.
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Runs the command. Exit code 1 where there is an error, 2 where a path leads nowhere.
pub(crate) fn run(args: &Args) -> ExitCode {
    if let Some(path) = args.paths.iter().find(|path| !path.exists()) {
        return crate::usage(format!("{}: there is no such file or directory", path.display()));
    }
    let report = report(args);
    let text = match args.output {
        Output::Json => ask::json(&report.json()),
        Output::Text => Ok(report.text(Style::stdout())),
    };
    match text.and_then(|text| ask::print(&text)) {
        Ok(()) if report.count(Severity::Error) == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(code) => code,
    }
}

/// What was found.
struct Report {
    resources: usize,
    problems: Vec<Problem>,
    /// Whether the documents were good, so that what they say of each other was looked at.
    compiled: bool,
}

/// One thing that was found, whoever found it.
#[derive(serde::Serialize)]
struct Problem {
    #[serde(serialize_with = "word")]
    severity: Severity,
    file: String,
    line: u32,
    column: u32,
    kind: Option<&'static str>,
    namespace: Option<String>,
    name: Option<String>,
    field: String,
    reason: String,
    cure: String,
    code: &'static str,
}

fn word<S: serde::Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    })
}

fn report(args: &Args) -> Report {
    let files = ResourceHandle::new(args.paths.clone());
    let (set, errors) = (files.load(), files.errors());
    let mut problems: Vec<Problem> = errors.iter().map(Problem::of_document).collect();
    let compiled = problems.is_empty();
    // A route to what could not be read is not wrong itself.
    if compiled {
        let options = weft_route::Options {
            cluster_domain: args.cluster_domain.clone(),
            gateways: weft_route::Gateways::All,
            client_namespace: None,
        };
        let notes = weft_route::compile(&set, &options).notes;
        problems.extend(
            notes.iter().map(|note| Problem::of_note(note, &files, set.get(&note.resource).map(|r| &**r))),
        );
    }
    Report { resources: set.len(), problems, compiled }
}

impl Problem {
    fn of_document(error: &DocumentError) -> Self {
        Self {
            severity: Severity::Error,
            file: error.path.display().to_string(),
            line: error.line,
            column: error.column,
            field: error.field.clone(),
            reason: error.reason.clone(),
            cure: error.cure.clone(),
            code: error.kind.code(),
            ..Self::of(error.resource.as_ref())
        }
    }

    fn of_note(note: &Note, files: &ResourceHandle, resource: Option<&Resource>) -> Self {
        let source = resource.map(|resource| files.source(resource));
        let place = source.as_ref().and_then(|source| {
            let text = std::fs::read_to_string(&source.path).ok()?;
            weft_resource::locate(&text, &note.resource, &note.field)
        });
        let (line, column) = place.unwrap_or((source.as_ref().map_or(0, |source| source.line), 1));
        Self {
            severity: note.severity,
            file: source.map(|source| source.path.display().to_string()).unwrap_or_default(),
            line,
            column,
            field: note.field.clone(),
            reason: note.message.clone(),
            cure: note.cure.clone(),
            code: note.reason,
            ..Self::of(Some(&note.resource))
        }
    }

    /// Nothing but which resource it is.
    fn of(id: Option<&ResourceId>) -> Self {
        Self {
            severity: Severity::Error,
            file: String::new(),
            line: 0,
            column: 0,
            kind: id.map(|id| id.kind.as_str()),
            namespace: id.map(|id| id.namespace.to_string()),
            name: id.map(|id| id.name.to_string()),
            field: String::new(),
            reason: String::new(),
            cure: String::new(),
            code: "",
        }
    }

    fn text(&self, out: &mut String, style: Style) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}:", self.file);
        if self.line > 0 {
            let _ = write!(out, "{}:{}:", self.line, self.column);
        }
        if self.severity == Severity::Warning {
            let _ = write!(out, " {}:", style.paint(Tone::Warning, "warning"));
        }
        if let (Some(kind), Some(namespace), Some(name)) = (self.kind, &self.namespace, &self.name) {
            let _ = write!(out, " {kind} {namespace}/{name}:");
        }
        if !self.field.is_empty() {
            let _ = write!(out, " {}:", self.field);
        }
        let _ = write!(out, " {}", self.reason);
        if !self.cure.is_empty() {
            let _ = write!(out, "; {}", self.cure);
        }
        let _ = writeln!(out, " {}", style.paint(Tone::Faint, format!("[{}]", self.code)));
    }
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "ok": self.count(Severity::Error) == 0,
            "resources": self.resources,
            "compiled": self.compiled,
            "problems": self.problems,
        })
    }

    fn text(&self, style: Style) -> String {
        let mut out = String::new();
        for problem in &self.problems {
            problem.text(&mut out, style);
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let verdict = format!("{} good resources, {errors} errors, {warnings} warnings", self.resources);
        let tone = match (errors, warnings) {
            (0, 0) => Tone::Good,
            (0, _) => Tone::Warning,
            _ => Tone::Bad,
        };
        let _ = writeln!(out, "{}", style.paint(tone, verdict));
        if !self.compiled {
            let _ = writeln!(out, "what they say of each other is checked once every document is good");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (Report, String, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        let paths = vec![dir.path().to_owned()];
        let args = Args { paths, cluster_domain: "cluster.local".parse().unwrap(), output: Output::Text };
        let report = report(&args);
        let said = report.text(Style::plain()).replace(&format!("{}/", dir.path().display()), "");
        (report, said, dir)
    }

    #[test]
    fn good_resources_are_counted() {
        let (report, said, _dir) =
            checked("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n");
        assert_eq!(said, "1 good resources, 0 errors, 0 warnings\n");
        assert_eq!(report.json()["ok"], true);
    }

    #[test]
    fn a_mistake_is_a_line_with_file_place_resource_field_reason_cure_and_code() {
        let (report, said, _dir) =
            checked("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 0\n");
        assert_eq!(
            said.lines().next(),
            Some(
                "a.yaml:6:11: Service default/a: spec.ports[0].port: 0 is no port: from 1 to 65535 [resource-invalid-value]"
            )
        );
        let json = report.json();
        assert_eq!((&json["ok"], &json["compiled"]), (&false.into(), &false.into()));
        let problem = &json["problems"][0];
        assert_eq!((&problem["line"], &problem["column"]), (&6.into(), &11.into()));
        assert_eq!((&problem["kind"], &problem["severity"]), (&"Service".into(), &"error".into()));
    }

    #[test]
    fn a_note_is_found_in_its_file() {
        let (_, _, dir) =
            checked("---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n");
        let files = ResourceHandle::new(vec![dir.path().to_owned()]);
        let set = files.load();
        let resource = set.iter().next().unwrap();
        let note = Note {
            resource: resource.id.clone(),
            severity: Severity::Warning,
            field: "spec.ports[0]".to_owned(),
            reason: "Odd",
            message: "it is odd".to_owned(),
            cure: "mend it".to_owned(),
        };
        let mut said = String::new();
        Problem::of_note(&note, &files, Some(resource)).text(&mut said, Style::plain());
        let said = said.replace(&format!("{}/", dir.path().display()), "");
        assert_eq!(
            said,
            "a.yaml:5:16: warning: Service default/a: spec.ports[0]: it is odd; mend it [Odd]\n"
        );
    }
}
