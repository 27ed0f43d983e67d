//! The servers: docker-registry with the blobs in its own store, nginx on those same files, Larder and other caches
//! (`peers`) in front of docker-registry.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder::reference::Digest;

use crate::content::{content, push, push_image, push_manifest};
use crate::peers;
use crate::support::shaper::{Limit, Shaper};

/// The servers that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Larder,
    /// An earlier build, from `BENCH_BEFORE`.
    LarderBefore,
    NginxSendfile,
    NginxBuffers,
    NginxCache,
    Registry,
    RegistryCache,
    Varnish,
    TrafficServer,
    Drayage,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Larder,
        Self::LarderBefore,
        Self::NginxSendfile,
        Self::NginxBuffers,
        Self::NginxCache,
        Self::Registry,
        Self::RegistryCache,
        Self::Varnish,
        Self::TrafficServer,
        Self::Drayage,
    ];
    /// The servers that serve files and cannot fetch them.
    pub(crate) const STATIC: [Self; 2] = [Self::NginxSendfile, Self::NginxBuffers];
    /// The servers that fetch what they do not have.
    pub(crate) const CACHES: [Self; 7] = [
        Self::Larder,
        Self::LarderBefore,
        Self::NginxCache,
        Self::RegistryCache,
        Self::Varnish,
        Self::TrafficServer,
        Self::Drayage,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Larder => "Larder",
            Self::LarderBefore => "Larder before",
            Self::NginxSendfile => "nginx, sendfile on",
            Self::NginxBuffers => "nginx, sendfile off",
            Self::NginxCache => "nginx, proxy_cache",
            Self::Registry => "docker-registry",
            Self::RegistryCache => "docker-registry, pull-through",
            Self::Varnish => "Varnish",
            Self::TrafficServer => "Traffic Server",
            Self::Drayage => "drayage",
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    process: Child,
}

/// The shaped proxies to the registry; each is a registry of its own to Larder.
pub(crate) struct Shaped {
    /// 1 Gbit/s.
    pub(crate) gigabit: Shaper,
    /// 20 MB/s a connection.
    pub(crate) throttled: Shaper,
    /// 8 MB/s.
    pub(crate) slow: Shaper,
    /// No proxy: an nginx that answers a HEAD of any tag from its memory.
    pub(crate) heads: Server,
}

/// An image of one layer.
pub(crate) struct Image {
    pub(crate) tag: String,
    pub(crate) manifest: Digest,
    pub(crate) layer: Digest,
}

/// All servers, and their content.
pub(crate) struct Servers {
    pub(crate) all: Vec<Server>,
    pub(crate) shaped: Shaped,
    pub(crate) large: Digest,
    pub(crate) large_bytes: Vec<u8>,
    pub(crate) manifest: Digest,
    registry: String,
    fresh: u64,
    _directory: tempfile::TempDir,
}

impl Servers {
    pub(crate) fn start(mib: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (registry, second) = (free(), free());
        let mut all = vec![
            registry_server(Kind::Registry, &registry, &at("registry"), ""),
            registry_server(
                Kind::RegistryCache,
                &second,
                &at("registry-cache"),
                &format!("proxy: {{remoteurl: 'http://{registry}'}}\n"),
            ),
        ];
        let files = at("registry/docker/registry/v2/blobs/sha256");
        let plain = format!("root {};", files.display());
        let cached = format!(
            "location / {{ proxy_pass http://{registry}; proxy_cache kept; proxy_cache_valid 200 1h; proxy_cache_lock on; proxy_buffers 8 256k; proxy_busy_buffers_size 512k; proxy_http_version 1.1; proxy_set_header Connection ''; }}"
        );
        for (kind, settings, content) in [
            (Kind::NginxSendfile, "sendfile on; tcp_nopush on;", &plain),
            (Kind::NginxBuffers, "sendfile off; output_buffers 2 512k;", &plain),
            (Kind::NginxCache, "sendfile on; tcp_nopush on;", &cached),
        ] {
            let address = free();
            let config = at(&format!("{kind:?}.conf"));
            fs::write(&config, nginx(directory.path(), &format!("{kind:?}"), &address, settings, content))
                .unwrap();
            all.push(Server::run(
                kind,
                &address,
                "nginx",
                &["-e", "/dev/null", "-c", config.to_str().unwrap()],
            ));
        }
        let shaped = Shaped {
            gigabit: Shaper::start(&registry, Limit::Together(125e6)),
            throttled: Shaper::start(&registry, Limit::Each(20e6)),
            slow: Shaper::start(&registry, Limit::Together(8e6)),
            heads: registry_of_heads(directory.path()),
        };
        let program = env!("CARGO_BIN_EXE_larder");
        all.push(larder(Kind::Larder, program, &at("larder"), &registry, &shaped));
        if let Ok(program) = std::env::var("BENCH_BEFORE") {
            all.push(larder(Kind::LarderBefore, &program, &at("larder-before"), &registry, &shaped));
        }
        // Two builds of Larder are compared with each other alone.
        if std::env::var_os("BENCH_COMPARE").is_some() {
            let compared = [Kind::Larder, Kind::LarderBefore, Kind::Registry];
            all.retain(|server| compared.contains(&server.kind));
        } else {
            all.extend(peers::start(directory.path(), &registry));
        }
        all.sort_by_key(|server| server.kind);
        let large_bytes = content(mib, 1);
        let large = push(&registry, &large_bytes);
        let manifest = push_manifest(&registry);
        Self { all, shaped, large, large_bytes, manifest, registry, fresh: 1, _directory: directory }
    }

    /// Uploads a blob that no cache has stored.
    pub(crate) fn push_fresh(&mut self, mib: usize) -> (Digest, Vec<u8>) {
        self.fresh += 1;
        let bytes = content(mib, self.fresh);
        (push(&self.registry, &bytes), bytes)
    }

    /// Uploads an image that no cache has stored, by a tag of its own.
    pub(crate) fn push_image(&mut self, mib: usize) -> Image {
        self.fresh += 1;
        let tag = format!("fresh-{}", self.fresh);
        let (manifest, layer) = push_image(&self.registry, &tag, &content(mib, self.fresh));
        Image { tag, manifest, layer }
    }

    /// The caches that run here.
    pub(crate) fn caches(&self) -> Vec<Kind> {
        Kind::CACHES.into_iter().filter(|kind| self.all.iter().any(|server| server.kind == *kind)).collect()
    }

    pub(crate) fn of(&self, kind: Kind) -> &Server {
        self.all.iter().find(|server| server.kind == kind).unwrap()
    }
}

/// A registry that knows nothing but one manifest's head, and answers faster than any cache asks.
fn registry_of_heads(directory: &Path) -> Server {
    let address = free();
    let digest = Digest::of(b"a manifest");
    let content = format!(
        "location /v2/ {{ default_type application/vnd.oci.image.manifest.v1+json; add_header Docker-Content-Digest {digest}; add_header Docker-Distribution-Api-Version registry/2.0; return 200 'a manifest'; }}"
    );
    let config = directory.join("heads.conf");
    fs::write(&config, nginx(directory, "heads", &address, "", &content)).unwrap();
    Server::run(Kind::NginxBuffers, &address, "nginx", &["-e", "/dev/null", "-c", config.to_str().unwrap()])
}

fn registry_server(kind: Kind, address: &str, directory: &Path, more: &str) -> Server {
    let config = directory.with_extension("yml");
    let text = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{more}",
        directory.display()
    );
    fs::write(&config, text).unwrap();
    Server::run(kind, address, "docker-registry", &["serve", config.to_str().unwrap()])
}

/// Without a request log, as nginx, docker-registry and Traffic Server run here.
fn larder(kind: Kind, program: &str, directory: &Path, registry: &str, shaped: &Shaped) -> Server {
    fs::create_dir_all(directory).unwrap();
    let (address, admin) = (free(), free());
    let mut config = format!(
        "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\ndefault_registry = \"reg.test\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n[store]\nmax_bytes = \"100%\"\nmin_free = \"0%\"\n[log]\nlevel = \"error\"\naccess = false\n",
        directory.display()
    );
    for (host, endpoint) in [
        ("reg.test", registry),
        ("gigabit.test", &shaped.gigabit.address),
        ("throttled.test", &shaped.throttled.address),
        ("slow.test", &shaped.slow.address),
        ("heads.test", &shaped.heads.address),
    ] {
        config += &format!("[[registry]]\nhost = \"{host}\"\nendpoints = [\"http://{endpoint}\"]\n");
    }
    let path = directory.join("larder.toml");
    fs::write(&path, config).unwrap();
    Server::run(kind, &address, program, &["serve", "--config", path.to_str().unwrap()])
}

/// Larder alone over a store of this many small blobs: seconds until it is ready, and its anonymous memory when idle.
pub(crate) fn idle(blobs: usize) -> (f64, f64) {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store/blobs/sha256");
    fs::create_dir_all(&store).unwrap();
    for n in 0..blobs {
        let bytes = n.to_string();
        fs::write(store.join(Digest::of(bytes.as_bytes()).hex()), bytes).unwrap();
    }
    let (address, admin) = (free(), free());
    let config = directory.path().join("larder.toml");
    let text = format!(
        "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n",
        directory.path().display()
    );
    fs::write(&config, text).unwrap();
    let begun = std::time::Instant::now();
    let program = env!("CARGO_BIN_EXE_larder");
    let server = Server::run(Kind::Larder, &admin, program, &["serve", "--config", config.to_str().unwrap()]);
    while !crate::content::request(&admin, "GET", "/readyz", "", &[]).starts_with("HTTP/1.1 200") {
        std::thread::sleep(Duration::from_millis(1));
    }
    let ready = begun.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(3));
    (ready, server.anonymous_mib())
}

/// Sets another congestion control until it is dropped, where the system permits that. A connection gets the one that is
/// set when it is accepted, unless its server chooses one, as Larder does.
pub(crate) struct Congestion(String);

impl Congestion {
    const FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

    pub(crate) fn reno() -> Self {
        let before = fs::read_to_string(Self::FILE).unwrap_or_default();
        let _ = fs::write(Self::FILE, "reno");
        Self(before)
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, self.0.trim());
    }
}

impl Server {
    pub(crate) fn run(kind: Kind, address: &str, program: &str, arguments: &[&str]) -> Self {
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
        let ticks: u64 = self.processes().iter().map(|pid| ticks(*pid)).sum();
        // USER_HZ is 100 on every Linux.
        ticks as f64 / 100.0
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

pub(crate) fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn nginx(directory: &Path, name: &str, address: &str, settings: &str, content: &str) -> String {
    let temp: PathBuf = directory.join(format!("{name}-temp"));
    fs::create_dir_all(&temp).unwrap();
    let temp = temp.display();
    format!(
        "daemon off; user root; worker_processes 2; pid {temp}/pid; error_log /dev/null;\nevents {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000; {settings}\n client_body_temp_path {temp}/b; proxy_temp_path {temp}/p; fastcgi_temp_path {temp}/f; uwsgi_temp_path {temp}/u; scgi_temp_path {temp}/s;\n proxy_cache_path {temp}/cache keys_zone=kept:10m max_size=100g use_temp_path=off;\n server {{ listen {address}; {content} }} }}\n"
    )
}
