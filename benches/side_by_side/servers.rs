//! The servers of a run: docker-registry with the blobs in its own store, nginx on those same files, Larder and other caches
//! (`peers`) in front of docker-registry.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder::reference::Digest;

use crate::content::{self, content, push, push_manifest};
use crate::kind::Kind;
use crate::nginx;
use crate::peers;
use crate::server::{Server, free};
use crate::support::congestion::Congestion;
use crate::support::program;
use crate::support::shaper::{Limit, Shaper};

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

/// A blob and its bytes.
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

/// All servers, and their content.
pub(crate) struct Servers {
    all: Vec<Server>,
    /// What they have in front of them: docker-registry, where the content is uploaded.
    pub(crate) upstream: Server,
    pub(crate) shaped: Shaped,
    /// The blob of the warm rows.
    pub(crate) large: Blob,
    pub(crate) manifest: Digest,
    /// Tags of that manifest.
    pub(crate) tags: Vec<String>,
    /// Anonymous memory of each before the first request.
    pub(crate) idle: BTreeMap<Kind, f64>,
    files: PathBuf,
    fresh: u64,
    directory: tempfile::TempDir,
}

impl Servers {
    pub(crate) fn start(mib: usize, tags: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let upstream = peers::registry(Kind::Registry, &at("registry"), "docker-registry", "");
        let files = at("registry/docker/registry/v2/blobs/sha256");
        let shaped = Shaped {
            gigabit: Shaper::start(&upstream.address, Limit::Together(125e6)),
            throttled: Shaper::start(&upstream.address, Limit::Each(20e6)),
            slow: Shaper::start(&upstream.address, Limit::Together(8e6)),
            heads: nginx::of_heads(directory.path()),
        };
        let registries = [
            ("reg.test", &upstream.address),
            ("gigabit.test", &shaped.gigabit.address),
            ("throttled.test", &shaped.throttled.address),
            ("slow.test", &shaped.slow.address),
            ("heads.test", &shaped.heads.address),
            ("kept.test", &upstream.address),
        ];
        let mut all = larders(&at("larders"), &registries);
        all.extend(nginx::of_files(directory.path(), &files));
        all.extend(peers::start(directory.path(), &upstream.address));
        std::thread::sleep(Duration::from_secs(1));
        let mut idle: BTreeMap<_, _> =
            all.iter().map(|server| (server.kind, server.anonymous_mib())).collect();
        if Kind::Registry.is_chosen() {
            idle.insert(Kind::Registry, upstream.anonymous_mib());
        }
        let tags: Vec<String> = (0..tags).map(|n| format!("v{n}")).collect();
        let manifest = push_manifest(&upstream.address, &tags);
        let large = Blob::push(&upstream.address, mib, 1);
        Self { all, upstream, shaped, large, manifest, tags, idle, files, fresh: 1, directory }
    }

    /// Uploads a blob that no cache has stored.
    pub(crate) fn push_fresh(&mut self, mib: usize) -> Blob {
        self.fresh += 1;
        Blob::push(&self.upstream.address, mib, self.fresh)
    }

    /// Sets the congestion control, and starts the upstream again: a connection to it that a cache has kept open would still
    /// have the one before.
    pub(crate) fn under(&mut self, congestion: &str) -> Congestion {
        let set = Congestion::set(congestion);
        self.upstream.restart();
        set
    }

    /// Removes the registry's own copy of a blob that nothing asks for any more: a run needs tens of gigabytes of disk
    /// otherwise.
    pub(crate) fn forget(&self, blob: &Blob) {
        let hex = blob.digest.hex();
        let _ = fs::remove_file(self.files.join(&hex[..2]).join(&hex).join("data"));
    }

    /// Those of these servers that run here and are chosen.
    pub(crate) fn running(&self, kinds: &[Kind]) -> Vec<Kind> {
        let runs = |kind: &Kind| match kind {
            Kind::Registry | Kind::Direct => kind.is_chosen(),
            kind => self.all.iter().any(|server| server.kind == *kind),
        };
        kinds.iter().copied().filter(runs).collect()
    }

    /// All that hand out what they have, whatever the way that they got it.
    pub(crate) fn warm(&self) -> Vec<Kind> {
        let mut kinds = self.running(&Kind::ALL);
        kinds.retain(|kind| *kind != Kind::Direct);
        kinds
    }

    pub(crate) fn of(&self, kind: Kind) -> &Server {
        self.all.iter().find(|server| server.kind == kind).unwrap_or(&self.upstream)
    }

    /// A directory for what a part of the run needs besides.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Blob {
    fn push(registry: &str, mib: usize, seed: u64) -> Self {
        let bytes = content(mib, seed);
        Self { digest: push(registry, &bytes), bytes }
    }
}

/// This build of Larder and, where there is one, the build before, each in front of registries of these names and addresses,
/// of which the first is the default.
pub(crate) fn larders(directory: &Path, registries: &[(&str, &String)]) -> Vec<Server> {
    builds()
        .into_iter()
        .map(|(kind, program)| larder(kind, &program, &directory.join(format!("{kind:?}")), registries))
        .collect()
}

/// The builds of Larder that take part.
fn builds() -> Vec<(Kind, String)> {
    let before = std::env::var("BENCH_BEFORE").ok().map(|program| (Kind::LarderBefore, program));
    std::iter::once((Kind::Larder, program::path())).chain(before).collect()
}

/// Without a request log, as nginx, docker-registry and Traffic Server run here. The tags of `kept.test` are not asked for
/// again for an hour.
fn larder(kind: Kind, program: &str, directory: &Path, registries: &[(&str, &String)]) -> Server {
    fs::create_dir_all(directory).unwrap();
    let (address, admin) = (free(), free());
    let mut config = format!(
        "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\ndefault_registry = \"{1}\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n[store]\nmax_bytes = \"100%\"\nmin_free = \"0%\"\n[log]\nlevel = \"error\"\naccess = false\n",
        directory.display(),
        registries[0].0
    );
    for (host, endpoint) in registries {
        config += &format!("[[registry]]\nhost = \"{host}\"\nendpoints = [\"http://{endpoint}\"]\n");
        if *host == "kept.test" {
            config += "tag_ttl = \"1h\"\n";
        }
    }
    let path = directory.join("larder.toml");
    fs::write(&path, config).unwrap();
    Server::run(kind, &address, program, &["serve", "--config", path.to_str().unwrap()])
}

/// A build of Larder alone over a store of this many small blobs and no index: seconds until it is ready, and its anonymous
/// memory when idle.
pub(crate) fn idle(kind: Kind, blobs: usize) -> (f64, f64) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    let files = state.join("store/blobs/sha256");
    fs::create_dir_all(&files).unwrap();
    for n in 0..blobs {
        let bytes = n.to_string();
        fs::write(files.join(Digest::of(bytes.as_bytes()).hex()), bytes).unwrap();
    }
    let (address, admin) = (free(), free());
    let config = state.join("larder.toml");
    let text = format!(
        "[server]\nlisten = [\"{address}\"]\nstate = \"{0}\"\n[admin]\nlisten = \"{admin}\"\nsocket = \"{0}/larder.sock\"\n",
        state.display()
    );
    fs::write(&config, text).unwrap();
    let (_, program) = builds().into_iter().find(|(build, _)| *build == kind).unwrap();
    let begun = Instant::now();
    let server = Server::run(kind, &admin, &program, &["serve", "--config", config.to_str().unwrap()]);
    while !content::request(&admin, "GET", "/readyz", "", &[]).starts_with("HTTP/1.1 200") {
        std::thread::sleep(Duration::from_millis(1));
    }
    let ready = begun.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(3));
    (ready, server.anonymous_mib())
}
