//! The names of arch aliases, and the documents between them: pure.

use bytes::Bytes;
use serde_json::json;

use crate::pull::answer::ManifestAnswer;
use crate::reference::{Child, Digest, Document, Kind, MediaType, Platform, Repository};

/// An image of one architecture that a synthesized index lists.
pub(crate) struct Entry {
    pub(crate) repository: Repository,
    pub(crate) arch: String,
    pub(crate) answer: ManifestAnswer,
}

/// `app-arm64` for `app` and `arm64`; `None` if that is no name.
pub(crate) fn with_arch(repository: &Repository, arch: &str) -> Option<Repository> {
    let path = format!("{}-{arch}", repository.path()).parse().ok()?;
    Repository::new(repository.registry().clone(), path).ok()
}

/// `app` and `arm64` for `app-arm64`, where `arm64` is among the architectures.
pub(crate) fn without_arch(repository: &Repository, archs: &[String]) -> Option<(Repository, String)> {
    let path = repository.path().as_str();
    archs.iter().find_map(|arch| {
        let base = path.strip_suffix(arch.as_str())?.strip_suffix('-')?;
        let base = Repository::new(repository.registry().clone(), base.parse().ok()?).ok()?;
        Some((base, arch.clone()))
    })
}

/// The other names of a repository: `app` for `app-arm64`, or `app-amd64`, `app-arm64` and so on for `app`.
pub(crate) fn aliases(repository: &Repository, archs: &[String]) -> Vec<Repository> {
    match without_arch(repository, archs) {
        Some((base, _)) => vec![base],
        None => archs.iter().filter_map(|arch| with_arch(repository, arch)).collect(),
    }
}

/// The entry of an index for an architecture, as containerd would choose it, and for no other architecture.
pub(crate) fn entry_for(index: &ManifestAnswer, arch: &str) -> Option<Digest> {
    let document = Document::parse(&index.bytes, Some(&index.media_type)).ok()?;
    let Kind::Index(children) = document.kind else { return None };
    let wanted = Platform::new("linux", arch, None);
    let order = wanted.choose(children.iter().map(|child| child.platform.as_ref()));
    let fits =
        |child: &&Child| child.platform.as_ref().is_some_and(|platform| platform.arch() == wanted.arch());
    order.into_iter().filter_map(|at| children.get(at)).find(fits).map(|child| child.digest)
}

/// The index of these entries: always the same bytes for the same entries. `None` without entries.
pub(crate) fn synthesized_index(entries: &[Entry]) -> Option<(Bytes, MediaType)> {
    if entries.is_empty() {
        return None;
    }
    let docker = |entry: &Entry| entry.answer.media_type.as_str() == MediaType::DOCKER_MANIFEST;
    let media_type = if entries.iter().all(docker) { MediaType::DOCKER_LIST } else { MediaType::OCI_INDEX };
    let manifests: Vec<_> = entries
        .iter()
        .map(|entry| {
            json!({
                "mediaType": entry.answer.media_type.as_str(),
                "digest": entry.answer.digest.to_string(),
                "size": entry.answer.bytes.len(),
                "platform": {"os": "linux", "architecture": entry.arch},
            })
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    Some((index.to_string().into(), media_type.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::answer::AnswerSource;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    #[test]
    fn a_name_and_its_aliases_lead_to_each_other() {
        let archs = ["amd64".to_owned(), "arm64".to_owned()];
        let (app, arm) = (repository("reg.test/team/app"), repository("reg.test/team/app-arm64"));
        assert_eq!(aliases(&app, &archs), [repository("reg.test/team/app-amd64"), arm.clone()]);
        assert_eq!(aliases(&arm, &archs), std::slice::from_ref(&app));
        assert_eq!(without_arch(&arm, &archs), Some((app.clone(), "arm64".to_owned())));
        for name in ["reg.test/team/app-s390x", "reg.test/team/apparm64", "reg.test/arm64"] {
            assert_eq!(without_arch(&repository(name), &archs), None, "{name}");
        }
        assert!(aliases(&app, &[]).is_empty());
    }

    #[test]
    fn the_same_entries_make_the_same_index_and_each_is_found_in_it() {
        let entry = |arch: &str| Entry {
            repository: repository("reg.test/app"),
            arch: arch.to_owned(),
            answer: ManifestAnswer {
                digest: Digest::of(arch.as_bytes()),
                media_type: MediaType::OCI_MANIFEST.parse().unwrap(),
                bytes: Bytes::from_static(b"{}"),
                source: AnswerSource::Hit,
                stale: None,
            },
        };
        let entries = [entry("amd64"), entry("arm64")];
        let (bytes, media_type) = synthesized_index(&entries).unwrap();
        assert_eq!(synthesized_index(&entries).unwrap().0, bytes);
        let index =
            ManifestAnswer { digest: Digest::of(&bytes), media_type, bytes, ..entries[0].answer.clone() };
        assert_eq!(entry_for(&index, "arm64"), Some(entries[1].answer.digest));
        assert_eq!(entry_for(&index, "s390x"), None);
        assert!(synthesized_index(&[]).is_none());
    }
}
