//! How answers to people look: colour on a terminal, plain text in a pipe or file.
//!
//! `NO_COLOR` (any text but the empty one) and `TERM=dumb` switch colour off. Colour never carries meaning alone: each
//! mark is a word as well.

use std::fmt::{self, Display};
use std::io::IsTerminal;

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
    /// Names and headings.
    Strong,
    /// Beside the point.
    Faint,
    /// As it is.
    Plain,
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self::new(std::io::stdout().is_terminal())
    }

    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self::new(std::io::stderr().is_terminal())
    }

    /// Without colour.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { colour: false }
    }

    fn new(terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name);
        let refused = set("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|value| value == "dumb");
        Self { colour: terminal && !refused && !dumb }
    }

    /// `text`, coloured where that is wanted.
    pub(crate) fn paint<T: Display>(self, tone: Tone, text: T) -> Painted<T> {
        Painted { tone: self.colour.then_some(tone), text }
    }
}

/// A text with its colour.
pub(crate) struct Painted<T> {
    tone: Option<Tone>,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // ECMA-48 SGR.
        let code = match self.tone {
            None | Some(Tone::Plain) => return self.text.fmt(f),
            Some(Tone::Good) => "32",
            Some(Tone::Warning) => "33",
            Some(Tone::Bad) => "31",
            Some(Tone::Strong) => "1",
            Some(Tone::Faint) => "2",
        };
        write!(f, "\x1b[{code}m")?;
        // Width and alignment are those of the text, without the codes.
        self.text.fmt(f)?;
        f.write_str("\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_surrounds_the_aligned_text_and_a_pipe_gets_none() {
        let (plain, coloured) = (Style { colour: false }, Style { colour: true });
        assert_eq!(format!("[{:<4}]", plain.paint(Tone::Good, "ok")), "[ok  ]");
        assert_eq!(format!("[{:<4}]", coloured.paint(Tone::Bad, "no")), "[\x1b[31mno  \x1b[0m]");
    }
}
