//! Arguments of `history` and `trail`, and what they share.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use atlas_dataplane::types::Code;
use clap::Args;

use super::super::parse;
use super::{Connection, Freshness};
use crate::trail::Format;
use crate::twin::query::Bound;
use crate::twin::record::{ALL_CODES, DONE_CODES, REFUSED_CODES};

/// Arguments of `atlas history`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas history plant/turbine-1 state
  atlas history plant/turbine-1 --from 2015-03-31T01:00:00Z --to 2015-03-31T02:00:00Z
  atlas history plant/turbine-1 power --from 1042.0 --json
  atlas history 'plant/*' --outcome refused --by operator
  atlas history '*' --from 2015-03-31T00:00:00Z --outcome all --format csv > day.csv
  atlas history plant/turbine-1 --around 2015-03-31T01:40:00Z --span 20m --svg trip.svg

Newest first. Times are agreed times. Values are shown as they were written. What was done to one twin is found along its own
chain of changes; --outcome other than done, or twins by a prefix, make the replicas read all entries between --from and --to.")]
pub struct HistoryArgs {
    /// The twin: namespace/name; or, with a * at the end, all twins that begin so
    #[arg(value_name = "TWIN", value_parser = parse::twins)]
    pub twin: Twins,
    /// Only this property
    #[arg(value_name = "PROPERTY", value_parser = parse::property)]
    pub property: Option<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
    /// Only so much time around this position or time; --span says how much
    #[arg(long, value_name = "P", value_parser = parse::bound, conflicts_with_all = ["from", "to"])]
    pub around: Option<Bound>,
    /// How much time in all, with --around: a number with ms, s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = span, requires = "around")]
    pub span: Duration,
    /// Draw what happened to the one twin to this file, refusals included, instead of printing it
    #[arg(long, value_name = "FILE", requires = "around", conflicts_with_all = ["format", "json"])]
    pub svg: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub show: Show,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub freshness: Freshness,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
}

/// Arguments of `atlas trail`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas trail export
  atlas trail export 'plant/*' --outcome refused --format csv > refused.csv
  atlas trail export plant/turbine-1 power --by operator --json

Reads an export directory; needs no cluster. Oldest first. It believes the files: atlas audit proves them.")]
pub struct TrailArgs {
    /// The export directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The twin: namespace/name; or, with a * at the end, all twins that begin so
    #[arg(value_name = "TWIN", value_parser = parse::twins, default_value = "*")]
    pub twin: Twins,
    /// Only this property
    #[arg(value_name = "PROPERTY", value_parser = parse::property)]
    pub property: Option<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub which: Which,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub show: Show,
}

/// Which operations.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Only what this identity signed: its name, or its key in base64; repeatable, up to 8 keys
    #[arg(long, value_name = "IDENTITY")]
    pub by: Vec<String>,
    /// all, done, refused, or a code such as 201 (history: done if not given; trail and --svg: all)
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<Outcomes>,
    /// Nothing before this position or time (included)
    #[arg(long, value_name = "P", value_parser = parse::bound)]
    pub from: Option<Bound>,
    /// Nothing after this position or time (included)
    #[arg(long, value_name = "P", value_parser = parse::bound)]
    pub to: Option<Bound>,
}

/// How to print rows.
#[derive(Args, Clone, Copy, Debug)]
pub struct Show {
    /// How to print: csv is RFC 4180 with a header and safe to open in a spreadsheet, json one object a line
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// As --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

impl Show {
    /// What was chosen.
    pub fn format(self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// One twin, or all whose names begin so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Twins {
    /// The name, or what the names begin with.
    pub name: String,
    /// Whether it is the whole name.
    pub is_whole: bool,
}

/// Lowest and highest code, included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcomes(pub (Code, Code));

impl FromStr for Outcomes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(ALL_CODES)),
            "done" => Ok(Self(DONE_CODES)),
            "refused" => Ok(Self(REFUSED_CODES)),
            _ => match text.parse().map(Code) {
                Ok(code) => Ok(Self((code, code))),
                Err(_) => Err("all, done, refused, or a code such as 201".to_owned()),
            },
        }
    }
}

/// The longest span, milliseconds: a hundred years.
const MAX_SPAN_MS: u64 = 100 * 366 * 86_400_000;

/// Reads a span of time: a whole number with its unit.
///
/// # Errors
/// A text for people.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms = unit_ms.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    match ms.filter(|ms| (1..=MAX_SPAN_MS).contains(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err("a whole number above 0 with ms, s, m, h or d, such as 10m; a hundred years at most".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, ms) in [("10m", 600_000), ("1ms", 1), ("90s", 90_000), ("2h", 7_200_000), ("1d", 86_400_000)] {
            assert_eq!(span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "10", "m", "0s", "-1m", "1.5h", "99999999999999999999s", "9000000d", "1 m"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn outcomes_are_ranges_of_codes() {
        assert_eq!("all".parse(), Ok(Outcomes((Code(0), Code(65_535)))));
        assert_eq!("refused".parse(), Ok(Outcomes((Code(1), Code(65_535)))));
        assert_eq!("201".parse(), Ok(Outcomes((Code(201), Code(201)))));
        assert!("maybe".parse::<Outcomes>().is_err() && "70000".parse::<Outcomes>().is_err());
    }
}
