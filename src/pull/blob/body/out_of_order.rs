//! A range far ahead of a download, asked for by itself; what comes is kept for the fill, unless that is led for a
//! caller who has no right to what another one's question brings.

use bytes::Bytes;
use tokio::sync::watch;

use super::reader::Reader;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::error::Error;
use crate::reference::Digest;

/// Upstream's body from byte `at` on; `None` from a registry that does not answer ranges, which would send everything
/// before it too, or that does not answer now.
pub(super) async fn open_far_ahead(reader: &Reader, at: u64) -> Option<SourceBody> {
    let digest = reader.digest;
    match reader.source_from(at).await {
        Ok(body) if body.is_ranged() => {
            tracing::debug!(%digest, at, "a range far ahead is asked for by itself");
            Some(body)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%digest, at, %error, "a range cannot be asked for by itself");
            None
        }
    }
}

/// The next bytes, from `at` on, or an empty piece, as upstream may send it. They are kept for the fill if they came by
/// the leader's own question (`is_leaders`) or the registry vouched for the leader. `None` once the fill has come up to
/// it.
///
/// # Errors
/// Upstream.
pub(crate) async fn next_out_of_order(
    digest: Digest,
    body: &mut SourceBody,
    progress: &watch::Receiver<Progress>,
    at: u64,
    is_leaders: bool,
) -> Result<Option<Bytes>, Error> {
    let (caught_up, growing) = match &*progress.borrow() {
        Progress::Filling { readable, growing, vouched, .. } => {
            (*readable > at, Some(growing.clone()).filter(|_| is_leaders || vouched.is_some()))
        }
        other => (matches!(other, Progress::Complete { .. }), None),
    };
    if caught_up {
        return Ok(None);
    }
    let bytes = body.next().await.ok_or(Error::ShortBody { missing: body.missing() })??;
    if let Some(growing) = growing
        && !bytes.is_empty()
        && let Err(error) = growing.write_out_of_order(at, bytes.clone()).await
    {
        tracing::debug!(%digest, at, %error, "bytes fetched out of order are not kept");
    }
    Ok(Some(bytes))
}
