//! An explanation for people.

use std::fmt::{self, Display, Formatter};

use super::{Explanation, Miss, RuleText};

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let query = self.request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        writeln!(f, "{} {} {}{query}", self.request.method, self.request.host, self.request.path)?;
        if let Some(door) = &self.door {
            writeln!(f, "  comes in at {door}")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "{rule}")?;
        }
        writeln!(f, "  => {}", self.outcome)?;
        if !self.near_misses.is_empty() {
            writeln!(f, "near misses:")?;
        }
        self.near_misses.iter().try_for_each(|miss| write!(f, "{miss}"))
    }
}

impl Display for RuleText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  belongs to {}", self.rule)?;
        if !self.matched.is_empty() {
            writeln!(f, "    matched by {}", self.matched)?;
        }
        for filter in &self.filters {
            writeln!(f, "    filter: {filter}")?;
        }
        for backend in &self.backends {
            write!(f, "    backend: {} % (weight {}) ", backend.percent, backend.weight)?;
            match (&backend.to, &backend.speaks, &backend.problem) {
                (_, _, Some(problem)) => writeln!(f, "answers 500: {problem}")?,
                (Some(to), Some(speaks), _) => writeln!(f, "{to}, {speaks}")?,
                _ => writeln!(f, "nowhere")?,
            }
            for filter in &backend.filters {
                writeln!(f, "      filter: {filter}")?;
            }
        }
        let more = [
            ("request timeout", &self.request_timeout),
            ("timeout of a try", &self.try_timeout),
            ("tried again", &self.retry),
            ("session kept", &self.session),
        ];
        for (name, value) in more {
            if let Some(value) = value {
                writeln!(f, "    {name}: {value}")?;
            }
        }
        Ok(())
    }
}

impl Display for Miss {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let why = match self.matches {
            true => "matches, and the rule above comes first".to_owned(),
            false => self.failed.join("; "),
        };
        writeln!(f, "  {} ({}): {why}", self.rule, self.wants)
    }
}
