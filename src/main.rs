//! `atlas`: see `atlas --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    atlas::cli::main()
}
