//! A bucket behind TLS: its certificate is checked against the system's authorities and `ca`, directly and through a proxy; a
//! key that every user of the machine can read is not sent to it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use larder::support::proxies::ProxyVariables;

use super::{Fleet, Node, tier};
use crate::program::Program;
use crate::support::s3::SECRET;
use crate::support::world::Larder;
use crate::transport::{Authority, front, tunnel};

impl Fleet {
    /// A node that reaches the bucket by `url` and has more keys in `[tier]`.
    fn node_by(&self, name: &str, url: &str, more: &str, proxy: ProxyVariables) -> Node {
        let state = self.directory.path().join(name);
        std::fs::create_dir_all(&state).unwrap();
        let text = format!("{}\n{more}", tier(&state, url, SECRET));
        Node { larder: Larder::start_behind(&state, &[("reg.test", self.registry.url())], &text, proxy) }
    }

    /// TLS in front of the bucket for `host`; the certificate of its authority is in the file that is returned.
    async fn behind_tls(&self, host: &str) -> (SocketAddr, String) {
        let authority = Authority::new();
        let at = front(self.s3.address, authority.server(host, None)).await;
        (at, self.file("ca.pem", &authority.pem()))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_certificate_is_of_no_known_authority_is_sent_and_believed_nothing() {
    let fleet = Fleet::new().await;
    let (at, ca) = fleet.behind_tls("localhost").await;
    let other = fleet.file("other.pem", &Authority::new().pem());
    let (named, misnamed) =
        (format!("https://localhost:{}", at.port()), format!("https://127.0.0.1:{}", at.port()));
    let blob = fleet.blob(200_000, 1);
    for (name, url, more) in [
        ("no authority", &named, String::new()),
        ("another authority", &named, format!("ca = \"{other}\"")),
        ("another name", &misnamed, format!("ca = \"{ca}\"")),
    ] {
        let node = fleet.node_by(name, url, &more, ProxyVariables::default());
        node.pulls(&blob, name).await;
        assert!(fleet.s3.asked().is_empty(), "{name}: a request was sent");
        assert!(node.larder.metric("larder_tier_errors_total{kind=\"unavailable\"}").await >= 1.0, "{name}");
    }
    let more = format!("ca = \"{ca}\"");
    fleet
        .node_by("first", &named, &more, ProxyVariables::default())
        .pulls(&blob, "the right authority")
        .await;
    fleet.shared(&blob).await;
    fleet.registry.forget_seen();
    fleet.node_by("second", &named, &more, ProxyVariables::default()).pulls(&blob, "from the bucket").await;
    assert_eq!(fleet.asked_for(&blob), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_self_signed_certificate_is_its_own_authority_is_used_where_that_is_listed_alone() {
    let (fleet, own) = (Fleet::new().await, Authority::of_server("localhost", 4096));
    let at = front(fleet.s3.address, own.own_server()).await;
    let url = format!("https://localhost:{}", at.port());
    let (ca, other) = (
        fleet.file("own.pem", &own.pem()),
        fleet.file("other.pem", &Authority::of_server("localhost", 4096).pem()),
    );
    let blob = fleet.blob(200_000, 1);
    let node = |name, ca| fleet.node_by(name, &url, &format!("ca = \"{ca}\""), ProxyVariables::default());
    node("other", &other).pulls(&blob, "another certificate is listed").await;
    assert!(fleet.s3.asked().is_empty(), "a request was sent");
    node("own", &ca).pulls(&blob, "it is listed").await;
    fleet.shared(&blob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_beyond_the_proxy_of_the_environment_is_reached_in_a_tunnel() {
    let fleet = Fleet::new().await;
    let (at, ca) = fleet.behind_tls("s3.test").await;
    let https = format!("http://{}", tunnel(at, "s3.test:8333").await);
    let proxy = ProxyVariables { http: https.clone(), https, no: String::new() };
    let blob = fleet.blob(200_000, 1);
    let node = |name| fleet.node_by(name, "https://s3.test:8333", &format!("ca = \"{ca}\""), proxy.clone());
    node("first").pulls(&blob, "its name has no address here").await;
    fleet.shared(&blob).await;
    fleet.registry.forget_seen();
    node("second").pulls(&blob, "from the bucket").await;
    assert_eq!(fleet.asked_for(&blob), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_calls_no_tier_broken_that_the_daemon_reaches_by_a_proxy_of_its_own() {
    let fleet = Fleet::new().await;
    let (at, ca) = fleet.behind_tls("s3.test").await;
    let proxy = format!("http://{}", tunnel(at, "s3.test:8333").await);
    let state = fleet.directory.path().join("node");
    std::fs::create_dir_all(&state).unwrap();
    let text = format!("{}\nca = \"{ca}\"\n", tier(&state, "https://s3.test:8333", SECRET));
    let program = Program::start_in(&state, &text, &[("HTTPS_PROXY", &proxy)]);
    // A shell without the proxy, as root's is.
    let (_, said) = program.command(&["doctor", "--root", state.to_str().unwrap()]);
    let of_tier: Vec<&str> = said.lines().filter(|line| line.contains(" tier ")).collect();
    assert!(said.contains("an object was written and read within"), "{said}");
    assert!(!of_tier.is_empty() && of_tier.iter().all(|line| line.starts_with("ok ")), "{said}");
    drop(program);
}

/// The error of a daemon that does not start with this text.
fn refused(state: &Path, text: &str) -> String {
    let text = format!("[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n{text}");
    let environment =
        larder::config::Environment { state_home: Some(state.to_owned()), ..Default::default() };
    let settings = larder::config::resolve(&text, &environment).unwrap();
    let built = larder::app::App::build(settings, larder::support::clock::Clock::system(), Vec::new());
    built.err().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_every_user_can_read_stops_the_start_in_words() {
    let fleet = Fleet::new().await;
    let state = fleet.directory.path().join("node");
    std::fs::create_dir_all(&state).unwrap();
    let text = tier(&state, &fleet.s3.url(), SECRET);
    std::fs::set_permissions(state.join("tier.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(&state, &text);
    assert!(error.contains("tier.key") && error.contains("chmod 600"), "{error}");
    assert!(!error.contains(SECRET));
}
