//! Auditors that are not ours, for whoever has their languages: see `tests/auditors`.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// One of them, ready to run.
pub(crate) struct Auditor {
    pub(crate) name: &'static str,
    line: Vec<OsString>,
}

/// Those that are here or can be installed; a line says which are not.
pub(crate) fn auditors() -> Vec<Auditor> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/auditors/prepare");
    let mut found = Vec::new();
    for name in ["go", "python"] {
        let made = Command::new(&script).arg(name).stdin(Stdio::null()).output().expect("a shell");
        match made.status.code() {
            Some(0) => {
                let out = String::from_utf8(made.stdout).expect("UTF-8");
                let line = out.lines().last().expect("what to run").split(' ').map(OsString::from).collect();
                found.push(Auditor { name, line });
            }
            Some(77) => eprintln!(
                "\n*** SKIPPED: the auditor in {name} ({}); see tests/auditors/prepare ***\n",
                String::from_utf8_lossy(&made.stderr).lines().last().unwrap_or_default()
            ),
            code => panic!("tests/auditors/prepare {name}: {code:?}: {}", String::from_utf8_lossy(&made.stderr)),
        }
    }
    found
}

impl Auditor {
    /// What it says of each path, in their order: whether it holds, and its words.
    pub(crate) fn audit(&self, policy: &Path, paths: &[&Path]) -> Vec<(bool, String)> {
        let output = Command::new(&self.line[0])
            .args(&self.line[1..])
            .arg(policy)
            .args(paths)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out.lines().count(), paths.len(), "{}: {out}{error}", self.name);
        let verdicts: Vec<_> = (out.lines().zip(paths))
            .map(|(line, path)| {
                let said = line.strip_prefix(&format!("{}: ", path.display())).unwrap_or_else(|| panic!("{line}"));
                let holds = said.starts_with("holds ");
                assert!(holds || said.starts_with("FAILS: "), "{line}");
                (holds, said.to_owned())
            })
            .collect();
        let all = verdicts.iter().all(|(holds, _)| *holds);
        assert_eq!(output.status.code(), Some(i32::from(!all)), "{}: {out}{error}", self.name);
        verdicts
    }
}
