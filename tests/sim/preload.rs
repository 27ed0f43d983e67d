//! Begins this program anew with the library before it that makes file calls fail (`shim.c`), and a control page for it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::CONTROL_BYTES;

const CONTROL: &str = "LARDER_SIM_DISK";

/// Returns in a process that has the library; begins one otherwise.
pub(crate) fn ensure() {
    if std::env::var_os(CONTROL).is_some() {
        return;
    }
    let library = library();
    let control = root().join("control");
    fs::create_dir_all(root()).unwrap();
    File::create(&control).unwrap().set_len(CONTROL_BYTES).unwrap();
    // No certificates: nothing here speaks TLS, and reading them takes longer than a history.
    let none = root().join("none.pem");
    File::create(&none).unwrap();
    let failed = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args().skip(1))
        .env("LD_PRELOAD", library)
        .env(CONTROL, control)
        .env("SSL_CERT_FILE", &none)
        .env_remove("SSL_CERT_DIR")
        .exec();
    panic!("cannot begin anew: {failed}");
}

/// The control page.
pub(crate) fn control() -> PathBuf {
    std::env::var_os(CONTROL).unwrap().into()
}

/// Where this process keeps its disks: in memory, if the machine has such a place.
pub(crate) fn root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    place.join(format!("larder-sim-{}", std::process::id()))
}

/// A program that this one begins gets a library and a page of its own.
pub(crate) fn worker() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_remove(CONTROL).env_remove("LD_PRELOAD");
    command
}

fn library() -> PathBuf {
    let source = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim").join(name);
    let sources = [source("shim.c"), source("threads.c")];
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(place).unwrap();
    let library = place.join("sim-shim.so");
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let newest = sources.iter().chain([&source("shim.h")]).filter_map(|path| changed(path)).max();
    if changed(&library) < newest {
        let temporary = place.join(format!("sim-shim.{}.so", std::process::id()));
        let built = Command::new("cc")
            .args(["-Wall", "-O2", "-shared", "-fPIC", "-o"])
            .arg(&temporary)
            .args(&sources)
            .args(["-ldl", "-lpthread"])
            .status();
        assert!(built.is_ok_and(|status| status.success()), "cc cannot build {sources:?}");
        fs::rename(&temporary, &library).unwrap();
    }
    library
}
