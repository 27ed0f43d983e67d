//! Who may have what: the place where every answer from the store is justified.
//!
//! In this version every caller is anonymous, and what upstream gives to an anonymous caller it gives to all. The
//! question that remains is *membership*: may this repository hand out this digest? Yes, if its own upstream
//! delivered it; or if its registry once delivered it under another name and now confirms it under this one. **That a
//! manifest names a digest proves nothing**, and a confirmation by a registry that never delivered the bytes itself
//! proves nothing either: anybody can run a registry that confirms everything.
//!
//! Credentials, grants and challenges will be judged here, before membership.

use super::error::Error;
use crate::coalesce::Coalesce;
use crate::reference::{Digest, Repository};
use crate::store::{Member, Store};
use crate::upstream::Upstream;

/// Confirmations under way.
pub(super) type Confirmations = Coalesce<(Repository, Digest), Result<(), Error>>;

/// Whether `repository` may hand out the bytes of `digest` that are in the store.
pub(super) async fn may_hand_out(store: &Store, repository: &Repository, digest: Digest) -> Option<Member> {
    let member = store.member(repository, digest).await?;
    store.received_from(repository.registry(), digest).await.then_some(member)
}

/// Asks upstream whether `repository` has `digest`, and remembers a yes. The caller makes sure that the bytes come,
/// or came, from the same registry.
pub(super) async fn confirm(
    confirmations: &Confirmations,
    store: &Store,
    upstream: &Upstream,
    repository: &Repository,
    digest: Digest,
) -> Result<(), Error> {
    let (store, upstream, repository) = (store.clone(), upstream.clone(), repository.clone());
    let ask = {
        let repository = repository.clone();
        || async move {
            upstream.confirm_blob(&repository, digest).await?;
            if let Err(error) = store.add_member(&repository, digest, Member::Blob).await {
                tracing::warn!(%repository, %digest, %error, "a confirmed blob could not be remembered");
            }
            Ok(())
        }
    };
    confirmations.run((repository, digest), ask).await.unwrap_or(Err(Error::Abandoned))
}
