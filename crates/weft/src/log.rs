//! The process's own log: where it goes, how it looks, and the switch for its level.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes the level while the process runs.
pub(crate) struct Switch {
    handle: reload::Handle<EnvFilter, Registry>,
    current: Mutex<String>,
}

/// Starts logging to standard error. The first of `wanted` that is given decides.
pub(crate) fn start(wanted: &[Option<&str>], format: Format) -> Result<Arc<Switch>, String> {
    let directives = wanted.iter().flatten().next().copied().unwrap_or("info").to_owned();
    let (filter, handle) = reload::Layer::new(parse(&directives)?);
    let json = match format {
        Format::Auto => !std::io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    started.map_err(|error| error.to_string())?;
    Ok(Arc::new(Switch { handle, current: Mutex::new(directives) }))
}

/// `h2` warns of what any peer can bring about at will, a line each; what matters of it is ours to say. Directives that
/// name `h2` decide.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(format!("h2=error,{directives}"))
        .map_err(|error| format!("log directives {directives:?}: {error}"))
}

impl weft_proxy::LogControl for Switch {
    fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, directives: &str) -> Result<(), String> {
        let filter = parse(directives)?;
        self.handle.reload(filter).map_err(|error| error.to_string())?;
        directives.clone_into(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}
