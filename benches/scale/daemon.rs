//! The daemon under test, as a process of its own: its requests, its memory, its processor time.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_larder");

/// A running daemon.
pub(crate) struct Daemon {
    process: Child,
    config: String,
    address: String,
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
        let (address, admin) = (free(), free());
        let text = format!(
            "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\ndefault_registry = \"reg.test\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n[store]\nmax_bytes = \"{max_bytes}\"\nmin_free = \"0%\"\n[log]\nlevel = \"error\"\n{more}\n[[registry]]\nhost = \"reg.test\"\nendpoints = [\"http://{registry}\"]\n",
            state.display()
        );
        let path = state.join("larder.toml");
        fs::write(&path, text).unwrap();
        let config = path.to_str().unwrap().to_owned();
        let started = Instant::now();
        let process = Command::new(PROGRAM)
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
        let done = Command::new(PROGRAM).args(arguments).args(["--config", &self.config]).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        begun.elapsed().as_secs_f64()
    }

    /// Processor seconds since the start.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 on every Linux.
        ticks as f64 / 100.0
    }

    /// Anonymous memory, bytes.
    pub(crate) fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
        kib * 1024.0
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

    fn wait(&self, done: impl Fn(&Self) -> bool) {
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
    fn new(address: &str) -> Self {
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
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host);
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
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, body)
    }
}

pub(crate) fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
