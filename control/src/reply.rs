//! Answers: for people as lines, for programs as JSON, from the same data.

use serde_json::{Map, Value, json};

use crate::limits::MAX_ANSWER;

/// What the first line of an answer says. The numbers never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const DONE: Self = Self(200);
    pub(crate) const ON_TRIAL: Self = Self(202);
    pub(crate) const BYE: Self = Self(221);
    pub(crate) const MALFORMED: Self = Self(400);
    pub(crate) const UNKNOWN: Self = Self(401);
    pub(crate) const ARGUMENT: Self = Self(402);
    pub(crate) const LEVEL: Self = Self(403);
    pub(crate) const EXPERT: Self = Self(404);
    pub(crate) const CONFLICT: Self = Self(409);
    pub(crate) const TOO_LONG: Self = Self(413);
    pub(crate) const TOO_MANY: Self = Self(429);
    pub(crate) const FAILED: Self = Self(500);
    pub(crate) const BUSY: Self = Self(503);
    pub(crate) const LATE: Self = Self(504);
}

/// An answer to one command.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    /// One line.
    pub(crate) text: String,
    lines: Vec<String>,
    data: Value,
}

impl Reply {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), lines: Vec::new(), data: Value::Null }
    }

    pub(crate) fn done(text: impl Into<String>) -> Self {
        Self::new(Status::DONE, text)
    }

    pub(crate) fn lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines = lines.into_iter().collect();
        self.data = self.lines.clone().into();
        self
    }

    /// Names and values.
    pub(crate) fn fields(mut self, fields: Vec<(&str, Value)>) -> Self {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.lines = fields.iter().map(|(name, value)| format!("{name:width$}  {}", plain(value))).collect();
        self.data =
            Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>());
        self
    }

    /// Rows under columns; `more` were left out.
    pub(crate) fn table(mut self, columns: &[&str], rows: &[Vec<Value>], more: u64) -> Self {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
        let head: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
        let all = || std::iter::once(&head).chain(&cells);
        let widths: Vec<usize> = (0..columns.len())
            .map(|place| all().filter_map(|row| row.get(place)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.lines = all().map(line).collect();
        if more > 0 {
            self.lines.push(format!("and {more} more"));
        }
        let object = |row: &Vec<Value>| {
            Value::Object(columns.iter().map(|name| (*name).to_owned()).zip(row.iter().cloned()).collect())
        };
        self.data = json!({ "rows": rows.iter().map(object).collect::<Vec<_>>(), "more": more });
        self
    }

    /// As it is sent: `CODE TEXT`, the lines, and a line with a dot. As JSON the lines are one object.
    pub(crate) fn encode(&self, as_json: bool) -> String {
        let mut out = format!("{} {}\n", self.status.0, self.text.replace(['\n', '\r'], " "));
        if as_json {
            let object = json!({ "code": self.status.0, "text": self.text, "data": self.data }).to_string();
            match object.len() < MAX_ANSWER {
                true => out += &(object + "\n"),
                false => {
                    out += &json!({ "code": 500, "text": "the answer is too long; ask for less", "data": null })
                        .to_string();
                    out.push('\n');
                }
            }
        } else {
            for (place, line) in self.lines.iter().flat_map(|line| line.lines()).enumerate() {
                if out.len() + line.len() > MAX_ANSWER {
                    out += &format!("and more than {place} lines\n");
                    break;
                }
                // A line that begins with a dot has another before it: RFC 5321, 4.5.2.
                let dot = if line.starts_with('.') { "." } else { "" };
                out += &format!("{dot}{line}\n");
            }
        }
        out + ".\n"
    }
}

pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_a_dot_and_has_no_other_such_line() {
        let reply = Reply::done("two\nlines").lines([".".to_owned(), "..a\nb".to_owned()]);
        assert_eq!(reply.encode(false), "200 two lines\n..\n...a\nb\n.\n");
        assert_eq!(Reply::done("x").encode(false), "200 x\n.\n");
    }

    #[test]
    fn people_and_programs_get_the_same() {
        let table = Reply::done("t").table(
            &["name", "count"],
            &[vec!["a".into(), 5.into()], vec!["bcdef".into(), Value::Null]],
            2,
        );
        assert_eq!(table.encode(false), "200 t\nNAME   COUNT\na      5\nbcdef  -\nand 2 more\n.\n");
        let text = table.encode(true);
        let object: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(object["data"]["rows"][1], json!({ "name": "bcdef", "count": null }));
        assert_eq!((&object["code"], &object["data"]["more"]), (&json!(200), &json!(2)));
    }

    #[test]
    fn an_answer_that_is_too_long_is_cut_and_says_so() {
        let reply = Reply::done("long").lines((0..100_000).map(|number| format!("line {number}")));
        for as_json in [false, true] {
            let text = reply.encode(as_json);
            assert!(text.len() < MAX_ANSWER + 200 && text.ends_with("\n.\n"));
        }
        assert!(reply.encode(false).contains("and more than"));
        assert!(reply.encode(true).contains("too long"));
    }
}
