//! What the registries have: always the same, so that a plan means the same for ever.

use std::sync::OnceLock;

use bytes::Bytes;
use larder::reference::{Digest, MediaType};
use serde_json::json;

use crate::noise::noise;
use crate::plan::{Host, Repo};

/// All repositories.
pub(crate) const REPOS: [Repo; 8] =
    [Repo::TeamA, Repo::TeamB, Repo::Shared, Repo::Open, Repo::Hub, Repo::Big, Repo::Proj, Repo::Evil];

/// Bytes of the layers.
const LAYERS: [usize; 10] =
    [3_000, 65_536, 300_000, 1_000_000, 150_001, 2_500_000, 12_000_000, 40_000, 600_000, 5_000_000];
/// What a hostile manifest says of a layer of which a little comes.
pub(crate) const CLAIMED: u64 = 24 * 1024 * 1024;

/// An image as one version of a tag.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// What the tag means: an index, or the manifest itself.
    pub(crate) top: Digest,
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Digest>,
    /// For another platform.
    pub(crate) other: Option<Digest>,
}

/// A document or blob.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: Option<String>,
}

pub(crate) struct Catalog {
    pub(crate) content: std::collections::BTreeMap<String, Content>,
    images: std::collections::BTreeMap<Repo, Vec<Image>>,
    /// The hostile layer.
    pub(crate) claimed: Digest,
}

impl Repo {
    pub(crate) fn host(self) -> Host {
        match self {
            Self::TeamA | Self::TeamB | Self::Shared | Self::Open => Host::Reg,
            Self::Hub | Self::Big => Host::Hub,
            Self::Proj => Host::Store,
            Self::Evil => Host::Evil,
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::TeamA => "team-a/app",
            Self::TeamB => "team-b/app",
            Self::Shared => "shared/base",
            Self::Open => "open/tool",
            Self::Hub => "lib/app",
            Self::Big => "lib/big",
            Self::Proj => "proj/x",
            Self::Evil => "evil/app",
        }
    }

    /// `host/path`.
    pub(crate) fn name(self) -> String {
        format!("{}/{}", self.host().name(), self.path())
    }
}

impl Host {
    pub(crate) const ALL: [Self; 7] =
        [Self::Reg, Self::Mirror, Self::Hub, Self::Store, Self::Objects, Self::Evil, Self::Bucket];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reg => "reg.corp",
            Self::Mirror => "mirror.corp",
            Self::Hub => "hub.example",
            Self::Store => "store.corp",
            Self::Objects => "objects.corp",
            Self::Evil => "evil.example",
            Self::Bucket => "bucket.corp",
        }
    }

    pub(crate) fn is_configured(self) -> bool {
        !matches!(self, Self::Hub | Self::Evil)
    }
}

/// The catalog, made once.
pub(crate) fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(Catalog::new)
}

impl Catalog {
    /// The image that version of the repository's tag means.
    pub(crate) fn image(&self, repo: Repo, version: u8) -> &Image {
        let all = &self.images[&repo];
        &all[usize::from(version) % all.len()]
    }

    pub(crate) fn versions(&self, repo: Repo) -> &[Image] {
        &self.images[&repo]
    }

    pub(crate) fn bytes(&self, digest: Digest) -> Option<&Bytes> {
        self.content.get(&digest.to_string()).map(|content| &content.bytes)
    }

    /// Whether any version of the repository's image has it.
    pub(crate) fn has(&self, repo: Repo, digest: Digest) -> bool {
        self.images[&repo].iter().any(|image| image.has(digest))
            || repo == Repo::Evil && digest == self.claimed
    }

    fn new() -> Self {
        let claimed = Digest::of(b"nothing has this digest");
        let mut this = Self { content: Default::default(), images: Default::default(), claimed };
        let layers: Vec<Digest> =
            LAYERS.iter().enumerate().map(|(at, len)| this.put(noise(*len, at as u64 + 1), None)).collect();
        let of = |places: &[usize]| places.iter().map(|at| layers[*at]).collect::<Vec<_>>();
        for (repo, versions) in [
            (Repo::TeamA, vec![(of(&[2, 3]), true), (of(&[8, 3]), false)]),
            (Repo::TeamB, vec![(of(&[3, 7]), false)]),
            (Repo::Shared, vec![(of(&[3, 1]), true), (of(&[4, 1]), false)]),
            (Repo::Open, vec![(of(&[0, 4]), false), (of(&[0, 7]), true)]),
            (Repo::Hub, vec![(of(&[3, 5]), true), (of(&[8, 5]), true)]),
            (Repo::Big, vec![(of(&[6, 0]), false)]),
            (Repo::Proj, vec![(of(&[8, 2]), false), (of(&[4, 2]), true)]),
        ] {
            for (at, (layers, index)) in versions.into_iter().enumerate() {
                let image = this.push(&format!("{repo:?} {at}"), layers, index);
                this.images.entry(repo).or_default().push(image);
            }
        }
        let stolen = this.images[&Repo::TeamA][0].layers.clone();
        let mut evil = this.push("Evil", stolen, false);
        let document = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": described(evil.config, this.len(evil.config), CONFIG),
            "layers": [described(evil.layers[0], this.len(evil.layers[0]), LAYER),
                       described(claimed, CLAIMED, LAYER)]});
        evil.manifest = this.put(document.to_string(), Some(MediaType::OCI_MANIFEST));
        evil.top = evil.manifest;
        evil.layers = vec![evil.layers[0], claimed];
        this.images.insert(Repo::Evil, vec![evil]);
        this
    }

    fn push(&mut self, name: &str, layers: Vec<Digest>, index: bool) -> Image {
        let manifest = |this: &mut Self, arch: &str, layers: &[Digest]| {
            let config = json!({"os": "linux", "architecture": arch, "config": {"Cmd": [name]},
                                "rootfs": {"type": "layers", "diff_ids": []}});
            let config = this.put(config.to_string(), None);
            let layers: Vec<_> =
                layers.iter().map(|layer| described(*layer, this.len(*layer), LAYER)).collect();
            let document = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
                "config": described(config, this.len(config), CONFIG), "layers": layers});
            (this.put(document.to_string(), Some(MediaType::OCI_MANIFEST)), config)
        };
        let (own, config) = manifest(self, "amd64", &layers);
        if !index {
            return Image { top: own, manifest: own, config, layers, other: None };
        }
        let (other, other_config) = manifest(self, "arm64", &layers[..1]);
        let _ = other_config;
        let entries: Vec<_> = [(own, "amd64"), (other, "arm64")]
            .iter()
            .map(|(digest, arch)| {
                let mut entry = described(*digest, self.len(*digest), MediaType::OCI_MANIFEST);
                entry["platform"] = json!({"os": "linux", "architecture": arch});
                entry
            })
            .collect();
        let document = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries});
        let top = self.put(document.to_string(), Some(MediaType::OCI_INDEX));
        Image { top, manifest: own, config, layers, other: Some(other) }
    }

    fn put(&mut self, bytes: impl Into<Bytes>, media_type: Option<&str>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let content = Content { bytes, media_type: media_type.map(str::to_owned) };
        self.content.insert(digest.to_string(), content);
        digest
    }

    fn len(&self, digest: Digest) -> u64 {
        self.bytes(digest).map_or(0, |bytes| bytes.len() as u64)
    }
}

impl Image {
    pub(crate) fn has(&self, digest: Digest) -> bool {
        [self.top, self.manifest, self.config].contains(&digest)
            || self.layers.contains(&digest)
            || self.other == Some(digest)
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn described(digest: Digest, size: u64, media_type: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}
