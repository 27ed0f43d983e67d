//! The daemon under test, as a process of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_larder");

/// A running daemon. A drop ends it.
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Daemon {
    /// Starts a daemon that watches the pods of this node, if there is a kubeconfig, and waits until it accepts.
    pub(crate) fn start(state: &Path, registry: &str, kubeconfig: Option<&Path>, node: &str) -> Self {
        let (address, admin) = (free(), free());
        let watch = kubeconfig.map_or(String::new(), |path| {
            format!("[kubernetes]\nkubeconfig = \"{}\"\nnode = \"{node}\"\n", path.display())
        });
        let text = format!(
            "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n[store]\nmin_free = \"0%\"\n[log]\nlevel = \"warn\"\naccess = false\n{watch}[[registry]]\nhost = \"reg.test\"\nendpoints = [\"http://{registry}\"]\n",
            state.display()
        );
        let config = state.join("larder.toml");
        fs::write(&config, text).unwrap();
        let process = Command::new(PROGRAM)
            .args(["serve", "--config", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the daemon does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { address, process }
    }

    /// Asks for a stop, and waits.
    pub(crate) fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
