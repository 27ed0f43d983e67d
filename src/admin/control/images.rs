//! The list of images as a JSON array, sent while it is read: a batch of rows at a time is in memory.

use std::ops::ControlFlow;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use tokio::sync::mpsc;

use super::commands::ImageRow;
use crate::admin::respond::body_of;
use crate::listener::{Body, BodyError};
use crate::store::{CachedImage, Store};
use crate::support::body_chunk::BodyChunk;
use crate::support::tasks::Tasks;

/// Batches of rows that may wait to be sent: about a megabyte each.
const BATCHES_MAX: usize = 2;

/// Every name, and what is pinned by its digest alone. A client that hangs up ends the listing; a listing that fails
/// ends the answer before its last bracket.
pub(super) fn list(store: Store, tasks: &Tasks) -> Response<Body> {
    let (sender, chunks) = mpsc::channel::<Result<Bytes, BodyError>>(BATCHES_MAX);
    tasks.spawn(async move {
        let (rows, mut array) = (sender.clone(), Array::default());
        let send_rows = move |batch: Vec<CachedImage>| {
            let written = array.rows(batch);
            let is_wrong = written.is_err();
            match rows.blocking_send(written) {
                Ok(()) if !is_wrong => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        };
        let last = store.list_images(send_rows).await;
        let last = last.map(|()| Bytes::from_static(b"]")).map_err(BodyError::from);
        let _ = sender.send(last).await;
    });
    let chunks = stream::unfold(chunks, |mut chunks: mpsc::Receiver<Result<Bytes, BodyError>>| async {
        let bytes = chunks.recv().await?;
        Some((bytes.map(BodyChunk::from), chunks))
    });
    body_of("application/json", Body::stream(chunks))
}

/// A JSON array that is written in pieces, all but its last bracket.
#[derive(Default)]
struct Array {
    is_begun: bool,
    has_rows: bool,
}

impl Array {
    /// The next rows.
    fn rows(&mut self, batch: Vec<CachedImage>) -> Result<Bytes, BodyError> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            out.push(b'[');
        }
        for cached in batch {
            if std::mem::replace(&mut self.has_rows, true) {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, &row(cached))?;
        }
        Ok(out.into())
    }
}

fn row(cached: CachedImage) -> ImageRow {
    ImageRow {
        image: cached.image.to_string(),
        digest: cached.digest.to_string(),
        confirmed_at: cached.confirmed_at,
        bytes: cached.bytes,
        platforms: cached.platforms,
        pinned: cached.pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Digest;

    #[test]
    fn the_pieces_are_one_list_also_where_nothing_of_a_batch_can_be_read() {
        let image = |name: &str| CachedImage {
            image: name.parse().unwrap(),
            digest: Digest::of(b"x"),
            confirmed_at: None,
            bytes: 1,
            platforms: Vec::new(),
            pinned: false,
        };
        for batches in
            [vec![], vec![vec!["a", "b"]], vec![vec![], vec!["a"]], vec![vec!["a"], vec![], vec!["b"]]]
        {
            let expected: Vec<String> = batches.iter().flatten().map(|name| row(image(name)).image).collect();
            let mut array = Array::default();
            let mut text = Vec::new();
            for batch in batches {
                text.extend(array.rows(batch.into_iter().map(image).collect()).unwrap());
            }
            // The batch of what is pinned by digest is always there.
            text.extend(array.rows(Vec::new()).unwrap());
            text.push(b']');
            let rows: Vec<ImageRow> = serde_json::from_slice(&text).unwrap();
            assert_eq!(rows.into_iter().map(|row| row.image).collect::<Vec<_>>(), expected);
        }
    }
}
