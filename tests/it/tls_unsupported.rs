//! What Larder's TLS library cannot do: the error says what that is and what helps.

use std::sync::Arc;

use http::StatusCode;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;
use crate::transport::{Authority, front};

async fn reason(larder: &Larder, host: &str) -> String {
    let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={host}")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{host}");
    reply.json()["errors"][0]["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_with_what_cannot_be_verified_is_told_what_can() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let mut more = String::new();
    let cases = [("sha512.test", P384_SHA512), ("p521.test", P521_SHA256)];
    for (host, (authority, server)) in cases {
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let certificate = CertificateDer::from_pem_slice(server.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let port = front(registry.address, config).await.port();
        let ca = directory.path().join(format!("{host}.pem"));
        std::fs::write(&ca, authority).unwrap();
        let ca = ca.display();
        more += &format!(
            "[[registry]]\nhost = \"{host}\"\nendpoints = [\"https://localhost:{port}\"]\nca = \"{ca}\"\n"
        );
    }
    let larder = Larder::start(directory.path(), &[], &more);
    for (host, _) in cases {
        let reason = reason(&larder, host).await;
        assert!(reason.contains("P-384") && reason.contains("SHA-384"), "{host}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_the_handshake_is_said_to_have_nothing_in_common() {
    let (listener, directory) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), tempfile::tempdir().unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            client.read_u8().await.unwrap();
            // As OpenSSL does where no cipher suite or signature suits both: a fatal alert, `handshake_failure`.
            client.write_all(&[0x15, 3, 3, 0, 2, 2, 40]).await.unwrap();
            // What the client still sends is read, so that the alert arrives.
            let _ = client.read_to_end(&mut Vec::new()).await;
        }
    });
    let url = format!("https://localhost:{port}");
    let larder = Larder::start(directory.path(), &[("reg.test", url)], "");
    let reason = reason(&larder, "reg.test").await;
    assert!(reason.contains("cipher suite") && reason.contains("ECDHE"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_the_certificate_of_an_authority_is_told_where_it_has_to_be_listed() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let port = front(registry.address, Authority::of_server("localhost", 4096).own_server()).await.port();
    let url = format!("https://localhost:{port}");
    let larder = Larder::start(directory.path(), &[("reg.test", url)], "");
    let reason = reason(&larder, "reg.test").await;
    assert!(reason.contains("`ca`") && reason.contains("self-signed"), "{reason}");
}

// Made with OpenSSL, since rcgen with ring signs with neither. Valid from 2020 to 2120; the keys of the authorities are
// gone.

/// The key of both servers.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrioD8KZixXe6Fz+X
Jbl6Yt8P2LNFtzVH7RDE0Whr51ChRANCAATRBW2cJ+pBeqI04Ew7j8m9xb9k7zYH
kUORIDAAuZZQl0FxHW6VtdwLJlaDq8NBTX52f7K7crerrZ/Ueo3O8Tle
-----END PRIVATE KEY-----
";

/// An authority on P-384 that signs with SHA-512, and the certificate of a server.
const P384_SHA512: (&str, &str) = (
    "\
-----BEGIN CERTIFICATE-----
MIIBpDCCASmgAwIBAgIUR1fioO8zXeWG9ljuX7QTKQ+8CkMwCgYIKoZIzj0EAwQw
GDEWMBQGA1UEAwwNcDM4NHNoYTUxMiBjYTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIw
MDEwMTAwMDAwMFowGDEWMBQGA1UEAwwNcDM4NHNoYTUxMiBjYTB2MBAGByqGSM49
AgEGBSuBBAAiA2IABCdH1d3Dh7fbkw9UbdB2d/f0EkkOQo8ltwkJIELnxJ3HQa8l
f/nSOe4NycS+r/hZPcddMF5PLbrluHmCOPvdNqWzK0Z51KYSMLtHY4cE4+Mrahzd
pIXEFN6ukMmm8Mjv7aMyMDAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUz9Kd
kzTk/2+JbFzqYT5YImj+b4MwCgYIKoZIzj0EAwQDaQAwZgIxAMmXFSd+xkiDGBYo
TLoRGRaj7Vv0jXIg1bQX4iONj0WWicb7Y3iOsYknM0ryxlFADAIxAIJrZDxSIO2J
XVRTbKbtzxZwBbx8SWADpy8aK14kEdOSptpWJq1f9UDAxHlUZS6HPA==
-----END CERTIFICATE-----
",
    "\
-----BEGIN CERTIFICATE-----
MIIBpzCCAS6gAwIBAgIUKC7ct/z8qAyMy4PmN1qJd54Ze5cwCgYIKoZIzj0EAwQw
GDEWMBQGA1UEAwwNcDM4NHNoYTUxMiBjYTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIw
MDEwMTAwMDAwMFowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAE0QVtnCfqQXqiNOBMO4/JvcW/ZO82B5FDkSAwALmWUJdBcR1u
lbXcCyZWg6vDQU1+dn+yu3K3q62f1HqNzvE5XqNYMFYwFAYDVR0RBA0wC4IJbG9j
YWxob3N0MB0GA1UdDgQWBBTKodOTmJnDauSoAdqokYP1yoTkfjAfBgNVHSMEGDAW
gBTP0p2TNOT/b4lsXOphPlgiaP5vgzAKBggqhkjOPQQDBANnADBkAjBTTnF+pC+D
uxo+nhoSz9nXkBuMDm4wLpSC8I5Qt/DzlfHuvhKC9mVxWdtIYCbESFUCMEmVYy9X
ZQlMXitiPGQkKcluKJ4trTj/FrlF8bAvgkzFnN9eBtLVipmitkAlzqzRyA==
-----END CERTIFICATE-----
",
);

/// An authority on P-521 that signs with SHA-256, and the certificate of a server.
const P521_SHA256: (&str, &str) = (
    "\
-----BEGIN CERTIFICATE-----
MIIB7TCCAU+gAwIBAgIUGRjv3tSAveJS/tMZ5TbazlBKKnAwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcDUyMXNoYTI1NiBjYTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIw
MDEwMTAwMDAwMFowGDEWMBQGA1UEAwwNcDUyMXNoYTI1NiBjYTCBmzAQBgcqhkjO
PQIBBgUrgQQAIwOBhgAEAOiT7PRFRmL+Mn4DT7jZP+OFZwRKZzA6fSjivwztDuMU
JA8ty/mG2mLCvuyWrnzsjYu8ZSy1rh4apQ7+/5YeR8APAYeZOCsjuX26FdChWfqM
/gRNUNSuSps4sHbuesDsdWEirncwtkeWGbQNWnaHD6typdE7ZdUGNhOiukuk3vgs
HZhcozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBQHYsOjtohIBmx5CXj0
88bWjzJ5LjAKBggqhkjOPQQDAgOBiwAwgYcCQgDSVSi9K0hgvVWh838/pnYf544q
YeruZSipz7iV8W6/1n+l+YBVktBe7gWG+I/ems4Uewrc1R0LerC6IzGQxdxTfQJB
GAZ9gCc0LyRhBryvlAgyrlYaFoRtBEk5RVEQAHRX44hkutpaEtMRRuz0kzGU2SC4
c3soFmzSzvxlJkttkQ5/iGo=
-----END CERTIFICATE-----
",
    "\
-----BEGIN CERTIFICATE-----
MIIBzTCCAS6gAwIBAgIUUO0oZVJdNtxjkBo+srg7XgHA7zgwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcDUyMXNoYTI1NiBjYTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIw
MDEwMTAwMDAwMFowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAE0QVtnCfqQXqiNOBMO4/JvcW/ZO82B5FDkSAwALmWUJdBcR1u
lbXcCyZWg6vDQU1+dn+yu3K3q62f1HqNzvE5XqNYMFYwFAYDVR0RBA0wC4IJbG9j
YWxob3N0MB0GA1UdDgQWBBTKodOTmJnDauSoAdqokYP1yoTkfjAfBgNVHSMEGDAW
gBQHYsOjtohIBmx5CXj088bWjzJ5LjAKBggqhkjOPQQDAgOBjAAwgYgCQgDbJHhv
O6q7MeG01QIVtfYbF9EFWFeC6trDzDkkdZx4EqKh/s9V8M6DbtvFF5NrNR8uLOtL
zFdY2fQ7rvF5fQg4jwJCAZQUthnfd9NSdlIQxdaLQtbLoxZXDduimNIiXIWvIVuv
C45im0Ne4vRk4TZtphq4132+MT57aFt5fEaFmJDOXZu6
-----END CERTIFICATE-----
",
);
