//! TLS with a private authority, and proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use larder::support::proxies::ProxyVariables;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::image;
use crate::support::proxy::FaultProxy;
use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;

/// A private certificate authority, and the TLS configurations with its certificates.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        self.issue_until(name, 4096)
    }

    /// The same, valid until `year`.
    fn issue_until(&self, name: &str, year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// One whose own certificate is for `name`, as `openssl req -x509 -addext subjectAltName=…` makes it.
    pub(super) fn of_server(name: &str, until: i32) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server with the authority's own certificate.
    pub(super) fn own_server(&self) -> ServerConfig {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(self.0.key().serialize_der()).unwrap();
        config.with_single_cert(vec![self.0.der().clone()], key).unwrap()
    }

    /// A server for `name` that requires certificates of the authority `clients`, if any.
    pub(super) fn server(&self, name: &str, clients: Option<&Self>) -> ServerConfig {
        self.server_with(self.issue(name), clients)
    }

    fn server_with(
        &self,
        (certificate, key): (rcgen::Certificate, KeyPair),
        clients: Option<&Self>,
    ) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                config.with_client_cert_verifier(builder.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        config.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

/// TLS in front of `behind` for `name`; the authority's certificate goes to `ca`.
async fn tls_front(behind: SocketAddr, name: &str, ca: &Path) -> SocketAddr {
    let authority = Authority::new();
    std::fs::write(ca, authority.pem()).unwrap();
    front(behind, authority.server(name, None)).await
}

pub(super) async fn front(behind: SocketAddr, config: ServerConfig) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else {
                    return;
                };
                let protocol = client.get_ref().1.alpn_protocol();
                assert!(protocol.is_none_or(|name| name == b"http/1.1"), "{protocol:?}");
                let mut server = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// A proxy that tunnels every `CONNECT` to `behind`, which has to be one to `authority`.
pub(super) async fn tunnel(behind: SocketAddr, authority: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8_lossy(&head);
                assert!(head.starts_with(&format!("CONNECT {authority} ")), "{head}");
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut server = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_for_its_registry_and_for_no_other() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let ca = directory.path().join("ca.pem");
    let front = tls_front(registry.address, "localhost", &ca).await;
    let url = format!("https://localhost:{}", front.port());
    let more = format!(
        "[[registry]]\nhost = \"trusted.test\"\nendpoints = [\"{url}\"]\nca = \"{}\"\n\
         [[registry]]\nhost = \"other.test\"\nendpoints = [\"{url}\"]\n\
         [[registry]]\nhost = \"misnamed.test\"\nendpoints = [\"https://127.0.0.1:{}\"]\nca = \"{}\"",
        ca.display(),
        front.port(),
        ca.display()
    );
    let larder = Larder::start(directory.path(), &[], &more);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=trusted.test").await;
    assert_eq!(reply.body, image.index_bytes);
    for untrusted in ["other.test", "misnamed.test"] {
        let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={untrusted}")).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{untrusted} fails closed");
        let counted =
            format!(r#"larder_upstream_errors_total{{reason="upstream_tls",registry="{untrusted}"}}"#);
        assert_eq!(larder.metric(&counted).await, 1.0, "{:?}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_authority_file_stops_the_start_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, "no certificate").unwrap();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[[registry]]\nhost = \"a.test\"\nca = \"{}\"",
        ca.display()
    );
    let environment =
        larder::config::Environment { state_home: Some(directory.path().into()), ..Default::default() };
    let settings = larder::config::resolve(&text, &environment).unwrap();
    let error = larder::app::App::build(settings, larder::support::clock::Clock::system(), Vec::new())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("ca.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_goes_through_the_proxy_in_absolute_form() {
    let (proxy, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&proxy, "team/app", "v1", 1_000);
    let http = proxy.url().replace("http://", "http://user:secret@");
    let environment = ProxyVariables { http, ..ProxyVariables::default() };
    let registries = [("reg.test", "http://reg.test".to_owned())];
    let larder = Larder::start_behind(directory.path(), &registries, "", environment);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.body, image.index_bytes);
    let seen = proxy.seen();
    assert_eq!(seen[0].headers["host"], "reg.test");
    assert_eq!(seen[0].headers["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_sees_nothing_of_a_registry_that_no_proxy_names_with_its_port() {
    let (proxy, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&proxy, "team/app", "v1", 1_000);
    let no = "*.corp,reg.test:5000".to_owned();
    let environment = ProxyVariables { http: proxy.url(), https: String::new(), no };
    let registries = [
        ("reg.test:5000", "http://reg.test:5000".to_owned()),
        ("reg.test:5001", "http://reg.test:5001".to_owned()),
    ];
    let larder = Larder::start_behind(directory.path(), &registries, "", environment);
    // No name server knows reg.test: what is asked without the proxy does not come.
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test:5000").await;
    assert!(!reply.status.is_success(), "{:?}", reply.body);
    assert_eq!(proxy.seen().len(), 0, "the proxy saw it");
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test:5001").await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_through_the_proxy_in_a_tunnel_and_loopback_through_none() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let ca = directory.path().join("ca.pem");
    let front = tls_front(registry.address, "reg.test", &ca).await;
    let https = format!("http://{}", tunnel(front, "reg.test:443").await);
    let environment = ProxyVariables { http: https.clone(), https, no: String::new() };
    let more = format!("[[registry]]\nhost = \"reg.test\"\nca = \"{}\"", ca.display());
    let registries = [("local.test", registry.url())];
    let larder = Larder::start_behind(directory.path(), &registries, &more, environment);
    for ns in ["reg.test", "local.test"] {
        let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={ns}")).await;
        assert_eq!(reply.body, image.index_bytes, "{ns}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_to_its_registry_and_to_no_other() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let (servers, clients) = (Authority::new(), Authority::new());
    let at = front(registry.address, servers.server("localhost", Some(&clients))).await;
    let (certificate, key) = clients.issue("node-1");
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, certificate, key) = (
        file("ca.pem", servers.pem()),
        file("client.pem", certificate.pem()),
        file("client.key", key.serialize_pem()),
    );
    let more = format!(
        "[[registry]]\nhost = \"known.test\"\nendpoints = [\"https://localhost:{port}\"]\nca = \"{ca}\"\n\
         client_cert = \"{certificate}\"\nclient_key = \"{key}\"\n\
         [[registry]]\nhost = \"unknown.test\"\nendpoints = [\"https://localhost:{port}\"]\nca = \"{ca}\"",
        port = at.port()
    );
    let larder = Larder::start(directory.path(), &[], &more);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=known.test").await;
    assert_eq!(reply.body, image.index_bytes);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=unknown.test").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_offers_http_2_gets_http_1_requests() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let (authority, ca) = (Authority::new(), directory.path().join("ca.pem"));
    std::fs::write(&ca, authority.pem()).unwrap();
    let mut config = authority.server("localhost", None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let at = front(registry.address, config).await;
    let more = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [\"https://localhost:{}\"]\nca = \"{}\"",
        at.port(),
        ca.display()
    );
    let larder = Larder::start(directory.path(), &[], &more);
    assert_eq!(larder.get("/v2/team/app/manifests/v1?ns=reg.test").await.body, image.index_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_be_at_an_ipv6_address() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let at = FaultProxy::start_at("[::1]:0", registry.address).await;
    let host = at.address.to_string();
    let larder = Larder::start(directory.path(), &[("six.test", at.url()), (&host, at.url())], "");
    for ns in ["six.test", &host] {
        let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={ns}")).await;
        assert_eq!(reply.body, image.index_bytes, "{ns}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_is_refused() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "team/app", "v1", 1_000);
    let (authority, ca) = (Authority::new(), directory.path().join("ca.pem"));
    std::fs::write(&ca, authority.pem()).unwrap();
    let at =
        front(registry.address, authority.server_with(authority.issue_until("localhost", 2020), None)).await;
    let more = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [\"https://localhost:{}\"]\nca = \"{}\"",
        at.port(),
        ca.display()
    );
    let larder = Larder::start(directory.path(), &[], &more);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let message = reply.json()["errors"][0]["message"].as_str().unwrap().to_lowercase();
    assert!(message.contains("expired"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_self_signed_certificate_is_its_own_authority_is_reached_where_that_is_listed_alone()
{
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let mut more = String::new();
    let (own, expired) = (Authority::of_server("localhost", 4096), Authority::of_server("localhost", 2020));
    let others = Authority::of_server("localhost", 4096);
    for (host, server, name, listed) in [
        ("own.test", &own, "localhost", Some(&own)),
        ("name.test", &own, "127.0.0.1", Some(&own)),
        ("expired.test", &expired, "localhost", Some(&expired)),
        ("others.test", &own, "localhost", Some(&others)),
        ("unlisted.test", &own, "localhost", None),
    ] {
        let port = front(registry.address, server.own_server()).await.port();
        more += &format!("[[registry]]\nhost = \"{host}\"\nendpoints = [\"https://{name}:{port}\"]\n");
        if let Some(listed) = listed {
            let ca = directory.path().join(format!("{host}.pem"));
            std::fs::write(&ca, listed.pem()).unwrap();
            more += &format!("ca = \"{}\"\n", ca.display());
        }
    }
    let larder = Larder::start(directory.path(), &[], &more);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=own.test").await;
    assert_eq!(reply.body, image.index_bytes, "{:?}", reply.body);
    for host in ["name.test", "expired.test", "others.test", "unlisted.test"] {
        let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={host}")).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{host}");
        let counted = format!(r#"larder_upstream_errors_total{{reason="upstream_tls",registry="{host}"}}"#);
        assert_eq!(larder.metric(&counted).await, 1.0, "{host}: {:?}", reply.body);
    }
}
