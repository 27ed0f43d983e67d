//! A server as a process of its own: its start, its processor time, its memory.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder::reference::Digest;

use crate::kind::Kind;
use crate::support::processor;

/// A server is at rest that uses less of a processor than this for this long. Traffic Server and docker-registry are never
/// wholly idle.
const REST_SHARE: f64 = 0.02;
const REST: Duration = Duration::from_millis(250);
/// How long a server may take to come to rest.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A running server. A drop ends it.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    command: Vec<String>,
    process: Child,
}

impl Server {
    /// Starts the program, and waits until it listens.
    pub(crate) fn run(kind: Kind, address: &str, program: &str, arguments: &[&str]) -> Self {
        let command: Vec<String> =
            std::iter::once(program).chain(arguments.iter().copied()).map(str::to_owned).collect();
        let server = Self { kind, address: address.to_owned(), process: spawned(&command), command };
        server.wait();
        server
    }

    /// Ends it and starts it again at the same address: no connection to it is left.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.process = spawned(&self.command);
        self.wait();
    }

    fn wait(&self) {
        for _ in 0..500 {
            if TcpStream::connect(&self.address).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{:?} does not listen", self.command);
    }

    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> String {
        match self.kind {
            kind if Kind::STATIC.contains(&kind) => format!("/{}/{}/data", &digest.hex()[..2], digest.hex()),
            _ => format!("/v2/bench/app/blobs/{digest}"),
        }
    }

    pub(crate) fn manifest_path(&self, digest: &Digest) -> String {
        match self.kind {
            kind if Kind::STATIC.contains(&kind) => self.blob_path(digest),
            _ => format!("/v2/bench/app/manifests/{digest}"),
        }
    }

    /// CPU seconds of the server and its workers since they started.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes().iter().filter_map(|pid| processor::seconds(*pid)).sum()
    }

    /// Waits until the disk has what was written, and until the server is at rest: what a cache does after the last byte is
    /// a part of what the body costs.
    pub(crate) fn settle(&self) {
        rustix::fs::sync();
        let until = Instant::now() + SETTLE_MAX;
        loop {
            let before = self.cpu_seconds();
            std::thread::sleep(REST);
            let is_at_rest = self.cpu_seconds() - before < REST_SHARE * REST.as_secs_f64();
            if is_at_rest || Instant::now() > until {
                return;
            }
        }
    }

    /// Bytes that the server and its workers have written, to sockets and files, since they started.
    pub(crate) fn written(&self) -> u64 {
        let of = |pid: &u32| {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
        };
        self.processes().iter().map(of).sum::<u64>()
    }

    /// Anonymous memory now.
    pub(crate) fn anonymous_mib(&self) -> f64 {
        let kib: u64 = self.processes().iter().map(|pid| kib_of(*pid, "RssAnon:")).sum();
        kib as f64 / 1024.0
    }

    /// The peak of the resident memory, mapped files included.
    pub(crate) fn peak_mib(&self) -> f64 {
        let kib: u64 = self.processes().iter().map(|pid| kib_of(*pid, "VmHWM:")).sum();
        kib as f64 / 1024.0
    }

    /// Of Varnish and nginx the first process starts the others.
    fn processes(&self) -> Vec<u32> {
        let own = self.process.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawned(command: &[String]) -> Child {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let process = Command::new(&command[0])
        .args(&command[1..])
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    process.unwrap_or_else(|e| panic!("{}: {e}; run tests/tools.sh --bench", command[0]))
}

fn kib_of(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The memory that the kernel uses for all TCP sockets of the machine.
pub(crate) fn socket_mib() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages: f64 = line.split("mem ").nth(1).and_then(|pages| pages.trim().parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / f64::from(1 << 20)
}

/// An address that nothing listens on.
pub(crate) fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
