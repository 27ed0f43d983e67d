//! The daemon under test, as a process of its own: its requests, its memory, its processor time. It writes no request log.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{processor, program};

/// What a daemon is started with.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Names of registries, and their addresses; the first is the default registry.
    pub(crate) registries: &'a [(String, String)],
    /// The budget of the store, as the configuration has it.
    pub(crate) max_bytes: &'a str,
    /// More lines of configuration, those of `[log]` first.
    pub(crate) more: &'a str,
    /// The processors that it may use, from the first on; `None` for all.
    pub(crate) cores: Option<usize>,
}

/// A running daemon. A drop ends it.
pub(crate) struct Daemon {
    process: Child,
    config: String,
    pub(crate) address: String,
    admin: String,
    /// Seconds from the start of the process until it was ready.
    pub(crate) ready: f64,
    started: Instant,
}

impl Daemon {
    /// Starts a daemon on the state directory, with a budget of `max_bytes`, and waits until it is ready.
    pub(crate) fn start(state: &Path, registry: &str, max_bytes: &str) -> Self {
        Self::start_with(state, registry, max_bytes, "")
    }

    /// The same with more lines of configuration, those of `[log]` first.
    pub(crate) fn start_with(state: &Path, registry: &str, max_bytes: &str, more: &str) -> Self {
        let registries = &[("reg.test".to_owned(), registry.to_owned())];
        Self::launch(state, Setup { registries, max_bytes, more, cores: None })
    }

    /// Starts a daemon on the state directory, and waits until it is ready.
    pub(crate) fn launch(state: &Path, setup: Setup<'_>) -> Self {
        let (address, admin) = (free(), free());
        let Setup { registries, max_bytes, more, cores } = setup;
        let sections: String = registries
            .iter()
            .map(|(name, at)| format!("[[registry]]\nhost = \"{name}\"\nendpoints = [\"http://{at}\"]\n"))
            .collect();
        let text = format!(
            "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\ndefault_registry = \"{1}\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n[store]\nmax_bytes = \"{max_bytes}\"\nmin_free = \"0%\"\n[log]\nlevel = \"error\"\naccess = false\n{more}\n{sections}",
            state.display(),
            registries[0].0
        );
        let path = state.join("larder.toml");
        fs::write(&path, text).unwrap();
        let config = path.to_str().unwrap().to_owned();
        let program = program::path();
        let mut command = match cores {
            None => Command::new(&program),
            // It becomes the program, so that its process is the daemon's.
            Some(cores) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["-c", &format!("0-{}", cores - 1), &program]);
                taskset
            }
        };
        let started = Instant::now();
        let process = command
            .args(["serve", "--config", &config])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut daemon = Self { process, config, address, admin, ready: 0.0, started };
        daemon.wait(|daemon| daemon.admin_get("/readyz").is_some_and(|(status, _)| status == 200));
        daemon.ready = daemon.started.elapsed().as_secs_f64();
        daemon
    }

    /// Seconds from the start until `blobs` blobs are counted.
    pub(crate) fn counted(&self, blobs: usize) -> f64 {
        self.wait(|daemon| daemon.blobs().is_some_and(|counted| counted >= blobs));
        self.started.elapsed().as_secs_f64()
    }

    /// The blobs that are counted.
    pub(crate) fn blobs(&self) -> Option<usize> {
        let (_, body) = self.admin_get("/v1/status")?;
        let status: serde_json::Value = serde_json::from_slice(&body).ok()?;
        usize::try_from(status["store"]["blobs"].as_u64()?).ok()
    }

    /// Waits until the daemon has used almost no processor time for a second.
    pub(crate) fn settle(&self) {
        self.wait(|daemon| {
            let before = daemon.cpu_seconds();
            std::thread::sleep(Duration::from_secs(1));
            daemon.cpu_seconds() - before < 0.03
        });
    }

    /// A connection for requests of runtimes.
    pub(crate) fn connect(&self) -> Connection {
        Connection::new(&self.address)
    }

    /// The answer of the admin port; `None` while it does not answer.
    pub(crate) fn admin_get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        TcpStream::connect(&self.admin).ok()?;
        Some(Connection::new(&self.admin).get(path))
    }

    /// Runs a command of the same program; returns its seconds.
    pub(crate) fn command(&self, arguments: &[&str]) -> f64 {
        let begun = Instant::now();
        let done =
            Command::new(program::path()).args(arguments).args(["--config", &self.config]).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        begun.elapsed().as_secs_f64()
    }

    /// Processor seconds since the start.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        processor::seconds(self.process.id()).unwrap()
    }

    /// Anonymous memory, bytes.
    pub(crate) fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
        kib * 1024.0
    }

    /// The most anonymous memory while `work` ran, bytes, looked at every 10 ms.
    pub(crate) fn memory_during<T>(&self, work: impl FnOnce() -> T) -> (T, f64) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let peak = scope.spawn(|| {
                let mut peak = self.memory();
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                    peak = peak.max(self.memory());
                }
                peak
            });
            let done = work();
            is_over.store(true, Ordering::Relaxed);
            (done, peak.join().unwrap())
        })
    }

    /// Asks for a stop; returns its seconds.
    pub(crate) fn stop(mut self) -> f64 {
        let begun = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        self.process.wait().unwrap();
        begun.elapsed().as_secs_f64()
    }

    /// Ends the process without warning.
    pub(crate) fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until something is so, for ten minutes at most.
    pub(crate) fn wait(&self, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(600);
        while !done(self) {
            assert!(Instant::now() < until, "the daemon does not get there");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    pub(crate) fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host: address.to_owned() }
    }

    /// The status and the body.
    pub(crate) fn get(&mut self, path: &str) -> (u16, Vec<u8>) {
        self.get_with(path, &[])
    }

    /// The same for a request with these headers.
    pub(crate) fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
        let (status, length) = self.ask("GET", path, headers);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, body)
    }

    /// The status, and how many bytes came, which are not kept.
    pub(crate) fn count(&mut self, path: &str, buffer: &mut [u8]) -> (u16, usize) {
        let (status, length) = self.ask("GET", path, &[]);
        let mut left = length;
        while left > 0 {
            let most = left.min(buffer.len());
            let count = self.stream.read(&mut buffer[..most]).unwrap();
            assert!(count > 0, "{path} ended {left} bytes early");
            left -= count;
        }
        (status, length)
    }

    /// The status that a `HEAD` is answered with.
    pub(crate) fn head(&mut self, path: &str) -> u16 {
        self.ask("HEAD", path, &[]).0
    }

    /// Asks, and reads the head of the answer: its status, and how many bytes are announced.
    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, usize) {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        while self.stream.read_line(&mut line).unwrap() > 2 {
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            }
            let lower = line.to_ascii_lowercase();
            if let Some(rest) = lower.strip_prefix("content-length:") {
                length = rest.trim().parse().unwrap();
            }
            line.clear();
        }
        assert!(status > 0, "{path}: the connection was closed");
        (status, length)
    }
}

/// An address that nothing listens on.
pub(crate) fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
