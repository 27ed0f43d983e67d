//! The older habit of one image an architecture: `kube-proxy-arm64:v1` beside, or instead of, `kube-proxy:v1`.
//!
//! Where `arch_suffix` names architectures for a registry, a name that upstream does not show to the caller is answered
//! from its other form: `app-arm64:v1` from the arm64 entry of the index `app:v1`, and `app:v1` as an index composed of
//! `app-amd64:v1`, `app-arm64:v1` and so on, in the order of the configuration.
//!
//! Promises: what upstream does have is never answered otherwise, and no index that exists is changed; every repository
//! that is read is read with a right of the caller to that repository, and to each of them for an index composed of
//! several; the same parts make the same bytes.
//! What is remembered of all this is in [`crate::pull::arch_alias::records`].

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;

use crate::pull::access::authorize::Caller;
use crate::pull::error::{Error, Fault};
use crate::pull::manifest::fetch::ManifestAnswer;
use crate::pull::{AnswerSource, BlobAnswer, BlobRange, ManifestUse, Puller, Stale};
use crate::reference::{Digest, Document, Kind, MediaType, Platform, Reference, Repository, Tag};
use crate::store::SynthesizedIndex;

/// One image of an index that is composed.
struct Part {
    repository: Repository,
    arch: String,
    answer: ManifestAnswer,
}

impl Puller {
    /// A manifest of the other form of a name; `said` is what there was to say about the name itself.
    pub(crate) async fn manifest_by_suffix(
        &self,
        repository: &Repository,
        reference: &Reference,
        caller: &Caller,
        step: ManifestUse,
        said: Error,
    ) -> Result<ManifestAnswer, Error> {
        let others = self.other_forms(repository);
        if others.is_empty() {
            return Err(said);
        }
        match reference {
            Reference::Tag(tag) => {
                if !self.0.forms.is_absent(repository, tag, &said).await {
                    return Err(said);
                }
                let answer = match self.split(repository) {
                    Some((base, arch)) => self.entry_of(&base, &arch, tag, caller, said).await,
                    None => self.compose(repository, tag, caller, said).await,
                }?;
                self.0.forms.answered(repository, tag).await;
                Ok(answer)
            }
            Reference::Digest(digest) => {
                for other in self.likely_first(repository, others) {
                    let reference = (*digest).into();
                    let answer = Box::pin(self.manifest_of(&other, &reference, caller, step)).await;
                    if let Ok(answer) = answer {
                        self.0.forms.came_from(repository, other);
                        return Ok(answer);
                    }
                }
                Err(said)
            }
        }
    }

    /// What can be answered about a digest without asking for it under this name: an index of ours, or what another
    /// form of the name holds.
    pub(crate) async fn stands_in(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        step: ManifestUse,
    ) -> Option<ManifestAnswer> {
        if self.other_forms(repository).is_empty() {
            return None;
        }
        let index = self.0.forms.composed(repository, digest).await;
        if let Some(SynthesizedIndex { bytes, media_type, images }) = index {
            let asked = images.iter().map(|(part, digest)| async move {
                let reference = (*digest).into();
                Box::pin(self.manifest_of(part, &reference, caller, ManifestUse::Resolve)).await.is_ok()
            });
            let all = join_all(asked).await.into_iter().all(|may| may);
            return all.then_some(ManifestAnswer {
                digest,
                media_type,
                bytes,
                source: AnswerSource::Hit,
                stale: None,
            });
        }
        let other = self.holder(repository, digest).await?;
        let answer = Box::pin(self.manifest_of(&other, &digest.into(), caller, step)).await.ok()?;
        self.0.forms.came_from(repository, other);
        Some(answer)
    }

    /// A blob from another form of a name; `said` is what there was to say about the name itself.
    pub(crate) async fn blob_by_suffix(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        wanted: BlobRange,
        said: Error,
    ) -> Result<BlobAnswer, Error> {
        for other in self.likely_first(repository, self.other_forms(repository)) {
            if let Ok(answer) = Box::pin(self.blob_of(&other, digest, caller, wanted)).await {
                return Ok(answer);
            }
        }
        Err(said)
    }

    /// The same for its size.
    pub(crate) async fn size_by_suffix(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        said: Error,
    ) -> Result<(Option<u64>, AnswerSource, Option<Stale>), Error> {
        for other in self.likely_first(repository, self.other_forms(repository)) {
            if let Ok(answer) = Box::pin(self.blob_size_of(&other, digest, caller)).await {
                return Ok(answer);
            }
        }
        Err(said)
    }

    /// Another form of a name that holds `digest`, where the name itself does not.
    pub(crate) async fn holder(&self, repository: &Repository, digest: Digest) -> Option<Repository> {
        let others = self.other_forms(repository);
        if others.is_empty() || self.membership(repository, digest).await.is_some() {
            return None;
        }
        for other in self.likely_first(repository, others) {
            if self.membership(&other, digest).await.is_some() {
                return Some(other);
            }
        }
        None
    }

    /// Whether an error leaves room for the other form of a name: upstream does not show it. Registries hide what they
    /// do not show, so that a refusal may mean that there is nothing.
    pub(crate) fn leaves_room(error: &Error) -> bool {
        matches!(error.fault(), Fault::NotFound | Fault::Refused(_) | Fault::Unidentified | Fault::Outage)
    }

    /// The entry for `arch` of the index that `base` has under a tag.
    async fn entry_of(
        &self,
        base: &Repository,
        arch: &str,
        tag: &Tag,
        caller: &Caller,
        said: Error,
    ) -> Result<ManifestAnswer, Error> {
        let Ok(index) = Box::pin(self.manifest_by_tag(base, tag, caller)).await else { return Err(said) };
        let Some(digest) = chosen(&index, arch) else { return Err(said) };
        let entry = Box::pin(self.manifest_of(base, &digest.into(), caller, ManifestUse::Resolve)).await?;
        // What is known of the tag is known of its entry, no more.
        Ok(match index.stale {
            Some(Stale { confirmed_at, error }) => entry.stale(confirmed_at, error),
            None => entry,
        })
    }

    /// An index of the images that are there under a name with suffixes.
    async fn compose(
        &self,
        repository: &Repository,
        tag: &Tag,
        caller: &Caller,
        said: Error,
    ) -> Result<ManifestAnswer, Error> {
        let forms =
            self.archs(repository).iter().filter_map(|arch| Some((suffixed(repository, arch)?, arch)));
        let asked = forms.map(|(form, arch)| async move {
            let answer = match Box::pin(self.manifest_by_tag(&form, tag, caller)).await {
                Ok(answer) => Some(answer),
                Err(error) if self.0.forms.is_absent(&form, tag, &error).await => None,
                // An index that lacks what only cannot be asked for now would be another index.
                Err(error) => return Err(error),
            };
            Ok((form, arch, answer))
        });
        let asked = join_all(asked).await.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let (mut parts, mut absent) = (Vec::new(), Vec::new());
        for (repository, arch, answer) in asked {
            match answer {
                Some(answer) if answer.media_type.is_image() => {
                    parts.push(Part { repository, arch: arch.clone(), answer });
                }
                Some(_) => {}
                None => absent.push(repository),
            }
        }
        let Some((bytes, media_type)) = index_of(&parts).filter(|_| !parts.is_empty()) else {
            return Err(said);
        };
        let stale = parts.iter().find_map(|part| part.answer.stale.clone());
        let source = if stale.is_some() { AnswerSource::Stale } else { AnswerSource::Revalidated };
        for form in absent {
            self.0.forms.answered(&form, tag).await;
        }
        let images = parts.into_iter().map(|part| (part.repository, part.answer.digest)).collect();
        let composed = SynthesizedIndex { bytes: bytes.clone(), media_type: media_type.clone(), images };
        let digest = self.0.forms.compose(repository, composed).await;
        Ok(ManifestAnswer { digest, media_type, bytes, source, stale })
    }

    fn archs(&self, repository: &Repository) -> &[String] {
        self.0.config.arch_suffixes.get(repository.registry()).map_or(&[], Vec::as_slice)
    }

    /// A name without its suffix, and the suffix.
    fn split(&self, repository: &Repository) -> Option<(Repository, String)> {
        let path = repository.path().as_str();
        self.archs(repository).iter().find_map(|arch| {
            let base = path.strip_suffix(arch.as_str())?.strip_suffix('-')?;
            let base = Repository::new(repository.registry().clone(), base.parse().ok()?).ok()?;
            Some((base, arch.clone()))
        })
    }

    /// The other forms of a name; none where the registry has no such rule.
    fn other_forms(&self, repository: &Repository) -> Vec<Repository> {
        match self.split(repository) {
            Some((base, _)) => vec![base],
            None => self.archs(repository).iter().filter_map(|arch| suffixed(repository, arch)).collect(),
        }
    }

    fn likely_first(&self, repository: &Repository, mut others: Vec<Repository>) -> Vec<Repository> {
        let last = self.0.forms.last(repository);
        others.sort_by_key(|other| Some(other) != last.as_ref());
        others
    }
}

fn suffixed(repository: &Repository, arch: &str) -> Option<Repository> {
    let path = format!("{}-{arch}", repository.path()).parse().ok()?;
    Repository::new(repository.registry().clone(), path).ok()
}

/// The entry of an index for an architecture, as containerd would choose it, and for no other architecture.
fn chosen(index: &ManifestAnswer, arch: &str) -> Option<Digest> {
    let document = Document::parse(&index.bytes, Some(&index.media_type)).ok()?;
    let Kind::Index(children) = document.kind else { return None };
    let wanted = Platform::new("linux", arch, None);
    let order = wanted.choose(children.iter().map(|child| child.platform.as_ref()));
    let fits = |child: &&crate::reference::Child| {
        child.platform.as_ref().is_some_and(|platform| platform.arch() == wanted.arch())
    };
    order.into_iter().filter_map(|at| children.get(at)).find(fits).map(|child| child.digest)
}

/// The index of these parts: always the same bytes for the same parts.
fn index_of(parts: &[Part]) -> Option<(Bytes, MediaType)> {
    let docker = |part: &Part| part.answer.media_type.as_str() == MediaType::DOCKER_MANIFEST;
    let media_type = if parts.iter().all(docker) { MediaType::DOCKER_LIST } else { MediaType::OCI_INDEX };
    let manifests: Vec<_> = parts
        .iter()
        .map(|part| {
            json!({
                "mediaType": part.answer.media_type.as_str(),
                "digest": part.answer.digest.to_string(),
                "size": part.answer.bytes.len(),
                "platform": {"os": "linux", "architecture": part.arch},
            })
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    Some((index.to_string().into(), media_type.parse().ok()?))
}
