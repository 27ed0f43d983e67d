//! The TLS settings of a registry: the certificate authorities that it may be signed by, and the client certificate
//! that Larder presents to it.
//!
//! A client certificate is presented to hosts that the configuration names, and to no other.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::support::authorities::Authorities;
use crate::upstream::config::{ClientCertificate, RegistryConfig};

/// Why no HTTP client can be built from the settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The file of certificate authorities of a registry.
    #[error("cannot use the certificate authorities in {}: {why}", path.display())]
    Authorities {
        /// The PEM file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
    /// The client certificate for a registry, or its key.
    #[error("cannot use the client certificate or key in {}: {why}", path.display())]
    Certificate {
        /// The PEM file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
    /// A proxy of the environment that is spoken to in another way than plain HTTP.
    #[error(
        "{variable} names a {scheme}:// proxy: only http:// proxies are supported, and registries over TLS are reached through their tunnel"
    )]
    Proxy {
        /// The variable.
        variable: &'static str,
        /// What its value begins with.
        scheme: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// What is used for hosts of either trust.
pub(super) struct TlsConfigs {
    pub(super) configured: ClientConfig,
    pub(super) untrusted: ClientConfig,
}

impl TlsConfigs {
    /// The system's certificate authorities and, for a registry with settings of its own, those and its certificates.
    /// Blocks while files are read.
    ///
    /// # Errors
    /// A certificate or key file that cannot be used.
    pub(super) fn new(system: &Authorities, settings: Option<&RegistryConfig>) -> Result<Self, BuildError> {
        let mut authorities = system.clone();
        if let Some(path) = settings.and_then(|settings| settings.ca.as_ref()) {
            let failed = |why| BuildError::Authorities { path: path.clone(), why };
            authorities.add_file(path).map_err(failed)?;
        }
        let identity = settings.and_then(|settings| settings.client.as_ref()).map(identity).transpose()?;
        let builder = || authorities.client().map_err(|e| BuildError::Tls(e.to_string()));
        let untrusted = builder()?.with_no_client_auth();
        let configured = match identity {
            None => untrusted.clone(),
            Some(Identity { chain, key, file }) => builder()?
                .with_client_auth_cert(chain, key)
                .map_err(|e| BuildError::Certificate { path: file, why: e.to_string() })?,
        };
        Ok(Self { configured, untrusted })
    }
}

/// The certificate authorities of the system. Blocks while files are read; what cannot be read is logged.
pub(super) fn system_authorities() -> Authorities {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system certificate store could not be read");
    }
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            ignored,
            "no system certificate authority was found: install ca-certificates to reach registries over TLS"
        );
    }
    Authorities::new(roots)
}

/// The certificate that a client presents in the TLS handshake, with its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    file: PathBuf,
}

fn identity(client: &ClientCertificate) -> Result<Identity, BuildError> {
    let failed = |path: &Path, why: String| BuildError::Certificate { path: path.to_owned(), why };
    let certificate = &client.certificate;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| failed(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(failed(certificate, "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&client.key).map_err(|e| failed(&client.key, e.to_string()))?;
    Ok(Identity { chain, key, file: certificate.clone() })
}
