//! Other caches beside Larder, each in front of an upstream and with the settings that its documentation recommends for large
//! objects that never change: nginx, docker-registry, Varnish, Apache Traffic Server and drayage. One that is not installed is left
//! out, and that is said (`tests/tools.sh --bench` installs them).
//!
//! None of them verifies what it stores, except docker-registry and drayage; Varnish holds it in memory alone.

use std::fs;
use std::path::Path;

use crate::kind::Kind;
use crate::nginx;
use crate::server::{Server, free};

/// The caches that are chosen and installed, each started in a directory of its own below `directory`.
pub(crate) fn start(directory: &Path, upstream: &str) -> Vec<Server> {
    let peers: [(Kind, &str, Start); 5] = [
        (Kind::NginxCache, "nginx", nginx::cache),
        (Kind::RegistryCache, "docker-registry", registry_cache),
        (Kind::Varnish, "varnishd", varnish),
        (Kind::TrafficServer, "traffic_server", traffic_server),
        (Kind::Drayage, "drayage", drayage),
    ];
    let mut all = Vec::new();
    for (kind, program, start) in peers.into_iter().filter(|(kind, ..)| kind.is_chosen()) {
        let Some(program) = found(program) else {
            println!("left out: {}, since there is no {program}: tests/tools.sh --bench", kind.name());
            continue;
        };
        let own = directory.join(format!("{kind:?}"));
        fs::create_dir_all(&own).unwrap();
        all.push(start(&own, &program, upstream));
    }
    all
}

type Start = fn(&Path, &str, &str) -> Server;

/// The program, on the path of an administrator or where `tests/tools.sh` installs it.
fn found(program: &str) -> Option<String> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/peers/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut directories = path.split(':').chain(["/usr/sbin", "/sbin", own]);
    directories.find_map(|at| {
        let program = format!("{at}/{program}");
        Path::new(&program).is_file().then_some(program)
    })
}

/// docker-registry on this directory. What it knows of its blobs is kept in memory
/// (<https://distribution.github.io/distribution/about/configuration/>, `cache`).
pub(crate) fn registry(kind: Kind, directory: &Path, program: &str, more: &str) -> Server {
    let (address, config) = (free(), directory.with_extension("yml"));
    let text = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\nstorage: {{cache: {{blobdescriptor: inmemory}}, filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{more}",
        directory.display()
    );
    fs::write(&config, text).unwrap();
    Server::run(kind, &address, program, &["serve", text_of(&config)])
}

fn registry_cache(directory: &Path, program: &str, upstream: &str) -> Server {
    let more = format!("proxy: {{remoteurl: 'http://{upstream}'}}\n");
    registry(Kind::RegistryCache, &directory.join("blobs"), program, &more)
}

/// Streams while it fetches, one fetch for all who ask, and enough memory for all of the content
/// (<https://varnish-cache.org/docs/7.1/reference/vcl.html>, `beresp.do_stream`).
fn varnish(directory: &Path, program: &str, registry: &str) -> Server {
    let (host, port) = registry.rsplit_once(':').unwrap();
    let vcl = directory.join("default.vcl");
    let text = format!(
        "vcl 4.1;\nbackend default {{ .host = \"{host}\"; .port = \"{port}\"; }}\nsub vcl_recv {{ return (hash); }}\n\
         sub vcl_backend_response {{ set beresp.do_stream = true; set beresp.ttl = 24h; set beresp.grace = 0s; }}\n"
    );
    fs::write(&vcl, text).unwrap();
    let (address, state) = (free(), directory.join("state"));
    let arguments = [
        "-F",
        "-a",
        &address,
        "-f",
        text_of(&vcl),
        "-n",
        text_of(&state),
        "-s",
        "malloc,16g",
        "-p",
        "nuke_limit=1000",
    ];
    Server::run(Kind::Varnish, &address, program, &arguments)
}

/// Reads while it writes and goes on when a client leaves, a client that finds another one fetching waits for it and reads along,
/// and blobs of every size may be held in memory, as its documentation has it to keep a crowd from the upstream
/// (<https://docs.trafficserver.apache.org/en/9.2.x/admin-guide/configuration/cache-basics.en.html>, "Read While Writer",
/// "Open Read Retry Timeout", "Open Write Fail Action"; `proxy.config.cache.ram_cache_cutoff` in records.config).
fn traffic_server(directory: &Path, program: &str, registry: &str) -> Server {
    let at = |name: &str| directory.join(name);
    for name in ["etc", "run", "log", "cache", "plugins"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    let own = directory.display();
    let root = [
        ("prefix", ""),
        ("exec_prefix", ""),
        ("datadir", ""),
        ("includedir", ""),
        ("libdir", ""),
        ("bindir", ""),
        ("sbindir", ""),
        ("sysconfdir", "etc"),
        ("libexecdir", "plugins"),
        ("localstatedir", "run"),
        ("runtimedir", "run"),
        ("logdir", "log"),
        ("cachedir", "cache"),
    ];
    let root: String = root.iter().map(|(key, value)| format!("{key}: {own}/{value}\n")).collect();
    let address = free();
    let (host, port) = address.rsplit_once(':').unwrap();
    let settings = [
        &format!("http.server_ports STRING {port}:ip-in={host}"),
        "http.cache.required_headers INT 0",
        "cache.enable_read_while_writer INT 1",
        "cache.read_while_writer.max_retries INT 10",
        "cache.read_while_writer_retry.delay INT 50",
        "http.cache.open_read_retry_time INT 10",
        "http.cache.max_open_read_retries INT 5",
        "http.cache.max_open_write_retries INT 1",
        "http.cache.open_write_fail_action INT 5",
        "http.background_fill_active_timeout INT 0",
        "http.background_fill_completed_threshold FLOAT 0.0",
        "cache.max_doc_size INT 0",
        "cache.ram_cache.size INT 4294967296",
        "cache.ram_cache_cutoff INT 4294967296",
        "http.insert_request_via_str INT 0",
        "log.logging_enabled INT 0",
        "admin.user_id STRING #-1",
        "crash_log_helper STRING NULL",
        "body_factory.template_sets_dir STRING /etc/trafficserver/body_factory",
    ];
    let settings: String = settings.iter().map(|line| format!("CONFIG proxy.config.{line}\n")).collect();
    for (name, text) in [
        ("runroot.yaml", root),
        ("etc/records.config", settings),
        ("etc/remap.config", format!("map / http://{registry}/\n")),
        ("etc/cache.config", "url_regex=.* ttl-in-cache=24h\n".to_owned()),
        ("etc/storage.config", format!("{own}/cache 32G\n")),
        ("etc/plugin.config", String::new()),
        ("etc/ssl_multicert.config", String::new()),
        (
            "etc/ip_allow.yaml",
            "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.1\n    action: allow\n    methods: ALL\n"
                .to_owned(),
        ),
    ] {
        fs::write(at(name), text).unwrap();
    }
    let root = format!("--run-root={}", at("runroot.yaml").display());
    Server::run(Kind::TrafficServer, &address, program, &[&root])
}

/// As `drayage init` has it; a tag is not asked for again while the benchmark runs.
fn drayage(directory: &Path, program: &str, registry: &str) -> Server {
    let (address, cache, config) = (free(), directory.join("cache"), directory.join("config.toml"));
    fs::create_dir_all(&cache).unwrap();
    let text = format!(
        "listen = \"{address}\"\ncache_dir = \"{}\"\nmanifest_ttl_seconds = 86400\n[upstreams.docker_io]\nregistry = \"http://{registry}\"\n",
        cache.display()
    );
    fs::write(&config, text).unwrap();
    Server::run(Kind::Drayage, &address, program, &["serve", "--config", text_of(&config)])
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}
