//! The servers: docker-registry with the blobs in its own store, two nginx on those same files, Larder in front of
//! docker-registry.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder::reference::Digest;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Larder,
    NginxSendfile,
    NginxBuffers,
    Registry,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Larder, Self::NginxSendfile, Self::NginxBuffers, Self::Registry];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Larder => "Larder",
            Self::NginxSendfile => "nginx, sendfile on",
            Self::NginxBuffers => "nginx, sendfile off",
            Self::Registry => "docker-registry",
        }
    }
}

/// One of them, running.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    process: Child,
}

/// All of them, and what is on them.
pub(crate) struct Servers {
    pub(crate) all: Vec<Server>,
    pub(crate) large: Digest,
    pub(crate) large_bytes: Vec<u8>,
    pub(crate) manifest: Digest,
    registry: String,
    fresh: u64,
    _folder: tempfile::TempDir,
}

impl Servers {
    pub(crate) fn start(mib: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let registry = free();
        let config = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {registry}}}\n",
            at("registry").display()
        );
        fs::write(at("registry.yml"), config).unwrap();
        let mut all = vec![Server::run(
            Kind::Registry,
            &registry,
            "docker-registry",
            &["serve", at("registry.yml").to_str().unwrap()],
        )];
        let files = at("registry/docker/registry/v2/blobs/sha256");
        for (kind, settings) in [
            (Kind::NginxSendfile, "sendfile on; tcp_nopush on;"),
            (Kind::NginxBuffers, "sendfile off; output_buffers 2 512k;"),
        ] {
            let address = free();
            let config = at(&format!("{kind:?}.conf"));
            fs::write(&config, nginx(folder.path(), kind, &address, &files, settings)).unwrap();
            all.push(Server::run(
                kind,
                &address,
                "nginx",
                &["-e", "/dev/null", "-c", config.to_str().unwrap()],
            ));
        }
        let (address, admin) = (free(), free());
        let config = format!(
            "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\ndefault_registry = \"reg.test\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n[store]\nmax_bytes = \"100%\"\nmin_free = \"0%\"\n[log]\nlevel = \"error\"\n[[registry]]\nhost = \"reg.test\"\nendpoints = [\"http://{registry}\"]\n",
            folder.path().display()
        );
        fs::write(at("larder.toml"), config).unwrap();
        let program = env!("CARGO_BIN_EXE_larder");
        all.push(Server::run(
            Kind::Larder,
            &address,
            program,
            &["serve", "--config", at("larder.toml").to_str().unwrap()],
        ));
        all.sort_by_key(|server| server.kind);
        let large_bytes = content(mib, 1);
        let large = push(&registry, &large_bytes);
        let manifest = push_manifest(&registry);
        Self { all, large, large_bytes, manifest, registry, fresh: 1, _folder: folder }
    }

    /// A blob that nobody has seen.
    pub(crate) fn push_fresh(&mut self, mib: usize) -> (Digest, Vec<u8>) {
        self.fresh += 1;
        let bytes = content(mib, self.fresh);
        (push(&self.registry, &bytes), bytes)
    }
}

impl Server {
    fn run(kind: Kind, address: &str, program: &str, arguments: &[&str]) -> Self {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let process = Command::new(program)
            .args(arguments)
            .env("PATH", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.unwrap_or_else(|e| panic!("{program}: {e}; run make tools"));
        let server = Self { kind, address: address.to_owned(), process };
        for _ in 0..500 {
            if TcpStream::connect(address).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{program} does not listen on {address}");
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> String {
        match self.kind {
            Kind::Larder | Kind::Registry => format!("/v2/bench/app/blobs/{digest}"),
            _ => format!("/{}/{}/data", &digest.hex()[..2], digest.hex()),
        }
    }

    pub(crate) fn manifest_path(&self, digest: &Digest) -> String {
        match self.kind {
            Kind::Larder | Kind::Registry => format!("/v2/bench/app/manifests/{digest}"),
            _ => self.blob_path(digest),
        }
    }

    /// Of the server and its workers, since they started.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks: u64 = self.processes().iter().map(|pid| ticks(*pid)).sum();
        // USER_HZ is 100 on every Linux.
        ticks as f64 / 100.0
    }

    /// Anonymous memory now.
    pub(crate) fn anonymous_mib(&self) -> f64 {
        let kib: u64 = self.processes().iter().map(|pid| anonymous_kib(*pid)).sum();
        kib as f64 / 1024.0
    }

    fn processes(&self) -> Vec<u32> {
        let own = self.process.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // utime and stime are fields 14 and 15; the name and what is before it are cut off.
    fields.get(11..13).map_or(0, |both| both.iter().map(|t| t.parse::<u64>().unwrap_or(0)).sum())
}

fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn nginx(folder: &Path, kind: Kind, address: &str, files: &Path, settings: &str) -> String {
    let temp: PathBuf = folder.join(format!("{kind:?}-temp"));
    fs::create_dir_all(&temp).unwrap();
    let temp = temp.display();
    format!(
        "daemon off; user root; worker_processes 2; pid {temp}/pid; error_log /dev/null;\nevents {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000; {settings}\n client_body_temp_path {temp}/b; proxy_temp_path {temp}/p; fastcgi_temp_path {temp}/f; uwsgi_temp_path {temp}/u; scgi_temp_path {temp}/s;\n server {{ listen {address}; root {}; }} }}\n",
        files.display()
    )
}

/// Bytes that do not repeat within a pipe's reach.
fn content(mib: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn push(registry: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let begun = request(registry, "POST", "/v2/bench/app/blobs/uploads/", "", &[]);
    let location = begun
        .lines()
        .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case("location")))
        .expect("a location")
        .1
        .trim()
        .to_owned();
    let path = location.split_once(registry).map_or(location.clone(), |(_, path)| path.to_owned());
    let done =
        request(registry, "PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes);
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    digest
}

fn push_manifest(registry: &str) -> Digest {
    let config = b"{\"os\":\"linux\",\"architecture\":\"amd64\"}".to_vec();
    let config_digest = push(registry, &config);
    let media = "application/vnd.oci.image.manifest.v1+json";
    let annotations: std::collections::BTreeMap<String, String> =
        (0..20).map(|n| (format!("org.example.annotation-{n}"), "x".repeat(40))).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media, "annotations": annotations, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.to_string(), "size": config.len()}});
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let done = request(registry, "PUT", &format!("/v2/bench/app/manifests/{digest}"), media, &bytes);
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    digest
}

/// Sends a request and returns the head of the answer.
fn request(address: &str, method: &str, path: &str, media: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
