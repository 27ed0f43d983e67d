//! nginx: handing out the files of the registry, as a cache, and as an upstream that answers from memory.

use std::fs;
use std::path::Path;

use larder::reference::Digest;

use crate::kind::Kind;
use crate::server::{Server, free};

/// Keeps the files open that it has sent (<https://nginx.org/en/docs/http/ngx_http_core_module.html#open_file_cache>).
const OPEN_FILES: &str = "open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;";

/// Hands out the blobs of a registry as files, without and with buffers of its own.
pub(crate) fn of_files(directory: &Path, files: &Path) -> Vec<Server> {
    let content = format!("root {};", files.display());
    let start = |kind, settings: &str| {
        let settings = format!("{settings} {OPEN_FILES}");
        run(kind, "nginx", directory, &settings, "", &content)
    };
    [
        (Kind::NginxSendfile, "sendfile on; tcp_nopush on;"),
        (Kind::NginxBuffers, "sendfile off; output_buffers 2 512k;"),
    ]
    .into_iter()
    .filter(|(kind, _)| kind.is_chosen())
    .map(|(kind, settings)| start(kind, settings))
    .collect()
}

/// A cache: one fetch for all who ask, and connections to the upstream that are kept
/// (<https://nginx.org/en/docs/http/ngx_http_upstream_module.html#keepalive>).
pub(crate) fn cache(directory: &Path, program: &str, upstream: &str) -> Server {
    let more = format!("upstream origin {{ server {upstream}; keepalive 64; }}");
    let content = "location / { proxy_pass http://origin; proxy_cache kept; proxy_cache_valid 200 1h; proxy_cache_lock on; proxy_cache_lock_timeout 1h; proxy_cache_lock_age 1h; proxy_buffers 8 256k; proxy_busy_buffers_size 512k; proxy_http_version 1.1; proxy_set_header Connection ''; }";
    let settings = format!("sendfile on; tcp_nopush on; {OPEN_FILES}");
    run(Kind::NginxCache, program, directory, &settings, &more, content)
}

/// A registry that knows nothing but the head of one manifest, which has every tag, and answers faster than any cache asks.
/// `/requests` says how many requests it has had.
pub(crate) fn of_heads(directory: &Path) -> Server {
    let digest = Digest::of(b"a manifest");
    let content = format!(
        "location = /requests {{ stub_status; }} location /v2/ {{ default_type application/vnd.oci.image.manifest.v1+json; add_header Docker-Content-Digest {digest}; add_header Docker-Distribution-Api-Version registry/2.0; return 200 'a manifest'; }}"
    );
    run(Kind::Direct, "nginx", directory, "", "", &content)
}

fn run(kind: Kind, program: &str, directory: &Path, settings: &str, more: &str, content: &str) -> Server {
    let (address, own) = (free(), directory.join(format!("nginx-{kind:?}")));
    fs::create_dir_all(&own).unwrap();
    let (config, temp) = (own.join("nginx.conf"), own.display());
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {temp}/pid; error_log /dev/null;\nevents {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000; {settings}\n client_body_temp_path {temp}/b; proxy_temp_path {temp}/p; fastcgi_temp_path {temp}/f; uwsgi_temp_path {temp}/u; scgi_temp_path {temp}/s;\n proxy_cache_path {temp}/cache keys_zone=kept:10m max_size=100g use_temp_path=off;\n {more}\n server {{ listen {address}; {content} }} }}\n"
    );
    fs::write(&config, text).unwrap();
    Server::run(kind, &address, program, &["-e", "/dev/null", "-c", config.to_str().unwrap()])
}
