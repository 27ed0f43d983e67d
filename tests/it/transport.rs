//! TLS with a private authority, and proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use larder::upstream::Proxy;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::image;
use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;

/// TLS in front of `behind` for `name`; the authority's certificate goes to `ca`.
async fn tls_front(behind: SocketAddr, name: &str, ca: &Path) -> SocketAddr {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(ca, authority.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
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
                let mut server = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// A proxy that tunnels every `CONNECT` to `behind`.
async fn tunnel(behind: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"CONNECT reg.test:443 "), "{}", String::from_utf8_lossy(&head));
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
    let (registry, folder) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let ca = folder.path().join("ca.pem");
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
    let larder = Larder::start(folder.path(), &[], &more);
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
async fn an_authority_file_that_is_none_stops_the_start_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, "no certificate").unwrap();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[[registry]]\nhost = \"a.test\"\nca = \"{}\"",
        ca.display()
    );
    let environment =
        larder::config::Environment { state_home: Some(folder.path().into()), ..Default::default() };
    let settings = larder::config::resolve(&text, &environment).unwrap();
    let error = larder::app::App::build(settings, larder::clock::Clock::system()).err().unwrap().to_string();
    assert!(error.contains("ca.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_goes_through_the_proxy_in_absolute_form() {
    let (proxy, folder) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&proxy, "team/app", "v1", 1_000);
    let http = proxy.url().replace("http://", "http://user:secret@");
    let environment = Proxy { http, ..Proxy::default() };
    let registries = [("reg.test", "http://reg.test".to_owned())];
    let larder = Larder::start_behind(folder.path(), &registries, "", environment);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.body, image.index_bytes);
    let seen = proxy.seen();
    assert_eq!(seen[0].headers["host"], "reg.test");
    assert_eq!(seen[0].headers["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_through_the_proxy_in_a_tunnel_and_loopback_through_none() {
    let (registry, folder) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let ca = folder.path().join("ca.pem");
    let front = tls_front(registry.address, "reg.test", &ca).await;
    let https = format!("http://{}", tunnel(front).await);
    let environment = Proxy { http: https.clone(), https, no: String::new() };
    let more = format!("[[registry]]\nhost = \"reg.test\"\nca = \"{}\"", ca.display());
    let registries = [("local.test", registry.url())];
    let larder = Larder::start_behind(folder.path(), &registries, &more, environment);
    for ns in ["reg.test", "local.test"] {
        let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={ns}")).await;
        assert_eq!(reply.body, image.index_bytes, "{ns}");
    }
}
