//! Filling a flight: upstream's body into the store, the watermark published as it grows.
//!
//! Runs on a task of its own and is nobody's client's business: it goes on when they leave. Receiving is async;
//! writing and hashing happen on one blocking thread behind a short queue, so that neither waits for the other. A
//! body that breaks off is resumed where it stopped. The tail of the blob is withheld from readers until the digest
//! is verified; durability is waited for by nobody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Puller;
use super::authorise::{Caller, Purpose};
use super::error::Error;
use super::flight::{Lead, Progress};
use super::grants::Subject;
use super::rights::Use;
use crate::reference::{Digest, Repository};
use crate::store::{self, Ingest, Member, Store, Verified};
use crate::upstream::{self, Asking, Download, Upstream, Yes};

/// Bytes withheld from readers until the digest is verified. A blob no larger is withheld whole, so that a wrong one
/// is an error and not a broken body.
pub(super) const TAIL: u64 = 64 * 1024;
/// Pieces between receiving and writing; a piece has at most 256 KiB.
const QUEUE: usize = 8;
/// Times in a row that a broken body is resumed without a single byte of progress.
const RESUMES_MAX: u32 = 3;
/// Before the first resume; then twice as long each time.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

enum Piece {
    Bytes(Bytes),
    /// The proper end; a queue that closes without it is a failure.
    End,
}

/// Fills the flight of `lead` to its end, whatever that is.
pub(super) async fn fill(lead: Lead, puller: Puller) {
    let lead = Arc::new(lead);
    let result = match receive(&lead, &puller).await {
        Ok(verified) => {
            land(&lead, verified, puller.0.store.clone()).await;
            "landed"
        }
        Err(error) => {
            let (repository, digest) = (&lead.flight().repository, lead.digest());
            if !matches!(error, Error::Unidentified(_)) {
                tracing::warn!(%repository, %digest, %error, "a download failed");
            }
            let reason = error.reason();
            lead.publish(Progress::Failed(error));
            reason
        }
    };
    puller.0.metrics.fills.with_label_values(&[result]).inc();
}

/// Tells the readers that everything is there, then makes it durable; the flight ends after that, so that whoever
/// comes later finds the blob.
async fn land(lead: &Arc<Lead>, verified: Verified, store: Store) {
    lead.publish_landed(verified.size());
    let (digest, repository) = (lead.digest(), lead.flight().repository.clone());
    let committed = spawn_blocking(move || store.commit(verified, &repository, &Member::Blob)).await;
    match committed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%digest, %error, "a blob was served but could not be stored"),
        Err(error) => tracing::error!(%digest, %error, "a blob was served but storing it panicked"),
    }
}

async fn receive(lead: &Arc<Lead>, puller: &Puller) -> Result<Verified, Error> {
    let mut source =
        Source::open(puller, lead.flight().repository.clone(), lead.digest(), &lead.flight().caller).await?;
    let size = source.download.size;
    let ingest = puller.0.store.begin(lead.digest(), size).await?;
    lead.publish(Progress::Filling { growing: ingest.growing(), size, readable: 0 });
    let (queue, pieces) = mpsc::channel(QUEUE);
    let writer = spawn_blocking({
        let lead = Arc::clone(lead);
        move || write(ingest, pieces, size, &lead)
    });
    let received = source.pump(queue).await;
    match (received, writer.await) {
        (_, Err(_panicked)) => Err(Error::Abandoned),
        (_, Ok(Err(error))) => Err(error.into()),
        (Err(error), Ok(Ok(_))) => Err(error.into()),
        (Ok(()), Ok(Ok(verified))) => verified.ok_or(Error::Abandoned),
    }
}

/// The blocking side: write, publish, hash. `None` if the queue closed without the end.
fn write(
    mut ingest: Ingest,
    mut pieces: mpsc::Receiver<Piece>,
    size: Option<u64>,
    lead: &Lead,
) -> Result<Option<Verified>, store::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        let Piece::Bytes(bytes) = piece else {
            return ingest.verify().map(Some);
        };
        let written = ingest.write(&bytes)?;
        lead.publish_readable(readable(written, size));
        ingest.hash(&bytes);
    }
    Ok(None)
}

/// How many bytes may be handed out when `written` of `size` are there and none is verified.
fn readable(written: u64, size: Option<u64>) -> u64 {
    match size {
        Some(size) => written.min(size.saturating_sub(TAIL)),
        // Each byte may be the last but 64 KiB.
        None => written.saturating_sub(TAIL),
    }
}

/// A body from upstream that survives being broken off.
struct Source<'a> {
    upstream: &'a Upstream,
    repository: Repository,
    digest: Digest,
    /// As whom it was asked for, and is again.
    asking: Asking,
    download: Download,
    received: u64,
}

impl<'a> Source<'a> {
    /// Asks for the body on behalf of `caller`; upstream's yes is the proof of the right to it.
    async fn open(
        puller: &'a Puller,
        repository: Repository,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Self, Error> {
        let upstream = &puller.0.upstream;
        let purpose =
            puller.right(&repository, caller, Use::Read).await.map_or(Purpose::Prove, Purpose::Deliver);
        let question = |asking: Asking| {
            let repository = &repository;
            async move {
                let download = upstream.download(repository, digest, 0, &asking).await?;
                let to_anybody = download.to_anybody;
                Ok(Yes { value: download, to_anybody })
            }
        };
        let asked = puller.ask(&repository, caller, &Subject::Blob(digest), purpose, question).await;
        let (download, presented) = asked?;
        let asking = Asking { presented, proof: None };
        Ok(Self { upstream, repository, digest, asking, download, received: 0 })
    }

    /// Moves the whole body into `queue`.
    async fn pump(&mut self, queue: mpsc::Sender<Piece>) -> Result<(), upstream::Error> {
        let (mut resumes, mut progress) = (0, 0);
        loop {
            let error = match self.download.next().await {
                None => {
                    // The writer is gone only after an error of its own, which is the one that counts.
                    let _ = queue.send(Piece::End).await;
                    return Ok(());
                }
                Some(Ok(bytes)) => {
                    self.received += bytes.len() as u64;
                    if queue.send(Piece::Bytes(bytes)).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                Some(Err(error)) => error,
            };
            resumes = if self.received > progress { 0 } else { resumes + 1 };
            progress = self.received;
            if resumes >= RESUMES_MAX {
                return Err(error);
            }
            tracing::info!(digest = %self.digest, at = self.received, %error, "upstream broke off, resuming");
            tokio::time::sleep(RESUME_PAUSE * 2_u32.pow(resumes)).await;
            if let Err(again) = self.resume().await {
                tracing::info!(digest = %self.digest, %again, "resuming failed");
                return Err(error);
            }
        }
    }

    /// Asks for the rest. If upstream ignores the range, the bytes that we have are skipped; the digest decides in
    /// the end whether they were the same.
    async fn resume(&mut self) -> Result<(), upstream::Error> {
        let mut download =
            self.upstream.download(&self.repository, self.digest, self.received, &self.asking).await?;
        if let (Some(before), Some(now)) = (self.download.size, download.size)
            && before != now
        {
            let (host, why) =
                (self.repository.registry().to_string(), format!("a size of {now} after one of {before}"));
            return Err(upstream::Error::Invalid { host, why });
        }
        let mut skip = self.received - download.offset;
        while skip > 0 {
            match download.next().await {
                Some(Ok(bytes)) if bytes.len() as u64 <= skip => skip -= bytes.len() as u64,
                Some(Ok(bytes)) => {
                    download.put_back(bytes.slice(skip as usize..));
                    skip = 0;
                }
                Some(Err(error)) => return Err(error),
                None => {
                    let host = self.repository.registry().to_string();
                    return Err(upstream::Error::Invalid {
                        host,
                        why: "a shorter body than before".to_owned(),
                    });
                }
            }
        }
        self.download = download;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_never_readable_before_the_digest_is_verified() {
        for size in [0, 1, TAIL - 1, TAIL, TAIL + 1, 10 * TAIL] {
            for written in [0, 1, TAIL, size] {
                let written = written.min(size);
                assert!(readable(written, Some(size)) <= size.saturating_sub(TAIL));
                assert!(readable(written, None) <= written.saturating_sub(TAIL));
            }
        }
        assert_eq!(readable(9 * TAIL, Some(10 * TAIL)), 9 * TAIL);
    }
}
