//! The S3 of the tests, seen by the crate that the daemon uses: what it proves elsewhere rests on its being one.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioExecutor;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};

use crate::support::fault::Fault;
use crate::support::s3::{BUCKET, FakeS3, KEY_ID, Op, SECRET, Wrong};

#[derive(Debug)]
struct Plain(Client<Tcp, HttpRequestBody>);

#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Plain(Client::builder(TokioExecutor::new()).build_http())))
    }
}

#[async_trait::async_trait]
impl HttpService for Plain {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.request(request).await.map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
        let (parts, body) = answer.into_parts();
        let body = body.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

fn client(s3: &FakeS3, secret: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(s3.url())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id(KEY_ID)
        .with_secret_access_key(secret)
        .with_http_connector(Connector)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()
        .unwrap()
}

#[tokio::test]
async fn objects_are_written_read_and_listed_as_in_s3() {
    let s3 = FakeS3::start().await;
    let store = client(&s3, SECRET);
    let path = Path::from("a/one");
    store.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
    assert_eq!(s3.object("a/one").unwrap(), &b"0123456789"[..]);
    let create = PutMode::Create.into();
    let again = store.put_opts(&path, PutPayload::from_static(b"other"), create).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(store.head(&path).await.unwrap().size, 10);
    assert_eq!(store.get_range(&path, 3..6).await.unwrap(), &b"345"[..]);
    let gone = store.get(&Path::from("a/none")).await;
    assert!(matches!(gone, Err(object_store::Error::NotFound { .. })), "{gone:?}");

    let mut upload = store.put_multipart(&Path::from("b/two")).await.unwrap();
    upload.put_part(PutPayload::from(vec![1; 6 << 20])).await.unwrap();
    upload.put_part(PutPayload::from(vec![2; 100])).await.unwrap();
    assert!((s3.object("b/two").is_none(), s3.uploads()) == (true, 1), "not there before it is complete");
    upload.complete().await.unwrap();
    assert_eq!(s3.object("b/two").unwrap().len(), (6 << 20) + 100);
    let mut upload = store.put_multipart(&Path::from("b/three")).await.unwrap();
    upload.put_part(PutPayload::from_static(b"x")).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(s3.uploads(), 0);

    s3.set_page(1);
    let listed: HashSet<String> =
        store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, HashSet::from(["a/one".to_owned(), "b/two".to_owned()]));
    store.copy(&path, &Path::from("a/copy")).await.unwrap();
    store.delete(&path).await.unwrap();
    assert_eq!(s3.keys(), ["a/copy", "b/two"]);
    let kinds: HashSet<Op> = s3.asked().iter().map(|asked| asked.op).collect();
    assert!(!kinds.contains(&Op::Other), "{kinds:?}");
}

#[tokio::test]
async fn faults_of_the_store_reach_its_client() {
    let s3 = FakeS3::start().await;
    s3.put("one", Bytes::from_static(b"0123456789"));
    let (store, path) = (client(&s3, SECRET), Path::from("one"));
    let read = async || store.get(&path).await?.bytes().await;
    for wrong in [Wrong::slow_down(), Wrong::broken(), Wrong::denied(), Wrong::Lost] {
        s3.wrong_always(wrong);
        assert!(read().await.is_err());
    }
    s3.behave();
    s3.wrong_at(Op::Get, "one", Wrong::Answered(Fault::CloseAfter(4)));
    assert!(read().await.is_err());
    s3.wrong_at(Op::Get, "one", Wrong::Short(4));
    assert_eq!(read().await.unwrap(), &b"0123"[..]);
    s3.wrong_at(Op::Get, "one", Wrong::Long(2));
    assert_eq!(read().await.unwrap(), &b"0123456789xx"[..]);
    s3.wrong_at(Op::Get, "one", Wrong::Answered(Fault::Corrupt));
    assert_eq!(read().await.unwrap().len(), 10);
    s3.behave();
    s3.read_only();
    let refused = store.put(&path, PutPayload::from_static(b"x")).await;
    assert!(matches!(refused, Err(object_store::Error::PermissionDenied { .. })), "{refused:?}");
    assert_eq!(read().await.unwrap(), &b"0123456789"[..]);
    let stranger = client(&s3, "another secret").get(&path).await;
    assert!(matches!(stranger, Err(object_store::Error::PermissionDenied { .. })), "{stranger:?}");
}
