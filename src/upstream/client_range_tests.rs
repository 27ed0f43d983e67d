//! Ranges of blobs: what another one than was asked for means, and what a refusal of one.

use super::*;

#[tokio::test]
async fn a_body_of_another_range_than_the_requested_one_is_not_taken_for_it() {
    for (status, content_range, offset) in [
        (206, "bytes 2-4/5", Some((Some(5), 2))),
        (206, "bytes 3-4/5", None),
        (206, "", None),
        (200, "", Some((Some(3), 0))),
    ] {
        let (upstream, transport) = upstream(move |_| {
            respond(status, &[("content-range", content_range), ("content-length", "3")], "345")
        });
        let download = upstream.download(&repository(), digest(), 2, Some(5), &anonymous()).await;
        assert_eq!(transport.sent()[0].header("range"), "bytes=2-4");
        assert_eq!(download.ok().map(|d| (d.size, d.offset)), offset, "{status} {content_range}");
    }
}

#[tokio::test]
async fn another_range_of_a_mirror_is_followed_by_the_registry() {
    let (upstream, transport) = behind_a_mirror(|request| match request.host.starts_with("mirror") {
        true => respond(206, &[("content-range", "bytes 0-2/5")], "123"),
        false => respond(206, &[("content-range", "bytes 2-4/5")], "345"),
    });
    for _ in 0..2 {
        let download = upstream.download(&repository(), digest(), 2, None, &anonymous()).await.unwrap();
        assert_eq!(download.endpoint.host(), "reg.example.com:443");
    }
    assert_eq!(hosts(&transport), ["mirror", "reg", "reg"]);
}

#[tokio::test(start_paused = true)]
async fn a_range_that_is_refused_is_followed_by_one_request_for_the_whole() {
    for refusal in [400, 403, 405, 422, 501] {
        for by_store in [true, false] {
            let (upstream, transport) = upstream(move |request| match request.host.as_str() {
                "reg.example.com:443" if by_store => {
                    respond(307, &[("location", "https://store.example.net/x?sig=1")], "")
                }
                _ if !request.header("range").is_empty() => status(refusal),
                _ if request.method == Method::HEAD => status(403),
                _ => respond(200, &[("content-length", "5")], "12345"),
            });
            let (repository, auth) = (repository(), anonymous());
            let download = upstream.download(&repository, digest(), 2, None, &auth).await.unwrap();
            assert_eq!((download.size, download.offset), (Some(5), 0), "{refusal}");
            assert_eq!(methods(&transport).len(), if by_store { 4 } else { 2 }, "{refusal}");
            let head = upstream.confirm_blob(&repository, digest(), &auth).await.unwrap();
            assert_eq!(head.value.size, Some(5), "{refusal}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_is_withheld_is_so_whether_a_range_of_it_is_asked_for_or_not() {
    let locked = r#"{"errors":[{"code":"REGISTRY_DISALLOWED_OPERATION"}]}"#;
    for refusal in [405, 412, 451] {
        let (upstream, _) = upstream(move |_| respond(refusal, &[], locked));
        let (repository, auth) = (repository(), anonymous());
        let error = upstream.confirm_blob(&repository, digest(), &auth).await.unwrap_err();
        assert!(error.is_withheld(), "{refusal}: {error}");
        let error = upstream.download(&repository, digest(), 2, None, &auth).await.err().unwrap();
        assert!(error.is_withheld(), "{refusal}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_range_is_not_asked_again() {
    for (refusal, requests) in [(401, 1), (404, 1), (410, 1), (416, 1), (429, 1), (403, 2)] {
        let (upstream, transport) = upstream(move |_| status(refusal));
        let error = upstream.download(&repository(), digest(), 2, None, &anonymous()).await.err().unwrap();
        assert_eq!(methods(&transport).len(), requests, "{refusal}: {error}");
    }
}

#[tokio::test]
async fn a_range_that_is_not_satisfiable_is_told_with_the_size() {
    for (content_range, expected) in [("bytes */5", Some(5)), ("", None), ("bytes 0-4/5", None)] {
        let (upstream, _) = upstream(move |_| respond(416, &[("content-range", content_range)], ""));
        let error = upstream.download(&repository(), digest(), 5, None, &anonymous()).await.err().unwrap();
        let Error::RangeNotSatisfiable { size, .. } = error else { panic!("{error}") };
        assert_eq!(size, expected, "{content_range}");
    }
}
