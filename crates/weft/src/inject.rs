//! `weft inject` and `weft uninject`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use weft_control::inject::{
    self, Done, InjectSettings, Injector, Manifests, Mistake, Namespace, NativeSidecar, Outcome, ProbeSecret,
    Workload,
};

use crate::style::{Style, Tone};

/// Weft's own namespace, where no configuration names another.
const OWN_NAMESPACE: &str = "weft-system";

/// 128 bits, so that nobody finds the key by trying.
const LEAST_KEY: usize = 16;

/// Put the sidecar into manifests, as the injector would; the result goes to standard output.
#[derive(clap::Args)]
pub(crate) struct InjectArgs {
    #[command(flatten)]
    input: Input,
    /// The image of the sidecar; overrides the configuration.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The config.yaml of weft control, for its injector section.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Whether the sidecar is a native one; overrides the configuration. auto is always: there is no cluster to ask.
    #[arg(long, value_enum, value_name = "WHEN")]
    native_sidecar: Option<Native>,
    /// A file with at least 16 octets that nobody else knows: each workload's probes then have the same secret in their paths
    /// at every run. Without it a new one is drawn, and what is applied again is rolled out again.
    #[arg(long, value_name = "FILE")]
    probe_key: Option<PathBuf>,
}

/// Take away what was injected into manifests; the result goes to standard output.
#[derive(clap::Args)]
pub(crate) struct UninjectArgs {
    #[command(flatten)]
    input: Input,
}

#[derive(clap::Args)]
struct Input {
    /// Manifests, YAML or JSON; - is standard input. May be given more than once.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Native {
    /// As always.
    Auto,
    /// An init container with restartPolicy: Always; Kubernetes 1.29 and later.
    Always,
    /// The first of the containers; for older clusters.
    Never,
}

pub(crate) fn inject(args: &InjectArgs) -> ExitCode {
    let (injector, key) = match injector(args).and_then(|injector| Ok((injector, probe_key(args)?))) {
        Ok(read) => read,
        Err(error) => return crate::usage(error),
    };
    let change = |workload: &Workload, pod: &serde_json::Value| {
        let namespace = Namespace { name: workload.namespace.clone(), ..Namespace::default() };
        let secret = match secret(key.as_deref(), workload) {
            Ok(secret) => secret,
            Err(error) => return (Done::Refused(vec![error]), String::new()),
        };
        match inject::inject(pod, &namespace, &injector, &secret) {
            Outcome::Patched(injected) => {
                for warning in &injected.warnings {
                    note(&format!("{workload}: {warning}"));
                }
                (Done::Changed(injected.object), "injected".to_owned())
            }
            Outcome::Skip(skip) => (Done::Kept, format!("left alone: {}", skip.as_str())),
            Outcome::Invalid(reason) => (Done::Refused(vec![reason]), String::new()),
            Outcome::Refuse(problems) => {
                (Done::Refused(problems.iter().map(ToString::to_string).collect()), String::new())
            }
        }
    };
    run(&args.input, change)
}

pub(crate) fn uninject(args: &UninjectArgs) -> ExitCode {
    run(&args.input, |_, pod| match inject::uninject(pod) {
        Ok(Some(plain)) => (Done::Changed(plain), "taken apart".to_owned()),
        Ok(None) => (Done::Kept, "left alone: not injected".to_owned()),
        Err(reason) => (Done::Refused(vec![reason]), String::new()),
    })
}

/// The key by which secrets are made, where one is given.
fn probe_key(args: &InjectArgs) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = &args.probe_key else { return Ok(None) };
    let key = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if key.len() < LEAST_KEY {
        return Err(format!("{}: has {} octets; write at least {LEAST_KEY}", path.display(), key.len()));
    }
    Ok(Some(key))
}

/// What stands in the paths of a workload's probes.
fn secret(key: Option<&[u8]>, workload: &Workload) -> Result<ProbeSecret, String> {
    match key {
        Some(key) => Ok(ProbeSecret::derived(key, &workload.to_string())),
        None => ProbeSecret::draw().map_err(|error| error.to_string()),
    }
}

fn injector(args: &InjectArgs) -> Result<Injector, String> {
    let (mut settings, namespace) = match (&args.config, &args.image) {
        (Some(path), _) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            InjectSettings::from_config(&text)
                .map_err(|problems| format!("{}: {}", path.display(), problems.join("; ")))?
        }
        (None, Some(image)) => (InjectSettings::new(image), None),
        (None, None) => {
            return Err(
                "name the sidecar's image with --image, or weft control's settings with --config".to_owned()
            );
        }
    };
    if let Some(image) = &args.image {
        settings.image.clone_from(image);
    }
    match args.native_sidecar {
        Some(Native::Auto) => settings.native_sidecar = NativeSidecar::Auto,
        Some(Native::Always) => settings.native_sidecar = NativeSidecar::Always,
        Some(Native::Never) => settings.native_sidecar = NativeSidecar::Never,
        None => {}
    }
    let problems = settings.problems();
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let native = settings.native_sidecar.resolve(None);
    let own_namespace = namespace.unwrap_or_else(|| OWN_NAMESPACE.to_owned());
    // There is no cluster to ask for the CA's address.
    Ok(Injector { settings, native, own_namespace, ca: None })
}

/// Does `change` to each pod of the input. Nothing is written unless all of it succeeds: half a file applied to a cluster
/// is worse than none.
fn run(input: &Input, change: impl Fn(&Workload, &serde_json::Value) -> (Done, String)) -> ExitCode {
    let (mut out, mut refused) = (String::new(), false);
    for path in &input.filename {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => return crate::usage(format_args!("{}: {error}", path.display())),
        };
        let mut manifests = match Manifests::read(&text) {
            Ok(manifests) => manifests,
            Err(mistakes) => {
                complain(path, &mistakes);
                return ExitCode::from(crate::EXIT_USAGE);
            }
        };
        let change = |workload: &Workload, pod: &serde_json::Value| {
            let (done, said) = change(workload, pod);
            if !said.is_empty() {
                note(&format!("{workload}: {said}"));
            }
            done
        };
        if let Err(mistakes) = manifests.change(change) {
            complain(path, &mistakes);
            refused = true;
            continue;
        }
        let made = manifests.write();
        if !out.is_empty() && !made.starts_with("---") {
            out.push_str(if out.ends_with('\n') { "---\n" } else { "\n---\n" });
        }
        out.push_str(&made);
    }
    if refused {
        return ExitCode::FAILURE;
    }
    match std::io::stdout().write_all(out.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("cannot write: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn complain(path: &Path, mistakes: &[Mistake]) {
    let style = Style::stderr();
    for mistake in mistakes {
        note(&style.paint(Tone::Bad, format!("{}: {mistake}", path.display())).to_string());
    }
}

/// Beside the manifests, which are on standard output.
#[expect(clippy::print_stderr, reason = "the person at the terminal asked")]
fn note(text: &str) {
    eprintln!("weft: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_a_workload_the_same_secret_at_every_run() {
        let workload = |name: &str| Workload {
            kind: "Deployment".to_owned(),
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
            pointer: "/spec/template".to_owned(),
        };
        let of = |key: Option<&[u8]>, name| secret(key, &workload(name)).unwrap();
        let key = Some(&b"0123456789abcdef"[..]);
        assert_eq!(of(key, "orders"), of(key, "orders"));
        assert_ne!(of(key, "orders"), of(key, "web"));
        assert_ne!(of(None, "orders"), of(None, "orders"));
    }
}
