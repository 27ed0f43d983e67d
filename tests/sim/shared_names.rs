//! Records about names in the bucket of the shared tier, as another node of the cluster writes them; and as one writes them
//! who should not be believed.

use std::path::{Path, PathBuf};

use larder::credentials::ClusterKey;
use larder::reference::Digest;
use serde_json::{Value, json};

use crate::bucket::ROOT;
use crate::catalog::catalog;
use crate::plan::{NameKind, Repo};
use crate::s3::Bucket;

/// The cluster's key, and one of another cluster.
pub(crate) struct Keys {
    own: ClusterKey,
    other: ClusterKey,
}

/// Bytes of the key files, which are the cluster's and another's.
const CONTENTS: [[u8; 32]; 2] = [[0xc1; 32], [0xc2; 32]];
const DAY: u64 = 86_400;

impl Keys {
    /// The files that are to be written before the keys are read.
    pub(crate) fn files(own: &Path) -> [(PathBuf, [u8; 32]); 2] {
        let [first, second] = CONTENTS;
        [(own.to_owned(), first), (own.with_extension("other"), second)]
    }

    pub(crate) fn read(own: &Path) -> Self {
        let read = |path: &Path| ClusterKey::read(path).unwrap();
        Self { own: read(own), other: read(&own.with_extension("other")) }
    }

    /// Writes what another node has learned of the first version of an image, or what looks like that. `now` are the seconds
    /// of that node's clock.
    pub(crate) fn write(&self, bucket: &Bucket, repo: Repo, how: NameKind, now: u64) {
        let at = match how {
            NameKind::Old => now.saturating_sub(40 * DAY),
            NameKind::Future => now + DAY,
            NameKind::Right | NameKind::OtherKey | NameKind::Moved | NameKind::Closed => now,
        };
        for (parts, fact) in facts(repo, how) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let name = self.own.name(&parts);
            let key = format!("{ROOT}/names/{}/{name}", &name[..2]);
            let plain = json!({"at": at, "fact": fact}).to_string();
            let sealed = match how {
                NameKind::OtherKey => self.other.seal(&parts, plain.as_bytes()),
                // A right record of a public repository, in the place of this one's.
                NameKind::Moved => {
                    let open = Repo::Open.name();
                    let of_open: Vec<&str> =
                        parts.iter().map(|part| if *part == repo.name() { &open } else { *part }).collect();
                    self.own.seal(&of_open, plain.as_bytes())
                }
                _ => self.own.seal(&parts, plain.as_bytes()),
            };
            bucket.put(&key, sealed.unwrap());
        }
    }
}

/// Everything that nodes share of an image: where it is found, and what is said.
fn facts(repo: Repo, how: NameKind) -> Vec<(Vec<String>, Value)> {
    let image = catalog().image(repo, 0);
    let parts = |kind: &str, about: &str| vec![kind.to_owned(), repo.name(), about.to_owned()];
    if how == NameKind::Closed {
        let closed = json!({"closed": true});
        return vec![(parts("closed", ""), closed.clone()), (parts("public", ""), closed)];
    }
    let mut all = vec![
        (parts("public", ""), json!({})),
        (parts("tag", "v1"), json!({"digest": image.top.to_string()})),
    ];
    let member = |digest: Digest| {
        let media_type =
            catalog().content.get(&digest.to_string()).and_then(|content| content.media_type.clone());
        (parts("member", &digest.to_string()), json!({"manifest_type": media_type}))
    };
    let others = [image.top, image.manifest, image.config];
    all.extend(others.into_iter().chain(image.layers.iter().copied()).map(member));
    all
}
