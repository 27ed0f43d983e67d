//! The objects, in memory, behind the interface of `s3s`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::BUCKET;

/// Objects a page of a listing, as in S3.
const PAGE: usize = 1_000;

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    written: SystemTime,
    version: u64,
}

struct Upload {
    key: String,
    parts: BTreeMap<i32, (String, Bytes)>,
}

struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    next: u64,
    page: usize,
    conditions: bool,
    now: Clock,
    /// Seconds by which the store's clock is ahead.
    clock: i64,
}

/// What the store takes for the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The content of the bucket. Cheap to clone.
#[derive(Clone)]
pub(super) struct Objects(Arc<Mutex<State>>);

impl Objects {
    pub(super) fn new(now: Clock) -> Self {
        let (objects, uploads) = (BTreeMap::new(), BTreeMap::new());
        let (next, page, conditions, clock) = (1, PAGE, true, 0);
        Self(Arc::new(Mutex::new(State { objects, uploads, next, page, conditions, now, clock })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub(super) fn object(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|object| object.bytes.clone())
    }

    pub(super) fn put(&self, key: &str, bytes: Bytes) {
        self.state().put(key, bytes);
    }

    pub(super) fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    pub(super) fn age(&self, key: &str, by: Duration) {
        self.state().objects.get_mut(key).expect("an object").written -= by;
    }

    pub(super) fn set_clock(&self, seconds: i64) {
        self.state().clock = seconds;
    }

    pub(super) fn uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub(super) fn ignore_conditions(&self) {
        self.state().conditions = false;
    }

    pub(super) fn set_page(&self, objects: usize) {
        self.state().page = objects;
    }

    /// The time by the store's clock, as a header has it.
    pub(super) fn date(&self) -> String {
        httpdate::fmt_http_date(self.state().now())
    }
}

impl State {
    fn now(&self) -> SystemTime {
        let now = (self.now)();
        let by = Duration::from_secs(self.clock.unsigned_abs());
        if self.clock < 0 { now - by } else { now + by }
    }

    fn put(&mut self, key: &str, bytes: Bytes) -> ETag {
        let object = Object { bytes, written: self.now(), version: self.next };
        self.next += 1;
        let tag = object.tag();
        self.objects.insert(key.to_owned(), object);
        tag
    }

    fn found(&self, bucket: &str, key: &str) -> S3Result<Object> {
        check(bucket)?;
        self.objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// Whether a write to this key is allowed by its conditions.
    fn may_write(
        &self,
        key: &str,
        if_none: Option<&IfNoneMatch>,
        if_match: Option<&IfMatch>,
    ) -> S3Result<()> {
        let there = self.objects.get(key);
        if self.conditions && if_none.is_some_and(ETagCondition::is_any) && there.is_some() {
            return Err(s3_error!(PreconditionFailed));
        }
        match if_match.and_then(ETagCondition::as_etag) {
            Some(tag) if self.conditions && there.is_none_or(|object| object.tag() != *tag) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(()),
        }
    }
}

impl Object {
    fn tag(&self) -> ETag {
        ETag::Strong(format!("version-{}", self.version))
    }

    fn len(&self) -> i64 {
        self.bytes.len() as i64
    }
}

fn check(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
}

async fn read(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
    }
    Ok(bytes.freeze())
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let object = self.state().found(&input.bucket, &input.key)?;
        if let Some(tag) = input.if_match.as_ref().and_then(ETagCondition::as_etag)
            && *tag != object.tag()
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let total = object.bytes.len();
        let (bytes, content_range) = match input.range {
            None => (object.bytes.clone(), None),
            Some(range) => {
                let part = range.check(total as u64).map_err(|_| s3_error!(InvalidRange))?;
                let said = format!("bytes {}-{}/{total}", part.start, part.end - 1);
                (object.bytes.slice(part.start as usize..part.end as usize), Some(said))
            }
        };
        let length = bytes.len() as i64;
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(stream::iter([Ok::<_, std::io::Error>(bytes)]))),
            content_length: Some(length),
            content_range,
            e_tag: Some(object.tag()),
            last_modified: Some(object.written.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.state().found(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.len()),
            e_tag: Some(object.tag()),
            last_modified: Some(object.written.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        check(&input.bucket)?;
        let bytes = read(input.body).await?;
        let mut state = self.state();
        state.may_write(&input.key, input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let e_tag = Some(state.put(&input.key, bytes));
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        check(&input.bucket)?;
        let mut state = self.state();
        let id = format!("upload-{}", state.next);
        state.next += 1;
        state.uploads.insert(id.clone(), Upload { key: input.key.clone(), parts: BTreeMap::new() });
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let bytes = read(input.body).await?;
        let mut state = self.state();
        let tag = format!("part-{}", state.next);
        state.next += 1;
        let upload = state.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, (tag.clone(), bytes));
        let e_tag = Some(ETag::Strong(tag));
        Ok(S3Response::new(UploadPartOutput { e_tag, ..UploadPartOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut state = self.state();
        state.may_write(&input.key, input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let upload = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if upload.key != input.key {
            return Err(s3_error!(NoSuchUpload));
        }
        let mut whole = BytesMut::new();
        for part in &named {
            let kept = part.part_number.and_then(|number| upload.parts.get(&number));
            match (kept, part.e_tag.as_ref().map(ETag::value)) {
                (Some((tag, bytes)), Some(said)) if tag == said => whole.extend_from_slice(bytes),
                _ => return Err(s3_error!(InvalidPart)),
            }
        }
        state.uploads.remove(&input.upload_id);
        let tag = state.put(&input.key, whole.freeze());
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let gone = self.state().uploads.remove(&request.input.upload_id);
        gone.ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let mut state = self.state();
        let object = state.found(bucket, key)?;
        // As S3: a copy of an object to itself has to change something.
        let replaces = input.metadata_directive.is_some_and(|how| how.as_str() == MetadataDirective::REPLACE);
        if **key == *input.key && !replaces {
            return Err(s3_error!(InvalidRequest));
        }
        let e_tag = Some(state.put(&input.key, object.bytes));
        let last_modified = Some(state.now().into());
        let result = CopyObjectResult { e_tag, last_modified, ..CopyObjectResult::default() };
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        check(&request.input.bucket)?;
        self.state().objects.remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        check(&request.input.bucket)?;
        let mut state = self.state();
        let mut deleted = Vec::new();
        for object in request.input.delete.objects {
            state.objects.remove(&object.key);
            deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..DeleteObjectsOutput::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        check(&input.bucket)?;
        let state = self.state();
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default();
        let page = input.max_keys.map_or(state.page, |asked| state.page.min(asked as usize));
        let delimiter = input.delimiter.clone();
        let (mut contents, mut common, mut last) = (Vec::new(), Vec::<String>::new(), None);
        let mut truncated = false;
        for (key, object) in state.objects.range(after.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            let folded = delimiter.as_ref().and_then(|mark| Some(rest.split_once(mark.as_str())?.0));
            let shown =
                folded.map(|head| format!("{prefix}{head}{}", delimiter.as_deref().unwrap_or_default()));
            if *key <= after || shown.as_ref().is_some_and(|shown| common.last() == Some(shown)) {
                continue;
            }
            if contents.len() + common.len() == page {
                truncated = true;
                break;
            }
            last = Some(key.clone());
            match shown {
                Some(shown) => common.push(shown),
                None => contents.push(Object::listed(key, object)),
            }
        }
        let prefixes = common.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(prefix),
            key_count: Some(contents.len() as i32),
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            ..ListObjectsV2Output::default()
        }))
    }
}

impl Object {
    fn listed(key: &str, object: &Self) -> s3s::dto::Object {
        s3s::dto::Object {
            key: Some(key.to_owned()),
            size: Some(object.len()),
            last_modified: Some(object.written.into()),
            e_tag: Some(object.tag()),
            ..s3s::dto::Object::default()
        }
    }
}
