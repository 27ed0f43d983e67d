//! One page of a list, as the registry sends it: a small one whole, a large one as it comes.
//!
//! Promises: what is held of all pages together is bounded, and so is what is held of those of one owner of registries,
//! who may let them come slowly.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::reference::{MediaType, Registry};
use crate::support::byte_budget::{ByteBudget, Reservation};
use crate::upstream::download::Download;
use crate::upstream::error::{Error, NodeLimit};
use crate::upstream::headers::{content_length, header};
use crate::upstream::link;

/// Bytes of a page at most: a registry with a million tags and no paging sends about as much.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a page that are received before its answer begins: what breaks off by then is asked for at the next
/// endpoint.
const BEGINNING: usize = 256 * 1024;
/// Bytes of a page that are held without a reservation: few are larger, and the connections are bounded.
const PAGE_UNRESERVED_BYTES: usize = 16 * 1024;
/// Bytes that are held of larger pages of one owner of registries at most, and half of what is held of all.
const HELD_BYTES_OF_ONE_MAX: usize = 8 * 1024 * 1024;
/// The longest wait for that memory: less than a client waits.
const MEMORY_WAIT: Duration = Duration::from_secs(5);

/// One page of a list.
pub struct Page {
    /// `Content-Type`, where it was a media type.
    pub media_type: Option<MediaType>,
    /// The query of the next page, from `Link`.
    pub next: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters_applied: Option<String>,
    /// Bytes of the page, where that is known.
    pub size: Option<u64>,
    /// The JSON document as the registry sent it.
    pub body: PageBody,
}

/// The memory for what is held of pages, by the domains of those who own registries. Cheap to clone.
#[derive(Clone)]
pub(super) struct PageMemory(Arc<ByteBudget<String>>);

impl Default for PageMemory {
    fn default() -> Self {
        Self(Arc::new(ByteBudget::of_two_shares(HELD_BYTES_OF_ONE_MAX)))
    }
}

impl PageMemory {
    async fn memory_for(&self, owner: &String, host: &str, bytes: usize) -> Result<Reservation, Error> {
        let reserved = self.0.reserve_within(owner, bytes, MEMORY_WAIT).await;
        reserved.map_err(|_| Error::Overloaded {
            limit: NodeLimit::ListMemory,
            host: host.to_owned(),
            why: "the memory for lists is used up".to_owned(),
        })
    }
}

/// Who sends a page.
pub(super) struct Sender<'a> {
    pub(super) registry: &'a Registry,
    /// `host:port`.
    pub(super) host: String,
}

/// The bytes of a page.
pub struct PageBody {
    host: String,
    owner: String,
    memory: PageMemory,
    beginning: Option<Bytes>,
    rest: Option<Download>,
    received: u64,
}

impl Page {
    /// The page that `sender` sends with these headers: all of a small one, or the beginning.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a page of more than 64 MiB or a link that no client could follow; [`Error::Overloaded`]
    /// where there is no memory for it; what the body fails with.
    pub(super) async fn begin(
        headers: &HeaderMap,
        sender: Sender<'_>,
        mut body: Download,
        memory: PageMemory,
    ) -> Result<Self, Error> {
        let Sender { registry, host } = sender;
        let owner = registry.owner_domain();
        let invalid = |why: &str| Error::Invalid { host: host.clone(), why: why.to_owned() };
        let next = link::next_query(headers);
        let next = next.map_err(|error| invalid(&error.to_string()))?;
        let declared = content_length(headers);
        if declared.is_some_and(|size| size > PAGE_BYTES_MAX) {
            return Err(invalid("a list of more than 64 MiB"));
        }
        let (mut beginning, mut rest, mut reserved) = (BytesMut::new(), None, None);
        while let Some(chunk) = body.next().await {
            beginning.extend_from_slice(&chunk?);
            if beginning.len() > PAGE_UNRESERVED_BYTES && reserved.is_none() {
                reserved = Some(memory.memory_for(&owner, &host, BEGINNING).await?);
            }
            if beginning.len() >= BEGINNING {
                rest = Some(body);
                break;
            }
        }
        let received = beginning.len() as u64;
        let size = if rest.is_some() { declared } else { Some(received) };
        let media_type = header(headers, "content-type").and_then(|text| text.parse().ok());
        let filters_applied = header(headers, "oci-filters-applied").map(str::to_owned);
        let beginning = match reserved {
            Some(reserved) => reserved.hold(beginning.freeze()),
            None => beginning.freeze(),
        };
        let body = PageBody { host, owner, memory, beginning: Some(beginning), rest, received };
        Ok(Self { media_type, next, filters_applied, size, body })
    }

    /// A page that is here as a whole.
    #[cfg(test)]
    pub(crate) fn whole(bytes: &'static [u8]) -> Self {
        let (beginning, size) = (Some(Bytes::from_static(bytes)), Some(bytes.len() as u64));
        let (host, owner, memory) = (String::new(), String::new(), PageMemory::default());
        let body = PageBody { host, owner, memory, beginning, rest: None, received: 0 };
        Self { media_type: None, next: None, filters_applied: None, size, body }
    }
}

impl PageBody {
    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// The body stalls, breaks off, or is longer than 64 MiB.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Some(beginning) = self.beginning.take() {
            return Some(Ok(beginning));
        }
        let bytes = match self.rest.as_mut()?.next().await? {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error)),
        };
        self.received += bytes.len() as u64;
        if self.received > PAGE_BYTES_MAX {
            let why = "a list of more than 64 MiB".to_owned();
            return Some(Err(Error::Invalid { host: self.host.clone(), why }));
        }
        Some(Ok(bytes))
    }

    /// All bytes, if they are no more than `bytes_max`.
    ///
    /// # Errors
    /// As [`PageBody::next`]; [`Error::Invalid`] for a longer page; [`Error::Overloaded`] where there is no memory for
    /// it.
    pub async fn whole(mut self, bytes_max: usize) -> Result<Bytes, Error> {
        let mut reserved = self.memory.memory_for(&self.owner, &self.host, bytes_max).await?;
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await {
            whole.extend_from_slice(&bytes?);
            if whole.len() > bytes_max {
                let why = format!("a list of unknown length and more than {bytes_max} bytes");
                return Err(Error::Invalid { host: self.host, why });
            }
        }
        reserved.shrink(whole.len());
        Ok(reserved.hold(whole.freeze()))
    }
}

impl std::fmt::Debug for PageBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageBody").field("received", &self.received).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{Stream, StreamExt, stream};
    use http::header::CONTENT_LENGTH;

    use super::*;
    use crate::upstream::endpoint::select::EndpointId;
    use crate::upstream::proved_right::ProvedRight;

    fn download(body: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static) -> Download {
        Download::new(None, 0, ProvedRight::Nothing, EndpointId::for_test("registry"), body)
    }

    #[tokio::test]
    async fn a_page_of_more_than_64_mib_is_refused_whether_it_was_declared_or_not() {
        let body = || {
            let chunk = Bytes::from_static(&[b' '; 1024 * 1024]);
            download(stream::repeat(Ok(chunk)).take(65))
        };
        let declared = [(CONTENT_LENGTH, (PAGE_BYTES_MAX + 1).into())].into_iter().collect();
        let (registry, memory) = ("reg.test".parse().unwrap(), PageMemory::default());
        let from = || Sender { registry: &registry, host: String::new() };
        let refused = Page::begin(&declared, from(), body(), memory.clone()).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })));
        let mut page = Page::begin(&HeaderMap::new(), from(), body(), memory).await.unwrap();
        assert_eq!(page.size, None);
        let mut received = 0;
        let error = loop {
            match page.body.next().await {
                Some(Ok(bytes)) => received += bytes.len() as u64,
                Some(Err(error)) => break error,
                None => panic!("all of it was passed on"),
            }
        };
        assert!(matches!(error, Error::Invalid { .. }) && received == PAGE_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_of_one_owner_do_not_take_all_memory_and_more_than_fit_are_refused() {
        let memory = PageMemory::default();
        let page = |name: &str| {
            let (registry, memory) = (name.parse::<Registry>().unwrap(), memory.clone());
            async move {
                let chunk = Bytes::from_static(&[b' '; 200_000]);
                let body = download(stream::iter([Ok(chunk)]));
                let sender = Sender { registry: &registry, host: String::new() };
                Page::begin(&HeaderMap::new(), sender, body, memory).await
            }
        };
        let mut held = Vec::new();
        for n in 0..HELD_BYTES_OF_ONE_MAX / BEGINNING {
            held.push(page(&format!("r{n}.evil.test")).await.unwrap());
        }
        let limited = page("one-more.evil.test").await;
        assert!(matches!(limited, Err(Error::Overloaded { limit: NodeLimit::ListMemory, .. })));
        assert_eq!(page("other.test").await.unwrap().body.whole(1 << 20).await.unwrap().len(), 200_000);
        // What a client reads is held until it has it.
        let read = held.pop().unwrap().body.next().await.unwrap().unwrap();
        assert!(page("one-more.evil.test").await.is_err());
        drop(read);
        assert!(page("one-more.evil.test").await.is_ok());
    }
}
