//! The registry's own word that a caller may have a blob: without it the caller gets nothing that the credential of
//! another one brought.
//!
//! Downloads and kept parts are shared by all who may read a blob of a registry, whatever their repositories and
//! credentials. A mirror may serve any digest under any name, so that its delivery to a caller shows nothing of what
//! the registry would give it; nor does an answer of the registry that does not state the digest, to a caller whose
//! right is not fresh. Such a caller is given what was sent to it, and nothing else.

use super::source::BlobSource;
use super::source::body::SourceBody;
use crate::pull::access::CONFIRM_WAIT;
use crate::pull::context::PullContext;
use crate::reference::Digest;

/// A registry itself let a caller have a blob in a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vouched(());

impl BlobSource {
    /// The word that there is for the caller to whom `body` came, without a question: an authoritative endpoint
    /// delivered some of the body in this repository, or confirmed the blob for it before.
    pub(crate) async fn vouched(
        &self,
        context: &PullContext,
        digest: Digest,
        body: &SourceBody,
    ) -> Option<Vouched> {
        // A right that only the whole content proves is none yet.
        if body.unproved().is_some() {
            return None;
        }
        let repository = context.repository();
        let is_vouched = body.trail().is_proved_in(repository)
            || self.access().membership().is_confirmed(repository, digest).await;
        is_vouched.then_some(Vouched(()))
    }

    /// The same; the registry is asked where there is no word of it.
    pub(crate) async fn vouched_if_asked(
        &self,
        context: &PullContext,
        digest: Digest,
        body: &SourceBody,
    ) -> Option<Vouched> {
        if let Some(vouched) = self.vouched(context, digest, body).await {
            return Some(vouched);
        }
        let confirming = self.access().ask_for_blob(context, digest, body.size());
        match tokio::time::timeout(CONFIRM_WAIT, confirming).await {
            Ok(Ok(head)) => head.shows_blob_of(body.size()).then_some(Vouched(())),
            Ok(Err(error)) => {
                let repository = context.repository();
                tracing::debug!(%repository, %digest, %error, "the registry does not vouch for a caller to whom a blob comes");
                None
            }
            Err(_) => None,
        }
    }
}
