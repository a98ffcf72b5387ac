//! The command line of `atlas key`.

use std::path::PathBuf;

use atlas_dataplane::types::{PublicKey, TimeMs};
use atlas_dataplane::wire::statement::{MAX_REASON, is_printed_name};
use clap::{Args, Subcommand};

use super::{Connection, Format, Freshness};
use crate::cli::keys::read_public_key;
use crate::cli::time::parse_ms;

/// Arguments of `atlas key`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas key new anna.key
  export ATLAS_IDENTITY=plant/clients/administrator.key
  atlas key register --key anna.key --name 'Anna Mueller' --role operator --until 2027-01-01T00:00:00Z
  atlas key rotate --key anna-2.key --replaces anna.key --reason 'new laptop'
  atlas key revoke --key anna-2.key --reason 'left the company'
  atlas key list

An administrator signs each change; it stands in the order and in the history for ever. What a key signed before it
was revoked stays and can be verified.")]
pub struct KeyArgs {
    /// What to do
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// The commands of `atlas key`.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Make a private key file, for its owner alone, and print its public key
    New(NewArgs),
    /// Let a key stand for somebody new
    Register(RegisterArgs),
    /// Let a key take the place of an earlier one, which ends
    Rotate(RotateArgs),
    /// End a key
    Revoke(RevokeArgs),
    /// Show every key that the cluster knows
    List(ListKeysArgs),
}

/// Arguments of `atlas key new`.
#[derive(Args, Debug)]
pub struct NewArgs {
    /// The file to write; one that is there is never overwritten
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Which key, and why.
#[derive(Args, Debug)]
pub struct Subject {
    /// The public key, or a file that has it: a key file of `atlas key new`, or a text file
    #[arg(long, value_name = "PUBLIC|FILE", value_parser = read_public_key)]
    pub key: PublicKey,
    /// Why, kept in the history
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// When a new key is valid.
#[derive(Args, Clone, Copy, Debug)]
pub struct Valid {
    /// Not before this time, RFC 3339; at once if not given
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub from: Option<TimeMs>,
    /// Not from this time on, RFC 3339; without end if not given
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub until: Option<TimeMs>,
}

/// Arguments of `atlas key register`.
#[derive(Args, Debug)]
pub struct RegisterArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub subject: Subject,
    /// Whom it stands for; a name is given once, for ever
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: String,
    /// A role of the cluster file
    #[arg(long, value_name = "ROLE", required_unless_present = "administrator", conflicts_with = "administrator")]
    pub role: Option<String>,
    /// An administrator instead: it signs changes of keys and writes nothing
    #[arg(long)]
    pub administrator: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub valid: Valid,
}

/// Arguments of `atlas key rotate`.
#[derive(Args, Debug)]
pub struct RotateArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub subject: Subject,
    /// The earlier key, whose name and role it takes; it may have been revoked
    #[arg(long, value_name = "PUBLIC|FILE", value_parser = read_public_key)]
    pub replaces: PublicKey,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub valid: Valid,
}

/// Arguments of `atlas key revoke`.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub subject: Subject,
}

/// Arguments of `atlas key list`.
#[derive(Args, Debug)]
pub struct ListKeysArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub freshness: Freshness,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

fn reason(text: &str) -> Result<String, String> {
    if text.len() > MAX_REASON { Err(format!("at most {MAX_REASON} bytes")) } else { Ok(text.to_owned()) }
}

fn name(text: &str) -> Result<String, String> {
    match is_printed_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 64 bytes, no invisible characters and no space at its ends".to_owned()),
    }
}
