//! Scopes of tokens (distribution, "Token Scope Documentation"): for pulling, and from which repository. Pure.
//!
//! An endpoint may know a repository by a longer name than Larder: under a path prefix (`https://mirror.corp/v2/hub`),
//! after a redirect, or where a proxy puts a prefix before the name. That name ends with the repository's path. Token
//! servers that are strict (GHCR, Google, Harbor) refuse a request that names any repository but that one.

use url::Url;

use crate::reference::Repository;

/// The scope of pulling from the repository that has this name at its registry.
pub(crate) fn pull(name: &str) -> String {
    format!("repository:{name}:pull")
}

/// What a registry puts before the path of `repository` in a scope that is for pulling from it and for nothing else;
/// `None` for any other scope.
pub(crate) fn prefix<'s>(scope: &'s str, repository: &Repository) -> Option<&'s str> {
    let name = scope.strip_prefix("repository:")?.strip_suffix(":pull")?;
    // Several scopes.
    if name.contains(' ') {
        return None;
    }
    prefix_of_name(name, repository)
}

/// What of `url`, which is that of a resource of `repository`, precedes the path of the repository: `/v2/`, `/v2/hub/`.
/// `None` where the URL is another one, such as that of an object store.
pub(crate) fn base<'u>(url: &'u Url, repository: &Repository) -> Option<&'u str> {
    // After the name: `manifests/…`, `blobs/…`, `referrers/…` or `tags/list`.
    let (rest, _reference) = url.path().rsplit_once('/')?;
    let (rest, _kind) = rest.rsplit_once('/')?;
    prefix_of_name(rest, repository)
}

/// The name that `repository` has at `url`, where something of it was asked for; its path where the URL is another one.
pub(crate) fn name_at(url: &Url, repository: &Repository) -> String {
    let base = base(url, repository).unwrap_or_default();
    let (_, prefix) = base.split_once("/v2/").unwrap_or_default();
    format!("{prefix}{}", repository.path())
}

fn prefix_of_name<'n>(name: &'n str, repository: &Repository) -> Option<&'n str> {
    let prefix = name.strip_suffix(repository.path().as_str())?;
    (prefix.is_empty() || prefix.ends_with('/')).then_some(prefix)
}
