//! The commands of `atlas`: from what is typed to what is printed and the exit code.
//!
//! - [`args`]: the command line and its help; [`parse`]: values, conditions and ends of a history;
//! - `init`: `init`, `replica` and `recover`; [`mod@backup`]: `backup`, `restore`; [`mod@cold`]: `cold`; [`mod@host`]: `host`; [`mod@plot`]: `plot`; `write`: `set`, `delete`, `txn`; `read`: `get`, `list`; `history`: `history`, `trail`;
//!   `watch`, `status`, `ctl`, `stat`, `trace`, [`mod@top`]: `top`, `bench`, `sim`; [`keys`]: `key`; [`proofs`]: `prove`, `export`; [`mod@audit`]: `verify`, `audit`, `serve`;
//! - [`session`]: the connection that all of them share; [`changes`]: a
//!   subscription's pages; [`output`]: tables and JSON lines; [`error`]: exit codes;
//!   [`time`]: times as text; [`interrupt`]: the end by a signal.
//!
//! Results go to the standard output, everything else to standard error. A command whose output is closed by its reader
//! (`atlas list '' | head`) ends at once and counts as done. Nothing is buffered across lines in `watch`.

pub mod args;
pub mod audit;
pub mod backup;
pub mod bench;
pub mod changes;
pub mod cold;
pub mod ctl;
pub mod error;
pub mod evidence;
pub mod history;
pub mod host;
pub mod init;
pub mod interrupt;
pub mod keys;
pub mod output;
pub mod parse;
pub mod plot;
pub mod proofs;
pub mod read;
pub mod session;
pub mod sim;
pub mod stat;
pub mod status;
pub mod time;
pub mod top;
pub mod trace;
pub mod watch;
pub mod write;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use atlas_dataplane::flight::lines::AT_END;
use atlas_dataplane::flight::stderr;
use error::CliError;
use output::{Colour, Style};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let style = Style::of(&io::stdout());
    let mut out = BufWriter::new(io::stdout().lock());
    let result = run(&arguments.command, &mut out, style).and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => ExitCode::from(error::EXIT_DONE),
        Err(CliError::OutputClosed) => CliError::OutputClosed.exit_code(),
        Err(error) => {
            // What was printed before the error belongs before it; if nobody reads it, the error counts all the same.
            let _ = out.flush();
            let label = Style::of(&io::stderr()).paint(Colour::Red, "error:");
            let text = format!("{label} {error}\n");
            // A pipe that nobody reads keeps nobody from its end.
            let _ = stderr::write_all(text.as_bytes(), |waited| waited < AT_END);
            error.exit_code()
        }
    }
}

fn run(command: &Command, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    match command {
        Command::Init(args) => init::init(args, out, style),
        Command::Replica(args) => init::replica(args),
        Command::Recover(args) => init::recover(args, out),
        Command::Backup(args) => backup::backup(args, out),
        Command::Restore(args) => backup::restore(args, out, style),
        Command::Cold(args) => cold::cold(args, out, style),
        Command::HostileReplica(args) => init::hostile_replica(args),
        Command::Set(args) => write::set(args, out, style),
        Command::Delete(args) => write::delete(args, out, style),
        Command::Txn(args) => write::txn(args, out, style),
        Command::Get(args) => read::get(args, out, style),
        Command::List(args) => read::list(args, out, style),
        Command::History(args) => history::history(args, out, style),
        Command::Trail(args) => history::trail(args, out, style),
        Command::Watch(args) => watch::watch(args, out, style),
        Command::Key(args) => keys::key(args, out, style),
        Command::Status(args) => status::status(args, out, style),
        Command::Ctl(args) => ctl::ctl(args, out, style),
        Command::Stat(args) => stat::stat(args, out, style),
        Command::Top(args) => top::top(args, out, style),
        Command::Trace(args) => trace::trace(args, out, style),
        Command::Prove(args) => proofs::prove(args, out, style),
        Command::Export(args) => proofs::export(args, out, style),
        Command::Verify(args) => audit::verify(args, out, style),
        Command::Audit(args) => audit::audit(args, out, style),
        Command::Serve(args) => audit::serve(args, out),
        Command::Bench(args) => bench::bench(args, out),
        Command::Host(args) => host::host(args, out, style),
        Command::Plot(args) => plot::plot(args, out, style),
        Command::Sim(args) => sim::sim(args, out, style),
        Command::Demo(args) => crate::demo::demo(args, out, style),
    }
}
