//! Who may sign the certificate of a server: the authorities of the system, and those of an operator's file.
//!
//! Promises: a server is accepted by the verifier of rustls, with one exception. A self-signed certificate of an
//! authority that is in the operator's file is accepted from a server, for the names and until the date that are in it:
//! `openssl req -x509` makes such certificates, and other clients accept them. That opens nothing, since the same key
//! could sign a certificate for any name. Signatures are verified by rustls in every case.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error,
    InvalidMessage, RootCertStore, SignatureScheme,
};

/// Names of a certificate that are shown.
const NAMES_MAX: usize = 3;

/// The authorities that servers may be signed by.
#[derive(Debug, Clone)]
pub struct Authorities {
    roots: RootCertStore,
    /// Those of files that are self-signed and may be a server's.
    self_signed: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// Those of the system.
    pub fn new(roots: RootCertStore) -> Self {
        Self { roots, self_signed: Vec::new() }
    }

    /// Adds those of a PEM file. Blocks while it is read.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), String> {
        let mut count = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())? {
            let certificate = certificate.map_err(|e| e.to_string())?;
            if may_be_its_own_server(&certificate) == Some(true) {
                self.self_signed.push(certificate.clone());
            }
            self.roots.add(certificate).map_err(|e| e.to_string())?;
            count += 1;
        }
        if count == 0 { Err("there is no certificate in it".to_owned()) } else { Ok(()) }
    }

    /// What a client accepts from servers, with the cryptography of ring.
    ///
    /// # Errors
    /// The TLS library refuses its own defaults.
    pub fn client(&self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        if self.self_signed.is_empty() {
            return Ok(builder.with_root_certificates(self.roots.clone()));
        }
        let verifier = Arc::new(self.verifier(provider)?);
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, Error> {
        let signed =
            WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots.clone()), provider).build();
        let signed = signed.map_err(|e| Error::General(e.to_string()))?;
        Ok(Verifier { signed, self_signed: self.self_signed.clone() })
    }
}

/// What helps where a server cannot be reached for what Larder does not support.
pub fn remedy(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => Some(
            "it is signed in a way that Larder cannot verify, such as ECDSA on P-521 or with SHA-512; have it signed by RSA, Ed25519, or ECDSA on P-256 or P-384 with SHA-256 or SHA-384",
        ),
        Error::AlertReceived(AlertDescription::HandshakeFailure) => Some(
            "it may have no cipher suite or kind of key in common with Larder, which takes ECDHE with AES-GCM or ChaCha20-Poly1305, and keys of RSA, P-256, P-384 or Ed25519",
        ),
        _ => None,
    }
}

/// What is wrong with a server, for people: rustls names times by their seconds, and quotes types of its own. `None`
/// where its words are kept.
pub fn in_words(error: &Error) -> Option<String> {
    let wrong = match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return Some(
                "it does not answer with TLS; where it speaks plain HTTP, its [[registry]] says so: endpoints = [\"http://…\"]"
                    .to_owned(),
            );
        }
        error if is_of_an_authority(error) => {
            return Some(
                "it shows the certificate of an authority, which is accepted from a server only if it is self-signed and itself in `ca`"
                    .to_owned(),
            );
        }
        Error::InvalidCertificate(wrong) => wrong,
        _ => return None,
    };
    match wrong {
        CertificateError::ExpiredContext { time, not_after } => {
            Some(format!("its certificate expired on {}; here it is {}", day(*not_after), day(*time)))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            Some(format!("its certificate is not valid before {}; here it is {}", day(*not_before), day(*time)))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            Some(format!("its certificate is for {}, and not for {}", names(presented), expected.to_str()))
        }
        CertificateError::UnknownIssuer => Some(
            "its certificate is signed by an authority that is not known here; `ca` in its [[registry]] names the file of one"
                .to_owned(),
        ),
        CertificateError::BadSignature => Some(
            "its certificate is not signed with the key of the authority that it names; `ca` in its [[registry]] may have an older one"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The day of a time, and the time of the day.
fn day(time: UnixTime) -> String {
    // The last second that can be written.
    let seconds = Duration::from_secs(time.as_secs().min(253_402_300_799));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + seconds).to_string()
}

/// The names of a certificate, which rustls gives as `DnsName("reg.corp")` and `IpAddress(10.0.0.5)`.
fn names(presented: &[String]) -> String {
    let bare = presented.iter().take(NAMES_MAX).map(|name| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').chars().filter(|c| !c.is_control()).collect::<String>()
    });
    let bare: Vec<String> = bare.collect();
    match presented.len() {
        0 => "no name".to_owned(),
        more if more > NAMES_MAX => format!("{} and {} more", bare.join(", "), more - NAMES_MAX),
        _ => bare.join(", "),
    }
}

/// The verifier of rustls, and the one exception.
#[derive(Debug)]
struct Verifier {
    signed: Arc<WebPkiServerVerifier>,
    self_signed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The dates were compared before it was seen to be an authority's; the tests hold that.
            Err(error) if is_of_an_authority(&error) && self.self_signed.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Whether a server was refused for nothing but that its certificate is an authority's. rustls has no variant for it
/// and passes on the error of webpki.
fn is_of_an_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(cause)) = error else { return false };
    matches!(cause.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The version of a certificate that may have extensions, and these.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.30, `nameConstraints`.
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
/// 2.5.29.37, `extKeyUsage`.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// 1.3.6.1.5.5.7.3.1, `serverAuth`.
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// Whether a certificate names itself as its issuer, is not for other uses than servers, and limits no names: what
/// rustls would look at in a server's certificate and its issuer's. `None` if it cannot be read.
fn may_be_its_own_server(certificate: &[u8]) -> Option<bool> {
    let signed = elements(only(elements(certificate)?, SEQUENCE)?)?;
    let fields = elements(signed.first()?.content)?;
    let [Element { tag: VERSION, .. }, _serial, _algorithm, issuer, _validity, subject, _key, more @ ..] =
        fields.as_slice()
    else {
        return None;
    };
    let mut may_be = issuer.content == subject.content;
    let extensions = match more.iter().find(|field| field.tag == EXTENSIONS) {
        Some(field) => elements(only(elements(field.content)?, SEQUENCE)?)?,
        None => Vec::new(),
    };
    for extension in extensions {
        let parts = elements(extension.content)?;
        let (name, value) = (parts.first()?, parts.last()?);
        may_be &= match name.content {
            NAME_CONSTRAINTS => false,
            EXTENDED_KEY_USAGE => {
                let usages = elements(only(elements(value.content)?, SEQUENCE)?)?;
                usages.iter().any(|usage| usage.tag == OBJECT_IDENTIFIER && usage.content == SERVER_AUTH)
            }
            _ => true,
        };
    }
    Some(may_be)
}

/// An element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

/// All elements of `der`, which is nothing else.
fn elements(mut der: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut found = Vec::new();
    while let [tag, length, rest @ ..] = der {
        let (length, rest) = match *length {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                // No certificate has four gigabytes.
                let bytes = usize::from(long & 0x7f);
                let (length, rest) = rest.split_at_checked(bytes).filter(|_| (1..=4).contains(&bytes))?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        found.push(Element { tag: *tag, content });
        der = rest;
    }
    der.is_empty().then_some(found)
}

/// The content of the one element that there is.
fn only(elements: Vec<Element<'_>>, tag: u8) -> Option<&[u8]> {
    match elements.as_slice() {
        [element] if element.tag == tag => Some(element.content),
        _ => None,
    }
}

#[cfg(test)]
#[path = "authorities_tests.rs"]
mod tests;
