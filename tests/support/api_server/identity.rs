//! Who asks: client certificates by an authority of the test's own, the kubeconfig files that name them, tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;

/// The authority of the server's certificate and that of the clients'.
pub struct Authorities {
    server: CertifiedIssuer<'static, KeyPair>,
    clients: CertifiedIssuer<'static, KeyPair>,
}

/// A user with a certificate: kubelet's kind of kubeconfig, which names a file that is replaced in place.
pub struct Identity {
    pub user: String,
    pub kubeconfig: PathBuf,
    /// Certificate and key in one file, which both entries of the kubeconfig name.
    pub pem: PathBuf,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Authorities {
    pub(super) fn new() -> Self {
        Self { server: authority("kubernetes"), clients: authority("kubernetes clients") }
    }

    pub(super) fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["kubernetes.default.svc".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        let certificate = params.signed_by(&key, &self.server).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.clients.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    /// A certificate and its key for this user, as one PEM file.
    pub fn pem_of(&self, user: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let certificate = params.signed_by(&key, &self.clients).unwrap();
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    /// Certificate and kubeconfig of a user in this directory.
    pub fn identity(&self, directory: &Path, url: &str, user: &str) -> Identity {
        let pem = directory.join("client-current.pem");
        std::fs::write(&pem, self.pem_of(user)).unwrap();
        let entry = format!("client-certificate: {pem}\n    client-key: {pem}", pem = pem.to_str().unwrap());
        let kubeconfig = self.kubeconfig(directory, url, &entry);
        Identity { user: user.to_owned(), kubeconfig, pem }
    }

    /// A kubeconfig whose user has the token in this file.
    pub fn with_token_file(&self, directory: &Path, url: &str, token: &Path) -> PathBuf {
        self.kubeconfig(directory, url, &format!("tokenFile: {}", token.to_str().unwrap()))
    }

    /// A kubeconfig whose user has what a program gives; `exec` is its entry, as JSON.
    pub fn with_program(&self, directory: &Path, url: &str, exec: &str) -> PathBuf {
        self.kubeconfig(directory, url, &format!("exec: {exec}"))
    }

    fn kubeconfig(&self, directory: &Path, url: &str, user: &str) -> PathBuf {
        use base64::Engine;
        let authority = base64::engine::general_purpose::STANDARD.encode(self.server.pem());
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: default-cluster\n  cluster:\n    \
             certificate-authority-data: {authority}\n    server: {url}\nusers:\n- name: default-auth\n  user:\n    \
             {user}\ncontexts:\n- name: default-context\n  context:\n    cluster: default-cluster\n    \
             namespace: default\n    user: default-auth\ncurrent-context: default-context\npreferences: {{}}\n"
        );
        let path = directory.join("kubelet.conf");
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Identity {
    /// Replaces the certificate by a new one, as kubelet rotates it: in place, by a rename.
    #[allow(clippy::disallowed_methods, reason = "it does what kubelet does")]
    pub fn rotate(&self, authorities: &Authorities, user: &str) {
        let next = self.pem.with_extension("next");
        std::fs::write(&next, authorities.pem_of(user)).unwrap();
        std::fs::rename(next, &self.pem).unwrap();
    }
}

/// What a client's certificate says.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) user: String,
    pub(super) certificate: String,
}

pub(super) fn of_connection(connection: &rustls::ServerConnection) -> Option<Peer> {
    let certificate = connection.peer_certificates()?.first()?;
    let digest = larder::reference::Digest::of(certificate).to_string();
    Some(Peer { user: common_name(certificate)?, certificate: digest })
}

/// The subject's common name. The certificates are `rcgen`'s, of which the subject is the second name and the issuer the
/// first: the last value after the object identifier 2.5.4.3 is the subject's.
fn common_name(der: &[u8]) -> Option<String> {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let at = der.windows(COMMON_NAME.len()).rposition(|window| window == COMMON_NAME)?;
    let value = &der[at + COMMON_NAME.len()..];
    let len = usize::from(*value.get(1)?);
    String::from_utf8(value.get(2..2 + len)?.to_vec()).ok()
}
