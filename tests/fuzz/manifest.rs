//! The manifests of an export and of a backup, which are JSON.

use atlas::audit::layout::{FORMAT, Listed, Manifest, is_export_path};
use atlas::backup::manifest::{self as backup, is_backup_path};

use crate::harness::{Reached, counted, mutated};
use crate::random::Rng;

pub(crate) fn manifest(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let paths = ["checkpoint", "tile/0/000", "tile/entries/x001/000.p/7", "policies/0", "checkpoints/300"];
        let file = |rng: &mut Rng| Listed {
            path: paths[rng.below(paths.len())].to_owned(),
            bytes: rng.number(),
            sha256: data_encoding::HEXLOWER.encode(&rng.array::<32>()),
        };
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            origin: rng.text(9),
            from: rng.number(),
            to: rng.number(),
            size: rng.number(),
            root: data_encoding::HEXLOWER.encode(&rng.array::<32>()),
            files: rng.list(4, file),
        };
        serde_json::to_vec_pretty(&manifest).expect("JSON")
    })
}

pub(crate) fn run_manifest(input: &[u8]) -> Reached {
    // JSON grows by its escapes and by the words of its lists.
    match counted(4 * input.len(), || serde_json::from_slice::<Manifest>(input)) {
        Ok(manifest) => {
            let again = serde_json::to_vec(&manifest).expect("JSON");
            assert_eq!(serde_json::from_slice::<Manifest>(&again).ok().as_ref(), Some(&manifest));
            let leads_out =
                |path: &str| path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | ".."));
            let mut paths = manifest.files.iter().map(|file| file.path.as_str());
            assert!(paths.all(|path| !is_export_path(path) || !leads_out(path)), "a path that leads out");
            Reached::Body
        }
        Err(error) if error.line() > 2 => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}

pub(crate) fn backup_manifest(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let paths =
            ["cluster.toml", "history/tile/0/000", "state/64.snapshot", "replica-1/keys/link.key", "../x", "state/"];
        let file = |rng: &mut Rng| Listed {
            path: paths[rng.below(paths.len())].to_owned(),
            bytes: rng.number(),
            sha256: data_encoding::HEXLOWER.encode(&rng.array::<32>()),
        };
        let manifest = backup::Manifest {
            format: backup::FORMAT.to_owned(),
            origin: rng.text(9),
            genesis: data_encoding::HEXLOWER.encode(&rng.array::<32>()),
            replica: rng.below(256) as u8,
            taken: rng.text(9),
            size: rng.number(),
            root: data_encoding::HEXLOWER.encode(&rng.array::<32>()),
            snapshot: Some(rng.number()),
            files: rng.list(4, file),
        };
        serde_json::to_vec_pretty(&manifest).expect("JSON")
    })
}

pub(crate) fn run_backup_manifest(input: &[u8]) -> Reached {
    match counted(4 * input.len(), || serde_json::from_slice::<backup::Manifest>(input)) {
        Ok(manifest) => {
            let again = serde_json::to_vec(&manifest).expect("JSON");
            assert_eq!(serde_json::from_slice::<backup::Manifest>(&again).ok().as_ref(), Some(&manifest));
            let leads_out =
                |path: &str| path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | ".."));
            let mut paths = manifest.files.iter().map(|file| file.path.as_str());
            assert!(paths.all(|path| !is_backup_path(path) || !leads_out(path)), "a path that leads out");
            Reached::Body
        }
        Err(error) if error.line() > 2 => Reached::Header,
        Err(_) => Reached::Nothing,
    }
}
