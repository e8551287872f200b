//! What `weft check`, `weft status` and `weft certs` have in common: whom they ask, and how they answer.

use std::io::Write as _;
use std::process::ExitCode;

use weft_core::Namespace;
use weft_ops::OpsError;

use crate::style::{Style, Tone};

/// Whom to ask, and how to answer.
#[derive(clap::Args)]
pub(crate) struct Asked {
    /// Weft's own namespace, where weft-control runs.
    #[arg(long, value_name = "NAMESPACE", default_value = "weft-system")]
    pub(crate) namespace: Namespace,
    /// Look at this namespace of the mesh only. Without it at all of them.
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub(crate) only: Option<Namespace>,
    /// How the answer looks.
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
    /// The context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
}

/// How an answer looks.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Asked {
    pub(crate) fn only(&self) -> Option<&str> {
        self.only.as_ref().map(Namespace::as_str)
    }

    /// Runs `work` with a client of the cluster. Refuses a `-n` that surely means something else.
    pub(crate) fn with_client<F, T>(
        &self,
        work: impl FnOnce(weft_control::Client) -> F,
    ) -> Result<T, ExitCode>
    where
        F: Future<Output = Result<T, OpsError>>,
    {
        if self.only.as_ref() == Some(&self.namespace) {
            return Err(crate::usage(format!(
                "-n names a namespace of the mesh, which {0} never is; Weft's own is named by --namespace. Leave -n {0} out",
                self.namespace
            )));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let done = runtime.block_on(async {
            let client = weft_control::client::of_context(self.context.as_deref()).await?;
            work(client).await
        });
        // A port-forward that is still being closed is nobody's business any more.
        runtime.shutdown_background();
        done.map_err(fail)
    }
}

/// Prints an answer.
pub(crate) fn print(text: &str) -> Result<(), ExitCode> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(fail(format!("cannot write: {error}"))),
    }
}

/// An answer as JSON, with a line end.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, ExitCode> {
    let mut text = serde_json::to_string_pretty(value).map_err(fail)?;
    text.push('\n');
    Ok(text)
}

/// Says something beside the answer.
#[expect(clippy::print_stderr, reason = "for the person at the terminal; standard output is the answer")]
pub(crate) fn tell(text: &str) {
    eprintln!("weft: {text}");
}

#[expect(clippy::print_stderr, reason = "for the person at the terminal; standard output is the answer")]
pub(crate) fn fail(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("weft: {}: {error}", Style::stderr().paint(Tone::Bad, "error"));
    ExitCode::FAILURE
}

/// Rows in columns, each as wide as its widest cell.
pub(crate) struct Table {
    style: Style,
    rows: Vec<Vec<(Tone, String)>>,
}

impl Table {
    pub(crate) fn new(style: Style, headings: &[&str]) -> Self {
        let headings = headings.iter().map(|heading| (Tone::Faint, (*heading).to_owned()));
        Self { style, rows: vec![headings.collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = (Tone, String)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As text, with line ends.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let wide = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|(_, cell)| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| wide(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            for (column, ((tone, cell), width)) in row.iter().zip(&widths).enumerate() {
                // Nothing is filled up at the end of a line.
                let width = if column == last { 0 } else { *width };
                text.push_str(&format!("{:<width$}", self.style.paint(*tone, cell)));
                text.push_str(if column == last { "\n" } else { "  " });
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(Style::plain(), &["NAME", "N"]);
        table.row([(Tone::Strong, "a-long-name".to_owned()), (Tone::Good, "1".to_owned())]);
        assert_eq!(table.text(), "NAME         N\na-long-name  1\n");
    }
}
