//! Reading a blob of which parts are kept: what is missing is fetched and kept first; what cannot be kept is read past
//! them.

use std::ops::Range;

use bytes::Bytes;

use super::fetch::Reserved;
use super::partial::Partial;
use crate::pull::blob::past_the_disk::passthrough::Passthrough;
use crate::pull::blob::source::BlobSource;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::Digest;

/// Times that a part is fetched because it cannot be read back: a disk that damages what was just written is not to be
/// trusted further.
const READS_MAX: u32 = 3;

/// What one look brought.
pub(crate) enum PartRead {
    /// The next bytes.
    Kept(Bytes),
    /// The rest of the range, which comes from upstream and is not kept.
    Past(Box<Passthrough>),
}

/// The next bytes of `range`.
///
/// # Errors
/// Upstream cannot be asked for what cannot be kept.
pub(crate) async fn read_part(
    source: &BlobSource,
    context: &PullContext,
    digest: Digest,
    partial: &Partial,
    range: Range<u64>,
) -> Result<PartRead, Error> {
    let (Range { start, end }, size) = (range, Some(partial.size));
    for _ in 0..READS_MAX {
        if let Some(bytes) = partial.parts.blob().read(start, end).await {
            return Ok(PartRead::Kept(bytes));
        }
        let mut coming = match partial.parts.reserve(start, end) {
            Reserved::Coming(coming) => coming,
            Reserved::New(part) => {
                let (source, context) = (source.clone(), context.after_the_answer());
                let (from, until) = (part.start(), part.end());
                part.receive(async move {
                    let body = source.open(&context, digest, from, Some(until)).await?;
                    if body.is_of_blob(size) { Ok(body) } else { Err(body.encoded()) }
                })
            }
            Reserved::Kept => continue,
            Reserved::Full => break,
        };
        if !coming.has_reached(start).await {
            break;
        }
    }
    let body = source.open(context, digest, start, Some(end)).await?;
    if !body.is_of_blob(size) {
        return Err(body.encoded());
    }
    Ok(PartRead::Past(Box::new(Passthrough::range(body))))
}
