//! Lines typed at a terminal: history, and completion from what the replica itself says it understands.
//!
//! Commands and their arguments come from the `usage` of `help`, names of settings from `params`, so a replica of another version is completed
//! as it is. In a usage small letters are typed as they stand, capitals stand for something, brackets may be left out, and `|` is between
//! choices.

use std::path::PathBuf;

use atlas_control::client::{Client, ClientError};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use serde_json::Value;

use crate::cli::error::CliError;

/// Lines that the history keeps.
const MAX_HISTORY: usize = 1_000;

/// Words of one kind that are offered.
const MAX_WORDS: usize = 1_024;

/// A line editor.
pub(super) struct Lines {
    editor: Editor<Words, FileHistory>,
    file: Option<PathBuf>,
}

impl Lines {
    /// An editor that completes what this replica understands.
    pub(super) fn new(client: &mut Client, json: bool) -> Result<Self, CliError> {
        let wrong = |error: ReadlineError| CliError::failed("cannot use the terminal", error);
        let words = Words::ask(client, json).map_err(|error| CliError::Failed(error.to_string()))?;
        let config =
            Config::builder().completion_type(CompletionType::List).max_history_size(MAX_HISTORY).map_err(wrong)?;
        let mut editor = Editor::with_config(config.auto_add_history(true).build()).map_err(wrong)?;
        editor.set_helper(Some(words));
        let file = history_file();
        if let Some(file) = &file {
            // There is none before the first time.
            let _ = editor.load_history(file);
        }
        Ok(Self { editor, file })
    }

    /// The next line; `None` at the end. A line that is broken off with an interrupt is empty.
    pub(super) fn next(&mut self, prompt: &str) -> Result<Option<String>, CliError> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Some(line)),
            Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
            Err(ReadlineError::Eof) => Ok(None),
            Err(error) => Err(CliError::failed("cannot read the terminal", error)),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // A history that cannot be kept keeps nobody from working.
        if let Some(file) = &self.file {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = self.editor.append_history(file);
        }
    }
}

/// `$XDG_STATE_HOME/atlas/ctl_history`, else below `~/.local/state`; none for a user without a home. Source: XDG Base Directory 0.8.
fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || set("HOME").filter(|home| home.is_dir()).map(|home| home.join(".local/state"));
    Some(set("XDG_STATE_HOME").or_else(home)?.join("atlas/ctl_history"))
}

/// What can be typed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Words {
    /// Command, and its arguments in each of the ways in which it is used.
    usages: Vec<(String, Vec<Vec<String>>)>,
    /// Every setting, and whether it changes at once.
    settings: Vec<(String, bool)>,
}

impl Words {
    fn ask(client: &mut Client, json: bool) -> Result<Self, ClientError> {
        client.ask("json on")?;
        let mut rows = |command| {
            let reply = client.ask(command)?;
            let object: Value =
                reply.lines.first().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            Ok::<_, ClientError>(object["data"]["rows"].as_array().cloned().unwrap_or_default())
        };
        let (help, params) = (rows("help")?, rows("params")?);
        if !json {
            client.ask("json off")?;
        }
        Ok(Self::of(&help, &params))
    }

    fn of(help: &[Value], params: &[Value]) -> Self {
        let usages = help.iter().take(MAX_WORDS).filter_map(|row| usage(row["usage"].as_str()?)).collect();
        let setting = |row: &Value| {
            let name = row["name"].as_str()?;
            Some((name.split('.').next_back()?.to_owned(), row["effect"] == "at once"))
        };
        let mut settings: Vec<_> = params.iter().take(MAX_WORDS).filter_map(setting).collect();
        settings.sort();
        Self { usages, settings }
    }

    /// Where the word at the end of `typed` begins, and what it may become.
    pub(super) fn complete(&self, typed: &str) -> (usize, Vec<String>) {
        let begin = typed.rfind(|c: char| c.is_whitespace() || c == ';').map_or(0, |at| at + 1);
        let (before, word) = typed.split_at(begin);
        let before: Vec<&str> = before.rsplit(';').next().unwrap_or_default().split_whitespace().collect();
        let mut found: Vec<String> = match before.split_first() {
            None => self.usages.iter().map(|(command, _)| command.clone()).collect(),
            Some((command, arguments)) => self.arguments(command, arguments),
        };
        found.retain(|candidate| candidate.starts_with(word));
        found.sort();
        found.dedup();
        (begin, found)
    }

    fn arguments(&self, command: &str, before: &[&str]) -> Vec<String> {
        let Some((_, ways)) = self.usages.iter().find(|(name, _)| name == command) else { return Vec::new() };
        let is =
            |token: &String, typed: &&str| is_placeholder(token) || token.split('|').any(|choice| choice == *typed);
        let fits = |way: &&Vec<String>| {
            way.len() > before.len() && way.iter().zip(before).all(|(token, typed)| is(token, typed))
        };
        let next = ways.iter().filter(fits).map(|way| way[before.len()].as_str());
        next.flat_map(|token| self.choices(command, token)).collect()
    }

    fn choices(&self, command: &str, token: &str) -> Vec<String> {
        match token {
            "COMMAND" => self.usages.iter().map(|(name, _)| name.clone()).collect(),
            // `params` explains all; others change only what changes at once.
            "NAME" => {
                let fits = |setting: &&(String, bool)| setting.1 || command == "params";
                self.settings.iter().filter(fits).map(|(name, _)| name.clone()).collect()
            }
            _ if is_placeholder(token) => Vec::new(),
            _ => token.split('|').map(str::to_owned).collect(),
        }
    }
}

/// `configure check [NAME VALUE] | undo`: the command, and `check NAME VALUE` and `undo`.
fn usage(text: &str) -> Option<(String, Vec<Vec<String>>)> {
    let (command, rest) = text.split_once(' ').unwrap_or((text, ""));
    let way = |way: &str| way.split_whitespace().map(|token| token.replace(['[', ']'], "")).collect();
    (!command.is_empty()).then(|| (command.to_owned(), rest.split(" | ").map(way).collect()))
}

fn is_placeholder(token: &str) -> bool {
    token.starts_with(char::is_uppercase)
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (begin, found) = Self::complete(self, line.get(..position).unwrap_or(line));
        // The word is whole, so another may follow.
        Ok((begin, found.into_iter().map(|word| Pair { replacement: format!("{word} "), display: word }).collect()))
    }
}

impl Helper for Words {}
impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}

#[cfg(test)]
mod tests;
