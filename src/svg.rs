//! What drawings share: text in SVG that nothing written by others breaks.

use std::fmt::{self, Write};

use crate::cli::output::printable;

/// Which end of a text stands at its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Writes a text element of a class.
pub(crate) fn text_at(out: &mut String, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) -> fmt::Result {
    let anchor = match anchor {
        Anchor::Start => "",
        Anchor::Middle => " text-anchor=\"middle\"",
        Anchor::End => " text-anchor=\"end\"",
    };
    writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{anchor}>{}</text>", escaped(text))
}

/// A text as XML 1.0 has it, in elements and attributes: control characters as their escapes, characters that XML cannot have
/// replaced.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_a_text() {
        assert_eq!(escaped("a<b>&\"c\"'"), "a&lt;b&gt;&amp;&quot;c&quot;&#39;");
        assert_eq!(
            escaped("]]></text><script>\u{0}\u{1b}[2J\u{ffff}"),
            "]]&gt;&lt;/text&gt;&lt;script&gt;\\u{0}\\u{1b}[2J\u{fffd}"
        );
    }
}
