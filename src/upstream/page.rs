//! One page of a list, as the registry sends it: a small one whole, a large one as it comes, never held in memory.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::reference::MediaType;
use crate::upstream::download::Download;
use crate::upstream::error::Error;
use crate::upstream::headers::{content_length, header};
use crate::upstream::link;

/// Bytes of a page at most: a registry with a million tags and no paging sends about as much.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a page that are received before its answer begins: what breaks off by then is asked for at the next endpoint.
const BEGINNING: usize = 256 * 1024;

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

/// The bytes of a page.
pub struct PageBody {
    host: String,
    beginning: Option<Bytes>,
    rest: Option<Download>,
    received: u64,
}

impl Page {
    /// The page that `host` sends with these headers: all of a small one, or the beginning.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a page of more than 64 MiB or a link that no client could follow; what the body fails with.
    pub(super) async fn begin(headers: &HeaderMap, host: String, mut body: Download) -> Result<Self, Error> {
        let invalid = |why: &str| Error::Invalid { host: host.clone(), why: why.to_owned() };
        let next = link::next_query(headers);
        let next = next.map_err(|error| invalid(&error.to_string()))?;
        let declared = content_length(headers);
        if declared.is_some_and(|size| size > PAGE_BYTES_MAX) {
            return Err(invalid("a list of more than 64 MiB"));
        }
        let (mut beginning, mut rest) = (BytesMut::new(), None);
        while let Some(chunk) = body.next().await {
            beginning.extend_from_slice(&chunk?);
            if beginning.len() >= BEGINNING {
                rest = Some(body);
                break;
            }
        }
        let received = beginning.len() as u64;
        let size = if rest.is_some() { declared } else { Some(received) };
        let media_type = header(headers, "content-type").and_then(|text| text.parse().ok());
        let filters_applied = header(headers, "oci-filters-applied").map(str::to_owned);
        let body = PageBody { host, beginning: Some(beginning.freeze()), rest, received };
        Ok(Self { media_type, next, filters_applied, size, body })
    }

    /// A page that is here as a whole.
    #[cfg(test)]
    pub(crate) fn whole(bytes: &'static [u8]) -> Self {
        let (beginning, size) = (Some(Bytes::from_static(bytes)), Some(bytes.len() as u64));
        let body = PageBody { host: String::new(), beginning, rest: None, received: 0 };
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
    /// As [`PageBody::next`]; [`Error::Invalid`] for a longer page.
    pub async fn whole(mut self, bytes_max: usize) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await {
            whole.extend_from_slice(&bytes?);
            if whole.len() > bytes_max {
                let why = format!("a list of unknown length and more than {bytes_max} bytes");
                return Err(Error::Invalid { host: self.host, why });
            }
        }
        Ok(whole.freeze())
    }
}

impl std::fmt::Debug for PageBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageBody").field("received", &self.received).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http::header::CONTENT_LENGTH;

    use super::*;
    use crate::upstream::proof::Proof;

    #[tokio::test]
    async fn a_page_of_more_than_64_mib_is_refused_whether_it_was_declared_or_not() {
        let body = || {
            let chunk = Bytes::from_static(&[b' '; 1024 * 1024]);
            Download::new(None, 0, Proof::Nothing, stream::repeat(Ok(chunk)).take(65))
        };
        let declared = [(CONTENT_LENGTH, (PAGE_BYTES_MAX + 1).into())].into_iter().collect();
        let refused = Page::begin(&declared, String::new(), body()).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })));
        let mut page = Page::begin(&HeaderMap::new(), String::new(), body()).await.unwrap();
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
}
