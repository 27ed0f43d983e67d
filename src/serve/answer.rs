//! Answers with content: a manifest, a blob, a list of tags or referrers, as upstream has it.
//!
//! Promises: an answer says where its content came from and whether it is out of date; a range is answered as RFC 9110
//! has it; `HEAD` has the head of `GET`.
//!
//! Deliberately not here: how content is found (`pull`), and answers that are errors (`respond`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, IF_RANGE, LINK, RANGE};
use http::{HeaderMap, Method, Response, StatusCode, Version};

use super::byteranges::Layout;
use super::observe::{self, BodyObserver, ContentKind, Observer};
use super::range::{self, RangeAnswer, Several};
use super::request_log::Described;
use super::respond::{self, OCI_FILTERS, content_head};
use super::route::{self, AddressedBy, OCI_NAMESPACE, Resource};
use crate::listener::Body;
use crate::pull::{
    self, AnswerSource, BlobRange, BlobSize, ManifestAnswer, ManifestUse, PullContext, Puller, Stale,
};
use crate::reference::{Digest, MediaType, Reference, Repository};
use crate::support::clock::Clock;
use crate::upstream::Listing;

/// A request for content, as far as its answer depends on it.
pub(super) struct RequestContext<'a> {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) addressed_by: AddressedBy,
    pub(super) pull: PullContext,
    /// When the request came.
    pub(super) since: Instant,
    pub(super) puller: &'a Puller,
    pub(super) clock: &'a Clock,
    pub(super) observer: &'a Arc<Observer>,
    pub(super) described: &'a Described,
}

/// Bytes at most of a list that is held until it is here as a whole; a list of more pages is paged by its registry.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

type Answered = Result<(Response<Body>, AnswerSource), pull::Error>;

impl RequestContext<'_> {
    fn repository(&self) -> &Repository {
        self.pull.repository()
    }

    /// The answer, and where its content comes from.
    pub(super) async fn answer(&self, resource: &Resource) -> Answered {
        match resource {
            Resource::Manifest(reference) => self.manifest(reference).await,
            // On the heap, so that the futures of small and frequent answers are small.
            Resource::Blob(digest) => Box::pin(self.blob(*digest)).await,
            Resource::Tags(query) => Box::pin(self.list("tags/list", Listing::Tags, query.clone())).await,
            Resource::Referrers(digest, query) => {
                let (path, listing) = (format!("referrers/{digest}"), Listing::Referrers(*digest));
                Box::pin(self.list(&path, listing, query.clone())).await
            }
        }
    }

    async fn manifest(&self, reference: &Reference) -> Answered {
        let manifest_use = if self.method == Method::HEAD { ManifestUse::Resolve } else { ManifestUse::Pull };
        let answer = self.puller.manifest(&self.pull, reference, manifest_use).await?;
        let ManifestAnswer { digest, media_type, bytes, source, stale } = answer;
        let size = bytes.len() as u64;
        let range = range::answer(self.range(), size);
        let registry = self.repository().registry();
        let mut response = content_head(media_type.as_str(), digest, registry, Some(size), range);
        self.mark_stale(&mut response, stale.as_ref());
        let bytes = match range {
            RangeAnswer::Whole => bytes,
            RangeAnswer::Range { start, end } => bytes.slice(start as usize..end as usize),
            RangeAnswer::Unsatisfiable => return Ok((response, source)),
        };
        if self.method == Method::GET {
            self.body_observer(ContentKind::Manifest, digest, source).count(bytes.len());
            *response.body_mut() = Body::full(bytes);
        }
        Ok((response, source))
    }

    async fn blob(&self, digest: Digest) -> Answered {
        let registry = self.repository().registry();
        if self.method == Method::HEAD {
            let BlobSize { size, media_type, source, stale } =
                self.puller.blob_size(&self.pull, digest).await?;
            let media_type = media_type_of_blob(media_type.as_ref());
            let mut response = content_head(media_type, digest, registry, Some(size), RangeAnswer::Whole);
            self.mark_stale(&mut response, stale.as_ref());
            return Ok((response, source));
        }
        let header = self.range();
        // Too many were refused before.
        if let Some(Ok(Some(ranges))) = header.map(range::several) {
            return Box::pin(self.blob_parts(digest, &ranges)).await;
        }
        let wanted = match header {
            // With the size: the end of a body of unknown length would look the same as a failure.
            None if self.version < Version::HTTP_11 => BlobRange::From(0),
            header => range::wanted(header),
        };
        let mut answer = match self.puller.blob(&self.pull, digest, wanted).await {
            Ok(answer) => answer,
            Err(error) => {
                let none_of = |size| range::answer(header, size) == RangeAnswer::Unsatisfiable;
                return self.unsatisfiable(digest, error, none_of);
            }
        };
        let range = answer.size.map_or(RangeAnswer::Whole, |size| range::answer(header, size));
        let media_type = media_type_of_blob(answer.media_type.as_ref());
        let mut response = content_head(media_type, digest, registry, answer.size, range);
        self.mark_stale(&mut response, answer.stale.as_ref());
        match range {
            RangeAnswer::Unsatisfiable => return Ok((response, answer.source)),
            RangeAnswer::Range { start, end } => answer.body.narrow(start, end),
            RangeAnswer::Whole => {}
        }
        let observer = self.body_observer(ContentKind::Blob, digest, answer.source);
        *response.body_mut() = observe::body(answer.body, observer);
        Ok((response, answer.source))
    }

    /// What is not stored is asked for by the client's range: upstream is the first to know that none of it exists.
    fn unsatisfiable(
        &self,
        digest: Digest,
        error: pull::Error,
        none_of: impl FnOnce(u64) -> bool,
    ) -> Answered {
        let Some(size) = error.size_of_unsatisfiable().filter(|size| none_of(*size)) else {
            return Err(error);
        };
        Ok((self.none_of(digest, size), AnswerSource::Passthrough))
    }

    fn none_of(&self, digest: Digest, size: u64) -> Response<Body> {
        let (media_type, range) = (MediaType::OCTET_STREAM, RangeAnswer::Unsatisfiable);
        content_head(media_type, digest, self.repository().registry(), Some(size), range)
    }

    /// Several ranges of a blob.
    async fn blob_parts(&self, digest: Digest, ranges: &Several) -> Answered {
        let Range { start, end } = match ranges.first_bounded() {
            Some(first) => first,
            // Which one is first depends on the size.
            None => {
                let BlobSize { size, source, .. } = self.puller.blob_size(&self.pull, digest).await?;
                match ranges.parts(size).into_iter().next() {
                    Some(first) => first,
                    None => return Ok((self.none_of(digest, size), source)),
                }
            }
        };
        let mut answer = match self.puller.blob(&self.pull, digest, BlobRange::Bytes { start, end }).await {
            Ok(answer) => answer,
            Err(error) => return self.unsatisfiable(digest, error, |size| ranges.parts(size).is_empty()),
        };
        let mut parts = answer.size.map(|size| ranges.parts(size)).unwrap_or_default();
        if parts.first().is_some_and(|first| first.start != start) {
            // The blob has another size than was said, and this is another part of it.
            answer = self.puller.blob(&self.pull, digest, BlobRange::From(0)).await?;
            parts = answer.size.map(|size| ranges.parts(size)).unwrap_or_default();
        }
        let (registry, size) = (self.repository().registry(), answer.size);
        let first = parts.first().cloned();
        let range = match (&first, parts.len()) {
            (Some(Range { start, end }), 1) => RangeAnswer::Range { start: *start, end: *end },
            (None, _) if size.is_some() => RangeAnswer::Unsatisfiable,
            // Several; or, of a blob whose size is unknown, everything, as for one range.
            _ => RangeAnswer::Whole,
        };
        let media_type = media_type_of_blob(answer.media_type.as_ref());
        let mut response = content_head(media_type, digest, registry, size, range);
        self.mark_stale(&mut response, answer.stale.as_ref());
        let observer = self.body_observer(ContentKind::Blob, digest, answer.source);
        let (Some(Range { start, end }), Some(size)) = (first, size) else {
            if range == RangeAnswer::Whole {
                *response.body_mut() = observe::body(answer.body, observer);
            }
            return Ok((response, answer.source));
        };
        answer.body.narrow(start, end);
        if parts.len() == 1 {
            *response.body_mut() = observe::body(answer.body, observer);
            return Ok((response, answer.source));
        }
        let layout = Layout::new(parts, size, media_type);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(layout.content_length()));
        if let Ok(value) = HeaderValue::try_from(layout.content_type()) {
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        let (puller, pull) = (self.puller.clone(), self.pull.after_the_answer());
        let open = move |Range { start, end }: Range<u64>| {
            let (puller, pull) = (puller.clone(), pull.clone());
            async move {
                let mut answer = puller.blob(&pull, digest, BlobRange::Bytes { start, end }).await?;
                answer.body.narrow(start, end);
                Ok(answer.body)
            }
        };
        *response.body_mut() = observe::chunks(layout.body(answer.body, open), observer);
        Ok((response, answer.source))
    }

    /// A list as upstream gave it; the link to its next page leads to us, addressed as the client addressed us.
    async fn list(&self, path: &str, listing: Listing, query: Option<String>) -> Answered {
        let page = self.puller.list(&self.pull, &listing, query).await?;
        let mut response = respond::json(StatusCode::OK, Vec::new());
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if let Some(media_type) = &page.media_type {
            set(CONTENT_TYPE, media_type.as_str());
        }
        set(OCI_NAMESPACE, self.repository().registry().as_str());
        if let Some(filters) = &page.filters_applied {
            set(OCI_FILTERS, filters);
        }
        if let Some(next) = &page.next {
            let target = next_page(self.repository(), self.addressed_by, path, &route::escaped_query(next));
            set(LINK, &format!("<{target}>; rel=\"next\""));
        }
        *response.body_mut() = match page.size {
            Some(size) => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
                observe::list(page.body, self.observer)
            }
            // Its end would look the same as a failure.
            None if self.version < Version::HTTP_11 => Body::full(page.body.whole(HELD_BYTES_MAX).await?),
            None => observe::list(page.body, self.observer),
        };
        Ok((response, AnswerSource::Passthrough))
    }

    /// The one range of a `GET`; with `If-Range` none, since no validator of ours could match it.
    fn range(&self) -> Option<&str> {
        if self.method != Method::GET || self.headers.contains_key(IF_RANGE) {
            return None;
        }
        self.headers.get(RANGE).and_then(|range| range.to_str().ok())
    }

    /// Marks an answer for which upstream could not be asked.
    fn mark_stale(&self, response: &mut Response<Body>, stale: Option<&Stale>) {
        let Some(stale) = stale else { return };
        let age = stale.confirmed_at.age_at(self.clock.now());
        let at = humantime::format_rfc3339_seconds(stale.confirmed_at.to_system_time());
        let reason = format!("last confirmed at {at}; {}", stale.error);
        respond::warn(response, &format!("stale: {reason}"), age);
        self.described.because(&reason);
        self.observer.show_stale_age(self.repository().registry(), age);
    }

    fn body_observer(&self, content: ContentKind, digest: Digest, source: AnswerSource) -> BodyObserver {
        BodyObserver::new(self.observer, content, digest, source, self.since)
    }
}

/// What a blob is sent as: containerd keeps an image under the type that it was answered with.
fn media_type_of_blob(of_manifest: Option<&MediaType>) -> &str {
    of_manifest.map_or(MediaType::OCTET_STREAM, MediaType::as_str)
}

fn next_page(repository: &Repository, addressed_by: AddressedBy, path: &str, query: &str) -> String {
    let page = format!("/v2/{}/{path}?{query}", addressed_by.name_of(repository));
    match addressed_by {
        AddressedBy::Namespace => format!("{page}&ns={}", repository.registry()),
        AddressedBy::Path | AddressedBy::PathWithoutColon | AddressedBy::Default => page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_of_a_list_is_asked_of_the_same_registry() {
        let repository: Repository = "reg.test:5000/team/app".parse().unwrap();
        for (addressed_by, target) in [
            (AddressedBy::Namespace, "/v2/team/app/tags/list?last=b&ns=reg.test:5000"),
            (AddressedBy::Path, "/v2/reg.test:5000/team/app/tags/list?last=b"),
            (AddressedBy::PathWithoutColon, "/v2/reg.test_5000/team/app/tags/list?last=b"),
            (AddressedBy::Default, "/v2/team/app/tags/list?last=b"),
        ] {
            assert_eq!(next_page(&repository, addressed_by, "tags/list", "last=b"), target);
        }
    }
}
