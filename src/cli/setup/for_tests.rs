//! What the tests of setup share: a request, and a machine in a directory.

use std::fs;

use super::plan::SetupRequest;
use crate::cli::runtimes::machine::Machine;
use crate::reference::Registry;

/// To set up `runtime` for a cache at `authority` (`host:port`), with nothing that is optional.
pub(super) fn request(runtime: &'static str, authority: &str) -> SetupRequest {
    SetupRequest {
        runtime,
        url: format!("http://{authority}"),
        authority: authority.to_owned(),
        authorities: vec![authority.to_owned()],
        strict: false,
        undo: false,
        registries: Vec::new(),
        configured: Vec::new(),
        default_registry: Registry::docker_hub(),
        gate: None,
    }
}

/// A machine that has these files.
pub(super) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let machine = Machine::under(directory.path());
    (directory, machine)
}
