//! `weft check`.

use std::fmt::Write as _;
use std::process::ExitCode;

use weft_ops::check::{Check, Finding, Report, State, Vantage};

use crate::ask::{self, Asked, Output};
use crate::style::{Style, Tone};

/// Particulars of one finding that are printed; `-o json` has all.
const MOST: usize = 10;

/// Check whether Weft can be installed, or whether it and its mesh are well.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Before an installation: the API server, permissions, what is in the way, and what an earlier one has left.
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    asked: Asked,
}

/// Runs the command. Exit code 1 where something failed.
pub(crate) fn run(args: &Args) -> ExitCode {
    let check = Check {
        own: args.asked.namespace.to_string(),
        scope: args.asked.only().map(str::to_owned),
        pre: args.pre,
    };
    let answered = args.asked.with_client(async |client| Ok(check.run(&client).await)).and_then(|report| {
        let text = match args.asked.output {
            Output::Json => ask::json(&report.json())?,
            Output::Text => text(&report, Style::stdout()),
        };
        ask::print(&text)?;
        Ok(report.ok())
    });
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(code) => code,
    }
}

fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Skipped => Tone::Faint,
        State::Warning => Tone::Warning,
        State::Failed => Tone::Bad,
    }
}

fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let mut topics: Vec<&str> = Vec::new();
    for finding in &report.findings {
        if !topics.contains(&finding.topic()) {
            topics.push(finding.topic());
        }
    }
    for topic in topics {
        let _ = writeln!(out, "{}", style.paint(Tone::Strong, topic));
        for finding in report.findings.iter().filter(|finding| finding.topic() == topic) {
            one(&mut out, finding, style);
        }
    }
    let (failed, warnings) = (report.count(State::Failed), report.count(State::Warning));
    let verdict = match (failed, warnings) {
        (0, 0) => style.paint(Tone::Good, "all is well".to_owned()),
        (0, warnings) => style.paint(Tone::Warning, format!("nothing failed, {warnings} to be looked at")),
        (failed, warnings) => style.paint(Tone::Bad, format!("{failed} failed, {warnings} to be looked at")),
    };
    let _ = writeln!(out, "\n{verdict}");
    out
}

fn one(out: &mut String, finding: &Finding, style: Style) {
    // Writing to a String cannot fail.
    let from = match finding.from {
        Vantage::Api => String::new(),
        other => format!(" ({other})"),
    };
    let state = style.paint(tone(finding.state), finding.state);
    let _ = writeln!(out, "  {state:<7}  {}{}", finding.summary, style.paint(Tone::Faint, from));
    for detail in finding.details.iter().take(MOST) {
        let _ = writeln!(out, "             {detail}");
    }
    if finding.details.len() > MOST {
        let more = format!("and {} more; -o json has all", finding.details.len() - MOST);
        let _ = writeln!(out, "             {}", style.paint(Tone::Faint, more));
    }
    if let Some(cure) = &finding.cure {
        let _ = writeln!(out, "           {} {cure}", style.paint(Tone::Strong, "->"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_by_topic_with_cures_and_a_verdict() {
        let finding = |id, state, details: usize, cure: Option<&str>| Finding {
            id,
            state,
            from: Vantage::Proxies,
            summary: "s".to_owned(),
            details: (0..details).map(|i| format!("d{i}")).collect(),
            cure: cure.map(str::to_owned),
        };
        let report = Report {
            findings: vec![
                finding("a.x", State::Ok, 0, None),
                finding("b.x", State::Failed, 12, Some("mend")),
                finding("a.y", State::Warning, 1, Some("look")),
            ],
        };
        let said = text(&report, Style::plain());
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "a",
                "  ok       s (told by the proxies)",
                "  warning  s (told by the proxies)",
                "             d0",
                "           -> look"
            ]
        );
        assert_eq!(lines[5..8], ["b", "  failed   s (told by the proxies)", "             d0"]);
        assert!(said.contains("d9\n") && !said.contains("d10") && said.contains("and 2 more"));
        assert!(said.ends_with("           -> mend\n\n1 failed, 1 to be looked at\n"), "{said}");
    }
}
