//! Images of random layers, as a registry has them.

use std::collections::HashMap;
use std::sync::Mutex;

use larder::reference::{Digest, MediaType};

use super::content::{Bytes, Content, Found};

/// The tag of an image that is pushed without another.
pub(crate) const TAG: &str = "v1";

/// Images, by the paths of their parts.
#[derive(Default)]
pub(crate) struct Images(Mutex<HashMap<String, Found>>);

/// An image that was pushed.
pub(crate) struct Image {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Layer>,
}

/// A layer that was pushed.
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
}

impl Image {
    /// Bytes of its layers.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes.len()).sum()
    }

    /// The path of its manifest, by its tag or its digest.
    pub(crate) fn manifest_path(&self, reference: &str) -> String {
        format!("/v2/{}/manifests/{reference}", self.repository)
    }

    /// The path of one of its blobs.
    pub(crate) fn blob_path(&self, digest: &Digest) -> String {
        format!("/v2/{}/blobs/{digest}", self.repository)
    }
}

impl Images {
    /// Adds an image of layers of so many bytes each; another seed makes other bytes.
    pub(crate) fn push(&self, repository: &str, tag: &str, layers: &[usize], seed: u64) -> Image {
        let layers = (0..).zip(layers).map(|(at, len)| layer(*len, seed * 1_000 + at));
        self.push_layers(repository, tag, layers.collect(), seed)
    }

    fn push_layers(&self, repository: &str, tag: &str, layers: Vec<Layer>, seed: u64) -> Image {
        let config = format!(r#"{{"os":"linux","architecture":"amd64","seed":{seed}}}"#).into_bytes();
        let config_digest = Digest::of(&config);
        let describe = |digest: &Digest, size: usize| serde_json::json!({"mediaType": "x/y", "digest": digest.to_string(), "size": size});
        let described: Vec<_> =
            layers.iter().map(|layer| describe(&layer.digest, layer.bytes.len())).collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": describe(&config_digest, config.len()), "layers": described});
        let manifest = manifest.to_string().into_bytes();
        let image = Image {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            manifest: manifest.clone(),
            config: config_digest,
            layers,
        };
        let digest = Digest::of(&manifest).to_string();
        let found =
            Found { media_type: MediaType::OCI_MANIFEST, digest: digest.clone(), bytes: manifest.into() };
        let mut all = self.0.lock().unwrap();
        for reference in [tag, digest.as_str()] {
            all.insert(image.manifest_path(reference), found.clone());
        }
        let blobs = image.layers.iter().map(|layer| (layer.digest, layer.bytes.clone()));
        for (digest, bytes) in blobs.chain([(config_digest, config.into())]) {
            let (media_type, path) = (MediaType::OCTET_STREAM, image.blob_path(&digest));
            all.insert(path, Found { media_type, digest: digest.to_string(), bytes });
        }
        drop(all);
        image
    }

    /// Adds an image whose one layer is so large that nothing computes its digest; only parts of it are read.
    pub(crate) fn push_unhashed(&self, repository: &str, bytes: Bytes) -> Image {
        let layer = Layer { digest: Digest::of(b"the layer"), bytes };
        self.push_layers(repository, TAG, vec![layer], 0)
    }

    /// Drops the layers of an image.
    pub(crate) fn forget(&self, image: &Image) {
        let mut all = self.0.lock().unwrap();
        image.layers.iter().for_each(|layer| drop(all.remove(&image.blob_path(&layer.digest))));
    }
}

impl Content for Images {
    fn find(&self, path: &str) -> Option<Found> {
        self.0.lock().unwrap().get(path).cloned()
    }
}

fn layer(len: usize, seed: u64) -> Layer {
    let bytes = Bytes::noise(len, seed);
    Layer { digest: Digest::of(&bytes.read(0..len)), bytes }
}
