//! What the unit tests of `pull` share: a store in a temporary directory, and the parts of `pull` over it and over a
//! registry in memory.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::access::Access;
use super::blob::Blobs;
use super::blob::components::Components;
use super::config::Config;
use super::context::{Caller, PullContext};
pub(crate) use super::fake_bodies_for_tests::{MirrorBody, broken_off};
pub(crate) use super::fake_registry_for_tests::{Asks, Before, FakeRegistry, not_found};
use super::manifest::Manifests;
use super::metrics::Metrics;
use super::registry_client::RegistryClient;
use super::shared_names::SharedNames;
use crate::credentials::{self, Credential, Keychain, Keys, NodeFiles};
use crate::reference::{Child, Digest, MediaType, Repository};
use crate::store::{self, Amount, Budget, Member, Owner, Store, WholeContent};
use crate::support::clock::{Clock, Timestamp};
use crate::support::live::Live;
use crate::support::metrics::Registry as MetricsRegistry;
use crate::support::tasks::Tasks;
use crate::tier::Tier;
use crate::upstream::{ConnectStage, Error};

/// An image manifest without layers.
pub(crate) const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

/// An empty store whose clock the test moves.
pub(crate) fn store() -> (Store, Clock, TempDir) {
    store_of(1 << 30)
}

fn store_of(max_bytes: u64) -> (Store, Clock, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp(1_000_000));
    let budget = Budget { max: Amount::Bytes(max_bytes), min_free: Amount::Bytes(0) };
    let config = store::Config { path: directory.path().join("store"), budget };
    let metrics = Arc::new(store::metrics::Metrics::register(&MetricsRegistry::new()).unwrap());
    (Store::open(&config, clock.clone(), metrics).unwrap(), clock, directory)
}

pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register(&MetricsRegistry::new()).unwrap())
}

/// Stores a blob as if `repository`'s upstream had delivered it.
pub(crate) async fn remember_blob(store: &Store, repository: &str, content: &'static [u8]) -> Digest {
    let digest = Digest::of(content);
    let repository: Repository = repository.parse().unwrap();
    let (bytes, member) = (Bytes::from_static(content), Member::Blob);
    let owner = Owner::named(repository.registry());
    store.put(WholeContent { repository, digest, bytes, member, owner }).await.unwrap();
    digest
}

/// Stores [`MANIFEST`] as if `repository`'s upstream had delivered it.
pub(crate) async fn remember_manifest(store: &Store, repository: &str) -> Digest {
    let digest = Digest::of(MANIFEST);
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    let repository: Repository = repository.parse().unwrap();
    let bytes = Bytes::from_static(MANIFEST);
    let owner = Owner::named(repository.registry());
    store.put(WholeContent { repository, digest, bytes, member, owner }).await.unwrap();
    digest
}

/// A keychain without any credential of the node's.
pub(crate) fn keychain(directory: &TempDir) -> Keychain {
    keychain_of(directory, Vec::new())
}

fn keychain_of(directory: &TempDir, node: Vec<PathBuf>) -> Keychain {
    let config = credentials::Config {
        node: NodeFiles::Named(node),
        providers: None,
        helper_dir: None,
        pull_secrets: Vec::new(),
    };
    let keys = Keys::open(&directory.path().join("keys")).unwrap();
    Keychain::build(&config, Arc::new(keys)).unwrap()
}

/// A stored blob's file.
pub(crate) fn blob_file(directory: &TempDir, digest: Digest) -> PathBuf {
    directory.path().join("store/blobs/sha256").join(digest.hex())
}

/// The parts of `pull` over a [`FakeRegistry`] and an empty store, each to be tested by itself.
pub(crate) struct Parts {
    pub(crate) registry: Arc<FakeRegistry>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) keychain: Keychain,
    pub(crate) access: Access,
    pub(crate) manifests: Manifests,
    pub(crate) blobs: Blobs,
    pub(crate) directory: TempDir,
}

impl Parts {
    pub(crate) fn new() -> Self {
        Self::over(store())
    }

    /// The same over a store that takes no blob.
    pub(crate) fn without_room() -> Self {
        Self::over(store_of(1))
    }

    /// The same over a shared tier.
    pub(crate) fn without_room_over(tier: Tier) -> Self {
        Self::build(store_of(1), tier)
    }

    /// The same over a store of so many bytes.
    pub(crate) fn with_room_for(bytes: u64) -> Self {
        Self::over(store_of(bytes))
    }

    /// The same over a shared tier.
    pub(crate) fn with_tier(tier: Tier) -> Self {
        Self::build(store(), tier)
    }

    /// The same on a node that has logins of its own for `reg.test`, each in a file.
    pub(crate) fn with_node_logins(users: &[&str]) -> Self {
        let store = store();
        let file_of = |user: &&str| {
            let login = serde_json::json!({ "username": user, "password": "secret" });
            let config = serde_json::json!({ "auths": { "reg.test": login } }).to_string();
            let path = store.2.path().join(format!("docker-{user}.json"));
            std::fs::write(&path, config).unwrap();
            path
        };
        let files = users.iter().map(file_of).collect();
        let keychain = keychain_of(&store.2, files);
        Self::build_with(store, Tier::none(), keychain)
    }

    fn over(store: (Store, Clock, TempDir)) -> Self {
        Self::build(store, Tier::none())
    }

    fn build(store: (Store, Clock, TempDir), tier: Tier) -> Self {
        let keychain = keychain(&store.2);
        Self::build_with(store, tier, keychain)
    }

    fn build_with(
        (store, clock, directory): (Store, Clock, TempDir),
        tier: Tier,
        keychain: Keychain,
    ) -> Self {
        let metrics = metrics();
        let registry = Arc::<FakeRegistry>::default();
        let client = || Arc::clone(&registry) as Arc<dyn RegistryClient>;
        let (config, tasks) = (Live::<Config>::default(), Tasks::default());
        let (keys, ticking) = (keychain.clone(), tasks.clone());
        let access = Access::new(config.clone(), store.records(), keys, client(), ticking, &metrics);
        let names = SharedNames::new(tier, access.clone());
        names.replace_when_closed(store.records(), &tasks);
        let manifests = Manifests::new(
            config.clone(),
            access.clone(),
            client(),
            store.clone(),
            names.clone(),
            tasks.clone(),
        );
        let components =
            Components::new(config, access.clone(), client(), store.clone(), names, tasks, metrics);
        let blobs = Blobs::new(components);
        Self { registry, store, clock, keychain, access, manifests, blobs, directory }
    }

    /// A manifest of a repository says how large a blob is.
    pub(crate) fn declare_size(&self, repository: &Repository, digest: Digest, size: u64) {
        let child = Child { digest, size, platform: None, is_foreign: false, is_read_whole: true };
        self.access.membership().declare_sizes(repository, &[child]);
    }

    /// A pull by a user with a credential.
    pub(crate) fn pull_as(&self, user: &str, repository: &Repository) -> PullContext {
        let credential = Credential::password(user, "secret").unwrap();
        let caller = Caller::Presented(self.keychain.caller_credential(credential));
        PullContext::new(repository.clone(), None, caller)
    }
}

/// A pull by a client that was not asked for a credential.
pub(crate) fn pull(repository: &Repository) -> PullContext {
    PullContext::new(repository.clone(), None, Caller::Unidentified)
}

/// How a request fails while the registry cannot be connected to.
pub(crate) fn outage() -> Error {
    let why = "connection refused".to_owned();
    Error::Unreachable { host: "reg.test".to_owned(), stage: ConnectStage::Connect, why }
}
