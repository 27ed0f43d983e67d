//! What a server is accepted for that shows the certificate of an authority, and what not.

use std::io::Write;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::*;

/// 2026-01-01 and 20 years before and after.
const NOW: u64 = 1_767_225_600;
const LONG: u64 = 20 * 365 * 24 * 3600;

/// As `openssl req -x509 -addext subjectAltName=…` makes it.
fn params() -> CertificateParams {
    let mut params = CertificateParams::new(["reg.corp".to_owned(), "10.0.0.5".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    params
}

fn params_but(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = params();
    change(&mut params);
    params
}

fn self_signed(params: &CertificateParams) -> rcgen::Certificate {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

fn listing(certificates: &[&rcgen::Certificate]) -> Authorities {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    certificates.iter().for_each(|certificate| file.write_all(certificate.pem().as_bytes()).unwrap());
    let mut authorities = Authorities::new(RootCertStore::empty());
    authorities.add_file(file.path()).unwrap();
    authorities
}

/// What is said of a server that shows `shown` under `name`.
fn verified(
    authorities: &Authorities,
    shown: &rcgen::Certificate,
    name: &str,
    at: u64,
) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = authorities.verifier(provider).unwrap();
    let (name, at) =
        (ServerName::try_from(name).unwrap(), UnixTime::since_unix_epoch(Duration::from_secs(at)));
    verifier.verify_server_cert(shown.der(), &[], &name, &[], at).map(drop).map_err(|e| e.to_string())
}

#[test]
fn a_self_signed_certificate_that_is_listed_is_accepted_for_its_own_names_and_dates_alone() {
    let own = self_signed(&params());
    let authorities = listing(&[&own]);
    for name in ["reg.corp", "10.0.0.5"] {
        assert_eq!(verified(&authorities, &own, name, NOW), Ok(()), "{name}");
    }
    for (name, at, why) in [
        ("other.corp", NOW, "not valid for name"),
        ("10.0.0.6", NOW, "not valid for name"),
        ("reg.corp", NOW + LONG, "expired"),
        ("reg.corp", NOW - LONG, "not valid yet"),
    ] {
        let error = verified(&authorities, &own, name, at).unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[test]
fn no_other_certificate_of_an_authority_is_accepted_from_a_server() {
    let own = self_signed(&params());
    // Another one with the same names, which is not listed: neither with the same key nor with another one.
    assert!(verified(&listing(&[&own]), &self_signed(&params()), "reg.corp", NOW).is_err());
    let key = KeyPair::generate().unwrap();
    let listed = params().self_signed(&key).unwrap();
    let later = params_but(|params| params.not_after = rcgen::date_time_ymd(2031, 1, 1));
    assert!(verified(&listing(&[&listed]), &later.self_signed(&key).unwrap(), "reg.corp", NOW).is_err());
    // One that an authority has signed, listed or not.
    let issuer = Issuer::new(params(), KeyPair::generate().unwrap());
    let below = params_but(|params| params.distinguished_name.push(rcgen::DnType::CommonName, "below"));
    let below = below.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    for authorities in [listing(&[&own]), listing(&[&own, &below])] {
        assert!(verified(&authorities, &below, "reg.corp", NOW).is_err());
    }
}

#[test]
fn what_a_listed_certificate_may_not_be_used_for_it_is_not_used_for() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    for (usages, accepted) in
        [(vec![ServerAuth], true), (vec![ClientAuth, ServerAuth], true), (vec![ClientAuth], false)]
    {
        let own = self_signed(&params_but(|params| params.extended_key_usages = usages.clone()));
        let answer = verified(&listing(&[&own, &self_signed(&params())]), &own, "reg.corp", NOW);
        assert_eq!(answer.is_ok(), accepted, "{usages:?}: {answer:?}");
    }
    let constraints = NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("other.corp".to_owned())],
        excluded_subtrees: Vec::new(),
    };
    let own = self_signed(&params_but(|params| params.name_constraints = Some(constraints)));
    assert!(verified(&listing(&[&own, &self_signed(&params())]), &own, "reg.corp", NOW).is_err());
}

#[test]
fn a_damaged_certificate_is_read_to_its_end_without_harm() {
    let own = self_signed(&params());
    assert_eq!(may_be_its_own_server(own.der()), Some(true));
    for end in 0..own.der().len() {
        assert_eq!(may_be_its_own_server(&own.der()[..end]), None, "{end}");
    }
    for at in 0..own.der().len() {
        for other in [0x00, 0x7f, 0x80, 0x84, 0xff] {
            let mut damaged = own.der().to_vec();
            damaged[at] = other;
            may_be_its_own_server(&damaged);
        }
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_without_seconds_and_types() {
    let own = self_signed(&params());
    let authorities = listing(&[&own]);
    let verifier = authorities.verifier(Arc::new(rustls::crypto::ring::default_provider())).unwrap();
    let said = |shown: &rcgen::Certificate, name: &str, at: u64| {
        let (name, at) =
            (ServerName::try_from(name).unwrap(), UnixTime::since_unix_epoch(Duration::from_secs(at)));
        let error = verifier.verify_server_cert(shown.der(), &[], &name, &[], at).unwrap_err();
        in_words(&error).unwrap_or_else(|| panic!("{error}"))
    };
    let expired = said(&own, "reg.corp", NOW + LONG);
    assert!(expired.contains("expired on 2030-01-01T00:00:00Z; here it is 2045-12-"), "{expired}");
    let early = said(&own, "reg.corp", NOW - LONG);
    assert!(early.contains("not valid before 2020-01-01T00:00:00Z; here it is 2006-01-"), "{early}");
    let name = said(&own, "other.corp", NOW);
    assert_eq!(name, "its certificate is for reg.corp, 10.0.0.5, and not for other.corp");
    let other = |is_ca: IsCa| {
        let params = params_but(|params| {
            params.is_ca = is_ca;
            params.distinguished_name.push(rcgen::DnType::CommonName, "other");
        });
        said(&self_signed(&params), "reg.corp", NOW)
    };
    let unknown = other(IsCa::NoCa);
    assert!(unknown.contains("not known here") && unknown.contains("`ca` in its [[registry]]"), "{unknown}");
    let authority = other(IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(authority.contains("self-signed and itself in `ca`"), "{authority}");
    let renewed = said(&self_signed(&params_but(|params| params.is_ca = IsCa::NoCa)), "reg.corp", NOW);
    assert!(renewed.contains("`ca` in its [[registry]] may have an older one"), "{renewed}");
    let many: Vec<String> = (0..4_000).map(|n| format!("DnsName(\"n{n}.evil.test\")")).collect();
    assert_eq!(names(&many), "n0.evil.test, n1.evil.test, n2.evil.test and 3997 more");
    let plain = in_words(&Error::InvalidMessage(InvalidMessage::InvalidContentType)).unwrap();
    assert!(plain.contains("endpoints = [\"http://"), "{plain}");
}

#[test]
fn what_is_not_supported_has_a_remedy_of_its_own_and_what_has_words_or_neither_has_none() {
    let signed = |error| remedy(&Error::InvalidCertificate(error)).unwrap();
    let (signature_algorithm_id, public_key_algorithm_id) = (vec![1], vec![2]);
    let supported_algorithms = Vec::new();
    let by_authority = signed(CertificateError::UnsupportedSignatureAlgorithmContext {
        signature_algorithm_id: signature_algorithm_id.clone(),
        supported_algorithms,
    });
    let by_key = signed(CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
        signature_algorithm_id,
        public_key_algorithm_id,
    });
    for said in [by_authority, by_key] {
        assert!(said.contains("P-521") && said.contains("have it signed by RSA"), "{said}");
    }
    let common = remedy(&Error::AlertReceived(AlertDescription::HandshakeFailure)).unwrap();
    assert!(common.contains("cipher suite") && common.contains("ECDHE"), "{common}");
    for other in [
        Error::AlertReceived(AlertDescription::BadCertificate),
        Error::InvalidCertificate(CertificateError::UnknownIssuer),
        Error::InvalidCertificate(CertificateError::Revoked),
    ] {
        assert_eq!(remedy(&other), None, "{other}");
    }
    assert_eq!(
        in_words(&Error::InvalidCertificate(CertificateError::Revoked)),
        None,
        "its own words are kept"
    );
}

#[test]
fn the_words_of_an_error_do_not_make_the_certificate_of_an_authority_of_it() {
    let of = |cause| Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(cause)));
    assert!(is_of_an_authority(&of(Arc::new(webpki::Error::CaUsedAsEndEntity))));
    assert!(!is_of_an_authority(&of(Arc::new(webpki::Error::EndEntityUsedAsCa))));
    assert!(!is_of_an_authority(&of(Arc::new(std::io::Error::other("CaUsedAsEndEntity")))));
}

/// Shows a certificate, whatever key there is.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A handshake with a server that shows `shown` and has `key`, over one version of TLS.
fn handshake(
    authorities: &Authorities,
    shown: &rcgen::Certificate,
    key: &KeyPair,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<(), Error> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let shown = Shown(Arc::new(CertifiedKey::new(vec![shown.der().clone()], key)));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let server = server.with_no_client_auth().with_cert_resolver(Arc::new(shown));
    let client = authorities.client().unwrap().with_no_client_auth();
    let name = ServerName::try_from("reg.corp").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn a_copy_of_a_listed_certificate_is_of_no_use_without_its_key() {
    let (key, other) =
        (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), KeyPair::generate().unwrap());
    // The handshake is now.
    let valid = params_but(|params| params.not_after = rcgen::date_time_ymd(4096, 1, 1));
    let own = valid.self_signed(&key).unwrap();
    let authorities = listing(&[&own]);
    for version in rustls::ALL_VERSIONS {
        assert_eq!(handshake(&authorities, &own, &key, version), Ok(()), "{version:?}");
        let error = handshake(&authorities, &own, &other, version).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(CertificateError::BadSignature), "{version:?}");
    }
}
