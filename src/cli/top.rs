//! `atlas top`: from what is typed to the replicas that [`crate::top`] shows.

use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::cluster::control::METRICS_FILE;
use clap::Args;

use super::args::seconds;
use super::error::CliError;
use super::output::Style;
use super::stat::metrics_file;
use crate::top::plant::{Place, Plant};
use crate::top::{MAX_REPLICAS, screen};

/// Names in a directory that are looked at for configurations.
const MAX_NAMES: usize = 4_096;

/// The configuration of a replica in its directory.
const CONFIG_FILE: &str = "config.toml";

/// Arguments of `atlas top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas top --dir plant
  atlas top /var/lib/atlas/replica-0/config.toml
  atlas top --dir plant --once | grep -v ready

It reads the files that replicas on this host keep their metrics in, and asks them nothing. Keys are in the last line;
docs/operating.md says what the columns mean. For scripts: --once, or `atlas stat --json`.")]
pub struct TopArgs {
    /// Replicas, each by its data or run directory, its configuration file, or the file of metrics
    #[arg(value_name = "REPLICA", required_unless_present = "dir")]
    pub places: Vec<PathBuf>,
    /// A directory whose subdirectories are replicas', such as `atlas init` writes
    #[arg(long, value_name = "PLANT")]
    pub dir: Option<PathBuf>,
    /// Print one frame as text; it takes an interval, which its rates are of
    #[arg(long)]
    pub once: bool,
    /// Read the files so often
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
}

/// `atlas top`.
///
/// # Errors
/// Nothing to show, or no terminal.
pub fn top(args: &TopArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let mut places = Vec::new();
    if let Some(dir) = &args.dir {
        places.extend(plant_places(dir)?);
    }
    for place in &args.places {
        places.push(Place { name: name_of(place), file: metrics_file(place)? });
    }
    if places.len() > MAX_REPLICAS {
        return Err(CliError::Usage(format!("{} replicas are named, and one screen has {MAX_REPLICAS}", places.len())));
    }
    let mut plant = Plant::new(places);
    if args.once {
        return screen::once(&mut plant, args.interval, out);
    }
    if !io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "the standard output is no terminal: use --once for one frame as text, or `atlas stat --json`".to_owned(),
        ));
    }
    screen::run(&mut plant, args.interval, style != Style::PLAIN)
}

/// What a replica that was named is called before its metrics say which it is: by its configuration, else by the path.
fn name_of(place: &Path) -> String {
    let config = place.extension().is_some_and(|extension| extension == "toml") && place.is_file();
    let member = config.then(|| ReplicaConfig::load(place).ok()).flatten();
    let name = member.and_then(|(config, cluster)| cluster.member(config.replica).map(|member| member.name.clone()));
    name.unwrap_or_default()
}

/// The replicas of a directory, in their order.
fn plant_places(dir: &Path) -> Result<Vec<Place>, CliError> {
    let wrong = |error| CliError::failed(format_args!("cannot read {}", dir.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(wrong)?.take(MAX_NAMES) {
        let directory = entry.map_err(wrong)?.path();
        let config = directory.join(CONFIG_FILE);
        if !config.is_file() {
            continue;
        }
        let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match ReplicaConfig::load(&config) {
            Ok((config, _)) => {
                found.push((config.replica.0, Place { name, file: config.control.directory.join(METRICS_FILE) }));
            }
            // What is wrong with one keeps nobody from seeing the others.
            Err(error) => {
                let _ = writeln!(io::stderr(), "warning: {error}");
            }
        }
    }
    if found.is_empty() {
        let text = format!(
            "no subdirectory of {} that this user may enter has a replica's {CONFIG_FILE}; name the replicas themselves",
            dir.display()
        );
        return Err(CliError::Usage(text));
    }
    found.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    Ok(found.into_iter().map(|(_, place)| place).collect())
}
