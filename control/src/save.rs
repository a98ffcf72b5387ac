//! Writing the settings that run into the replica's file.
//!
//! Only numbers of `[local]`, `core` and `helper_cores` change; every other byte stays, comments too. The new file is written beside the old one, read back as a start
//! would read it, synced, and renamed into place; the old one stays as `NAME.old`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::placement::{Live, Placement};
use atlas_dataplane::cluster::settings::LocalConfig;
use atlas_dataplane::cluster::{ConfigError, ReplicaConfig};

use crate::trial::{CORE, HELPER_CORES};

/// Why the settings were not saved; the file is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the file as it would be cannot be read: {0}; change it by hand")]
    Config(#[from] ConfigError),
    #[error("{} is written in a way that this program does not change safely: change [local] by hand", .0.display())]
    Form(PathBuf),
}

/// Saves; gives where the old file is kept, or `None` where nothing had to change.
pub(crate) fn save(file: &Path, settings: &Live) -> Result<Option<PathBuf>, SaveError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SaveError::Io { path, source }
    };
    let path = fs::canonicalize(file).map_err(failed(file))?;
    if ReplicaConfig::load(&path)?.0.live() == *settings {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(failed(&path))?;
    let beside = |ending: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        path.with_file_name(name)
    };
    let (new, old) = (beside(".new"), beside(".old"));
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = File::create_new(&new)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.write_all(edit(&text, settings).as_bytes())?;
        file.sync_all()
    };
    write().map_err(failed(&new))?;
    if ReplicaConfig::load(&new)?.0.live() != *settings {
        let _ = fs::remove_file(&new);
        return Err(SaveError::Form(path));
    }
    let place = || {
        let _ = fs::remove_file(&old);
        fs::hard_link(&path, &old)?;
        fs::rename(&new, &path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    place().map_err(failed(&path))?;
    Ok(Some(old))
}

/// The text with these settings where they belong.
fn edit(text: &str, settings: &Live) -> String {
    let head = format!("[{}]", LocalConfig::SECTION);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Placement { core, helpers } = settings.placement;
    let places =
        [(CORE, core.map(|core| core.to_string())), (HELPER_CORES, helpers.map(|cores| format!("\"{cores}\"")))];
    for (key, value) in places {
        let end = lines.iter().position(|line| line.trim_start().starts_with('[')).unwrap_or(lines.len());
        put(&mut lines, 0, end, key, value, None);
    }
    let start = lines.iter().position(|line| line.trim() == head).unwrap_or_else(|| {
        lines.extend([String::new(), head]);
        lines.len() - 1
    });
    for (setting, (_, value)) in LocalConfig::TABLE.iter().zip(settings.local.numbers()) {
        let end = lines.iter().skip(start + 1).position(|line| line.trim_start().starts_with('['));
        let end = end.map_or(lines.len(), |length| start + 1 + length);
        put(&mut lines, start + 1, end, setting.key, Some(value.to_string()), Some(&setting.default.to_string()));
    }
    lines.join("\n") + "\n"
}

/// Puts a value behind its key between two lines; without one the key has none, and what stood there becomes a comment.
fn put(lines: &mut Vec<String>, first: usize, end: usize, key: &str, value: Option<String>, default: Option<&str>) {
    let names = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    let own = first + lines[first..end].iter().position(|line| names(line)).unwrap_or(end - first);
    let Some(value) = value else {
        if own < end {
            lines[own] = format!("# {}", lines[own].trim_start());
        }
        return;
    };
    if own < end {
        let comment = lines[own].split_once('#').map_or_else(String::new, |(_, comment)| format!("  #{comment}"));
        lines[own] = format!("{key} = {value}{comment}");
    } else if Some(value.as_str()) != default {
        let is_commented = |line: &String| line.trim_start().strip_prefix('#').is_some_and(&names);
        // Behind the line that shows the default, or at once behind the section's head.
        let place = lines[first..end].iter().position(is_commented).map_or(first, |place| first + place + 1);
        lines.insert(place, format!("{key} = {value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::cluster::init::{InitOptions, init};

    #[test]
    fn what_runs_is_what_the_next_start_reads_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let summary = init(&dir.path().join("c"), &InitOptions::new(0)).unwrap();
        let file = &summary.replica_files[0];
        let before = fs::read_to_string(file).unwrap();
        let local = LocalConfig { leader_timeout_ms: 400, pool_mib: 8, ..LocalConfig::default() };
        let placement = Placement { core: Some(2), helpers: "0-1,3".parse().ok() };
        let settings = Live { local, placement };
        assert_eq!(save(file, &Live::default()).unwrap(), None);
        let old = save(file, &settings).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), before);
        assert_eq!(ReplicaConfig::load(file).unwrap().0.live(), settings);
        let after = fs::read_to_string(file).unwrap();
        let added: Vec<_> = after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
        assert_eq!(added, ["core = 2", "helper_cores = \"0-1,3\"", "pool_mib = 8", "leader_timeout_ms = 400"]);
        assert!(before.lines().all(|line| after.lines().any(|new| new == line)));
        // Back to the default: the line says it.
        let placement = Placement { core: None, ..placement };
        let settings = Live { local: LocalConfig { leader_timeout_ms: 150, ..settings.local }, placement };
        save(file, &settings).unwrap();
        assert!(fs::read_to_string(file).unwrap().contains("\nleader_timeout_ms = 150\n"));
        assert_eq!(ReplicaConfig::load(file).unwrap().0.live(), settings);
        assert_eq!(
            fs::read_dir(file.parent().unwrap())
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".new") })
                .count(),
            0
        );
    }

    #[test]
    fn lines_of_people_keep_their_comments_and_a_missing_section_is_made() {
        let local = LocalConfig { pool_mib: 8, ..LocalConfig::default() };
        let settings = Live { local, ..Live::default() };
        let text = "x = 1\n[local]\n  pool_mib=16# tight\n[net]\npool_mib = 3\n";
        assert_eq!(edit(text, &settings), "x = 1\n[local]\npool_mib = 8  # tight\n[net]\npool_mib = 3\n");
        assert_eq!(edit("x = 1\n", &settings), "x = 1\n\n[local]\npool_mib = 8\n");
    }

    #[test]
    fn a_file_in_another_form_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let summary = init(&dir.path().join("c"), &InitOptions::new(0)).unwrap();
        let file = &summary.replica_files[0];
        let text = fs::read_to_string(file).unwrap().replace("[local]", "[ local ]");
        fs::write(file, &text).unwrap();
        let local = LocalConfig { pool_mib: 8, ..LocalConfig::default() };
        let settings = Live { local, ..Live::default() };
        assert!(save(file, &settings).is_err());
        assert_eq!(fs::read_to_string(file).unwrap(), text);
    }
}
