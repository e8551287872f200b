//! `weft install` and `weft uninstall`.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use weft_control::KubeError;
use weft_control::manifests::{self, NamespaceEnd, Source, Survey, Uninstall, Values};
use weft_core::Namespace;

use crate::style::{Style, Tone};

/// Names of pods that are told; there may be thousands.
const NAMED: usize = 10;

/// Print the objects of an installation, for `kubectl apply -f -`.
#[derive(clap::Args)]
pub(crate) struct InstallArgs {
    /// Weft's own namespace, where weft-control runs.
    // -n is a namespace of the mesh elsewhere; here it is taken from those who have always written it so.
    #[arg(long, short_alias = 'n', value_name = "NAMESPACE", default_value = "weft-system")]
    namespace: Namespace,
    /// A file of values, as the Helm chart takes it; - reads standard input. Later ones win.
    #[arg(long, short = 'f', value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Set a value, such as control.replicas=3. Wins over the files.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// The image, such as registry.example/weft:0.1.0 or one with @sha256:. Wins over --set.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Leave the namespace itself out, because something else makes it.
    #[arg(long)]
    without_namespace: bool,
}

/// Remove an installation, and everything that it made in the cluster.
#[derive(clap::Args)]
pub(crate) struct UninstallArgs {
    /// Weft's own namespace, where weft-control runs.
    #[arg(long, short_alias = 'n', value_name = "NAMESPACE", default_value = "weft-system")]
    namespace: Namespace,
    /// Leave the Secret weft-ca, so that a later installation vouches with the same root.
    #[arg(long)]
    keep_ca: bool,
    /// Uninstall although pods with sidecars are running.
    #[arg(long)]
    force: bool,
    /// Tell what would be removed, and remove nothing. Fails where it would be refused.
    #[arg(long)]
    dry_run: bool,
    /// Remove only what was made at run time; Helm's hook uses it.
    #[arg(long)]
    runtime_objects: bool,
    /// Of Helm's hook: the release and its revision, for the command that undoes what a refusal leaves.
    #[arg(long, value_name = "NAME/REVISION", value_parser = helm_release)]
    helm_release: Option<HelmRelease>,
    /// The context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
}

/// A release of Helm's that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HelmRelease {
    name: String,
    revision: u32,
}

fn helm_release(text: &str) -> Result<HelmRelease, String> {
    let parts = text.split_once('/').filter(|(name, _)| !name.is_empty());
    let (name, revision) = parts.ok_or("must be NAME/REVISION, as weft/1")?;
    let revision = revision.parse().map_err(|_| format!("{revision:?} is no revision of a release"))?;
    Ok(HelmRelease { name: name.to_owned(), revision })
}

/// Runs `weft install`.
pub(crate) fn install(args: &InstallArgs) -> ExitCode {
    let sources = match sources(args) {
        Ok(sources) => sources,
        Err(error) => return crate::usage(error),
    };
    let values = match Values::read(&sources) {
        Ok(values) => values,
        Err(problems) => return crate::usage(format!("the values cannot be used:\n{problems}")),
    };
    if values.uninstall.force || values.uninstall.keep_ca {
        tell(
            Tone::Warning,
            "uninstall.* is for helm uninstall; give --force or --keep-ca to weft uninstall instead",
        );
    }
    let objects = match manifests::render(&values, args.namespace.as_str(), !args.without_namespace) {
        Ok(objects) => objects,
        Err(error) => return crate::usage(error),
    };
    let mut text = String::with_capacity(32 * 1024);
    for object in objects {
        text.push_str("---\n");
        text.push_str(&object.yaml);
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format!("cannot write: {error}")),
    }
}

fn sources(args: &InstallArgs) -> Result<Vec<Source>, String> {
    let mut sources = Vec::with_capacity(args.values.len() + args.set.len() + 1);
    for path in &args.values {
        let name = path.display().to_string();
        let text = if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.map_err(|error| format!("{name} cannot be read: {error}"))?;
        sources.push(Source::File { name, text });
    }
    sources.extend(args.set.iter().cloned().map(Source::Set));
    if let Some(image) = &args.image {
        sources.push(Source::Set(image_values(image)));
    }
    Ok(sources)
}

/// `--image` as the values that it stands for.
fn image_values(image: &str) -> String {
    let (rest, digest) = image.split_once('@').unwrap_or((image, ""));
    // A colon before the last slash belongs to the registry's port.
    let name = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match rest.get(name..).and_then(|name| name.find(':')).map(|colon| name + colon) {
        Some(colon) => (rest.get(..colon).unwrap_or(rest), rest.get(colon + 1..).unwrap_or_default()),
        None => (rest, ""),
    };
    let mut set = String::new();
    for (field, value) in [("repository", repository), ("tag", tag), ("digest", digest)] {
        let comma = if set.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace(',', "\\,");
        // Writing to a String cannot fail.
        let _ = write!(set, "{comma}image.{field}={value}");
    }
    set
}

/// Runs `weft uninstall`.
pub(crate) fn uninstall(args: &UninstallArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    match runtime.block_on(removed(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(error),
    }
}

/// False where it is refused.
async fn removed(args: &UninstallArgs) -> Result<bool, KubeError> {
    let client = weft_control::client::of_context(args.context.as_deref()).await?;
    let uninstall = Uninstall {
        namespace: args.namespace.to_string(),
        keep_ca: args.keep_ca,
        runtime_objects: args.runtime_objects,
    };
    let survey = uninstall.survey(&client).await?;
    let refused = !survey.injected.is_empty() && !args.force;
    if args.dry_run {
        // A refused one is no answer but a part of the refusal, and goes where that goes: a container's log has the lines of
        // two streams in any order.
        let line = if refused { aside } else { say };
        for removal in &survey.removals {
            line(&format!("would be removed: {removal}"));
        }
        if survey.own_namespace {
            line(&format!("would be removed, if nothing else is in it: Namespace {}", args.namespace));
        }
    }
    if refused {
        // Last: of a Job's log the kubelet and Helm show the end.
        tell(Tone::Bad, running(&survey, args));
    }
    if refused || args.dry_run {
        return Ok(!refused);
    }
    if survey.removals.is_empty() && !survey.own_namespace {
        say("nothing is there to remove");
        return Ok(true);
    }
    let end = uninstall.remove(&client, &survey, |removal| say(&format!("removed: {removal}"))).await?;
    match end {
        NamespaceEnd::Removed => say(&format!("removed: Namespace {}", args.namespace)),
        NamespaceEnd::NotOurs => {}
        NamespaceEnd::InUse(left) => {
            let left = left.join(", ");
            tell(
                Tone::Warning,
                format!("the namespace {} stays, for there is more in it: {left}", args.namespace),
            );
        }
    }
    Ok(true)
}

/// Why it is refused, and the cure.
fn running(survey: &Survey, args: &UninstallArgs) -> String {
    let named: Vec<&str> = survey.injected.iter().take(NAMED).map(String::as_str).collect();
    let more = survey.injected.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (anyway, undo) = match &args.helm_release {
        None => ("give --force".to_owned(), String::new()),
        Some(HelmRelease { name, revision }) => {
            let namespace = &args.namespace;
            (
                format!(
                    "helm upgrade {name} --namespace {namespace} --reuse-values --set uninstall.force=true, and uninstall again"
                ),
                format!(
                    ".\nNothing has been removed, but Helm now takes the release for one that is being uninstalled, and does not upgrade it. \
                     First make it whole again: helm rollback {name} {revision} --namespace {namespace}"
                ),
            )
        }
    };
    format!(
        "pods that run with a sidecar, which needs the CA: {} ({}{more}).\n\
         Take the label weft.dev/inject off their namespaces (or set it to disabled on the pods) and restart their workloads, \
         or {anyway}: they then go on until their certificates end{undo}",
        survey.injected.len(),
        named.join(", "),
    )
}

#[expect(clippy::print_stdout, reason = "what was removed is the answer")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "a part of a refusal")]
fn aside(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stderr, reason = "for the person at the terminal; standard output may be a manifest")]
fn tell(tone: Tone, text: impl std::fmt::Display) {
    let word = if tone == Tone::Bad { "refused" } else { "note" };
    eprintln!("weft: {}: {text}", Style::stderr().paint(tone, word));
}

#[expect(clippy::print_stderr, reason = "for the person at the terminal")]
fn fail(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("weft: {}: {error}", Style::stderr().paint(Tone::Bad, "error"));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    #[test]
    fn an_image_is_taken_apart_where_its_name_ends() {
        for (image, wanted) in [
            ("weft", "image.repository=weft,image.tag=,image.digest="),
            ("weft:1", "image.repository=weft,image.tag=1,image.digest="),
            ("r.example:5000/a/weft", "image.repository=r.example:5000/a/weft,image.tag=,image.digest="),
            (
                "r.example:5000/weft:1@sha256:ab",
                "image.repository=r.example:5000/weft,image.tag=1,image.digest=sha256:ab",
            ),
        ] {
            assert_eq!(image_values(image), wanted);
        }
    }

    #[test]
    fn an_image_with_a_comma_is_one_value() {
        let problems = Values::read(&[Source::Set(image_values("a,b c"))]).unwrap_err().to_string();
        assert!(problems.contains("image.repository: \"a,b c\""), "{problems}");
    }

    #[test]
    fn a_refusal_names_pods_and_cure() {
        let injected = (0..12).map(|i| format!("shop/web-{i}")).collect();
        let survey = Survey { injected, removals: Vec::new(), own_namespace: false };
        let said = running(&survey, &uninstall_args(&[]));
        assert!(
            said.contains("the CA: 12 (shop/web-0,")
                && said.contains("shop/web-9 and 2 more")
                && said.contains("--force"),
            "{said}"
        );
        assert!(!said.contains("helm"), "{said}");
        let said = running(&survey, &uninstall_args(&["--helm-release=mesh/3", "--namespace=w"]));
        assert!(said.ends_with("helm rollback mesh 3 --namespace w"), "{said}");
        assert!(said.contains("helm upgrade mesh --namespace w") && !said.contains("--force:"), "{said}");
    }

    fn uninstall_args(words: &[&str]) -> UninstallArgs {
        let command = UninstallArgs::augment_args(clap::Command::new("uninstall"));
        let matches = command.try_get_matches_from(["uninstall"].iter().chain(words)).unwrap();
        UninstallArgs::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn a_release_of_helms_has_a_name_and_a_revision() {
        assert_eq!(helm_release("weft/12"), Ok(HelmRelease { name: "weft".into(), revision: 12 }));
        for text in ["", "weft", "weft/", "weft/x", "/1", "weft/-1"] {
            assert!(helm_release(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_namespace_is_still_taken_by_its_old_short_name() {
        assert_eq!(uninstall_args(&["-n", "w"]).namespace.as_str(), "w");
        assert_eq!(uninstall_args(&["--namespace", "w"]).namespace.as_str(), "w");
        let shown = UninstallArgs::augment_args(clap::Command::new("uninstall")).render_help().to_string();
        assert!(!shown.contains("-n,"), "elsewhere it is a namespace of the mesh: {shown}");
    }
}
