//! A running daemon in this process, over a directory of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use larder::app::App;
use larder::config::{Environment, resolve};
use larder::listener::Listen;
use larder::support::clock::{Clock, Timestamp};
use larder::support::proxies::ProxyVariables;
use larder::support::shutdown::{self, Trigger};
use tokio::task::JoinHandle;

use super::client::{self, Reply};

/// A daemon. A drop stops it without a drain.
pub struct Larder {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub described: Vec<larder::support::metrics::Described>,
    /// The clock that records are dated by; a test can move it.
    pub clock: Clock,
    trigger: Trigger,
    running: JoinHandle<()>,
}

impl Larder {
    /// Starts a daemon with the directory `state` and more lines of configuration; `registries` are (host, endpoint).
    pub fn start(state: &Path, registries: &[(&str, String)], more: &str) -> Self {
        Self::start_behind(state, registries, more, ProxyVariables::default())
    }

    /// The same with the proxy that the environment names.
    pub fn start_behind(
        state: &Path,
        registries: &[(&str, String)],
        more: &str,
        proxy: ProxyVariables,
    ) -> Self {
        let has = |section: &str| more.lines().any(|line| line.trim() == section);
        let sections: String = registries
            .iter()
            .map(|(host, url)| format!("[[registry]]\nhost = \"{host}\"\nendpoints = [\"{url}\"]\n"))
            .collect();
        let mut text = format!("{more}\n{sections}");
        for (section, line) in [
            ("[server]", "listen = [\"127.0.0.1:0\"]"),
            ("[admin]", "listen = \"127.0.0.1:0\""),
            // The machine that runs the tests may be nearly full.
            ("[store]", "min_free = \"0%\""),
            // Tests change what upstream says from one request to the next.
            ("[freshness]", "negative_ttl = \"0s\""),
        ] {
            let key = line.split(' ').next().unwrap_or(line);
            if matches!(section, "[store]" | "[freshness]") && text.contains(key) {
                continue;
            }
            text = if has(section) {
                text.replacen(section, &format!("{section}\n{line}"), 1)
            } else {
                format!("{text}\n{section}\n{line}\n")
            };
        }
        let environment = Environment { state_home: Some(state.to_owned()), proxy, ..Environment::default() };
        let settings = resolve(&text, &environment).unwrap_or_else(|m| panic!("{m:?}\n{text}"));
        #[allow(clippy::disallowed_methods, reason = "the time at which the test's clock starts")]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        Self::start_at(settings, Clock::manual(Timestamp(now)))
    }

    fn start_at(settings: larder::config::Settings, clock: Clock) -> Self {
        let app = App::build(settings, clock.clone(), Vec::new()).unwrap();
        let tcp = |at: &Listen| match at {
            Listen::Tcp(at) => *at,
            Listen::Unix(path) => panic!("{path:?}"),
        };
        let (address, admin) = (tcp(&app.data_addresses().unwrap()[0]), tcp(&app.admin_address().unwrap()));
        let described = app.metrics().described();
        let (trigger, shutdown) = shutdown::channel();
        let running = tokio::spawn(async move { app.run(shutdown).await.unwrap() });
        Self { address, admin, described, clock, trigger, running }
    }

    /// Stops the daemon as SIGTERM does, and waits.
    pub async fn stop(self) {
        self.trigger.fire();
        self.running.await.unwrap();
    }

    /// Asks the daemon to stop, and does not wait.
    pub fn begin_stop(&self) {
        self.trigger.fire();
    }

    pub async fn stopped(self) {
        self.running.await.unwrap();
    }

    /// A GET of a client that stated that it has no credential.
    pub async fn get(&self, path: &str) -> Reply {
        client::send(self.address, http::Method::GET, path, &[client::ANONYMOUS]).await
    }

    pub async fn head(&self, path: &str) -> Reply {
        client::send(self.address, http::Method::HEAD, path, &[client::ANONYMOUS]).await
    }

    pub async fn get_range(&self, path: &str, range: &str) -> Reply {
        client::send(self.address, http::Method::GET, path, &[("range", range), client::ANONYMOUS]).await
    }

    /// A GET as this user, with the password in a Basic header.
    pub async fn get_as(&self, path: &str, user: (&str, &str)) -> Reply {
        self.send_as(http::Method::GET, path, user).await
    }

    pub async fn send_as(&self, method: http::Method, path: &str, (name, password): (&str, &str)) -> Reply {
        let basic = client::basic(name, password);
        client::send(self.address, method, path, &[("authorization", basic.as_str())]).await
    }

    /// A GET without `Authorization`.
    pub async fn get_unasked(&self, path: &str) -> Reply {
        client::get(self.address, path).await
    }

    /// Waits until no download is under way and every commit is done.
    pub async fn settled(&self) {
        self.metric_becomes("larder_flights", 0.0).await;
    }

    /// Waits until a metric has this value; some are updated by another thread.
    pub async fn metric_becomes(&self, line: &str, value: f64) {
        for _ in 0..1_000 {
            if self.metric(line).await == value {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{line} is {} and not {value}", self.metric(line).await);
    }

    /// The value of a metric with these labels, in the order that Prometheus writes them; 0 if it is not there.
    pub async fn metric(&self, line: &str) -> f64 {
        let page = client::get(self.admin, "/metrics").await;
        let text = String::from_utf8(page.body.to_vec()).unwrap();
        text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }
}

/// Every regular file under a directory, relative.
pub fn files_under(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => found.push(entry.path().strip_prefix(directory).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}
