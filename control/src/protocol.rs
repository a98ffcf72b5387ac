//! The protocol of the control sockets; `docs/control.md` has the commands.
//!
//! Text in lines. The server greets with one line:
//!
//! ```text
//! atlas VERSION replica INDEX pid PID level LEVEL protocol 1
//! ```
//!
//! The client sends a line, at most [`MAX_LINE`](crate::limits::MAX_LINE) bytes, with one command or several with `;` between them.
//! Each command gets one answer: a line `CODE TEXT`, lines, and a line that is a single dot. A line of an answer that begins with a dot
//! has another before it. After `json on` the lines of an answer are one, a JSON object `{"code", "text", "data"}`. Empty lines get no
//! answer. After `prompt` each line is answered with a prompt behind its answers, for people.
//!
//! # Codes
//! ```text
//! 200 done                          403 another level may do this        500 it failed here; the text says why
//! 202 done, and on trial            404 needs expert-mode                503 the replica has too much to do; again later
//! 221 the end, as asked             409 not in this state                504 the replica did not answer in time;
//! 400 not a line of text            413 the line is too long                 whether it did it is not known
//! 401 no such command               429 too many connections
//! 402 not with these arguments
//! ```

use std::fmt;

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;

/// The line that ends an answer.
pub const END: &str = ".";

/// What a connection may do, by the socket that it came through. Each level may do what those before it may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Sees everything, changes nothing.
    Viewer,
    /// Changes what is undone by itself.
    Operator,
    /// Everything.
    Admin,
}

impl Level {
    /// Every level, from the one that may least.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its name.
    pub fn name(self) -> &'static str {
        atlas_dataplane::cluster::control::LEVELS[self as usize]
    }

    /// The name of its socket.
    pub fn socket(self) -> String {
        format!("{}.sock", self.name())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
