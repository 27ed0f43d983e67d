//! `larder explain`: the daemon says how a pull would go, and what stands in its way, over its control socket.

use std::fs;
use std::path::Path;

use http::Method;
use serde_json::Value;

use crate::program::Program;
use crate::support::client;
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry};

const IMAGE: &str = "reg.test/team/app:v1";
const MANIFEST: &str = "/v2/team/app/manifests/v1?ns=reg.test";

fn start(directory: &Path, upstream: &FakeRegistry, more: &str) -> Program {
    let url = upstream.url();
    let lines = format!("{more}\n[[registry]]\nhost = \"reg.test\"\nendpoints = [\"{url}\"]\n");
    Program::start(directory, &lines)
}

/// What `larder explain` says as JSON, with these words besides.
fn explain(program: &Program, words: &[&str]) -> Value {
    let (code, said) = program.command(&[&["explain", "--json"], words].concat());
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

async fn get(program: &Program, path: &str) -> client::Reply {
    client::send(program.address, Method::GET, path, &[client::ANONYMOUS]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_can_be_foretold_before_it_and_explained_after_it() {
    let (upstream, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let pushed = image::push(&upstream, "team/app", "v1", 50_000);
    let program = start(directory.path(), &upstream, "");
    let before = explain(&program, &["REG.test/team/app:v1"]);
    assert_eq!((&before["image"], &before["registry"]), (&IMAGE.into(), &"reg.test".into()));
    assert_eq!(
        (&before["obstacle"], &before["cached"], &before["configured"]),
        (&Value::Null, &Value::Null, &true.into())
    );
    assert_eq!(before["endpoints"][0]["url"], format!("{}/v2", upstream.url()));
    assert_eq!(
        (&before["access"]["rights"], &before["recent"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert!(
        before["steps"][0].as_str().unwrap().contains("is asked what the tag names, without a credential")
    );
    assert!(upstream.seen().is_empty(), "explaining asks no registry");

    assert!(get(&program, MANIFEST).await.is_well());
    let own = pushed.platforms.iter().find(|one| one.platform == "linux/amd64").unwrap();
    assert!(get(&program, &format!("/v2/team/app/manifests/{}?ns=reg.test", own.manifest)).await.is_well());
    let layer = own.layers[0];
    assert!(get(&program, &format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await.is_well());
    let after = explain(&program, &[IMAGE]);
    let right = &after["access"]["rights"][0];
    assert_eq!(
        (&right["whose"], &right["fresh"], &right["usable"]),
        (&"anonymous".into(), &true.into(), &true.into())
    );
    let cached = &after["cached"];
    assert_eq!((&cached["digest"], &cached["index"]), (&pushed.index.to_string().into(), &true.into()));
    let platform = &cached["platforms"][0];
    assert_eq!((&platform["platform"], &platform["blobs"]), (&"linux/amd64".into(), &3.into()));
    assert!(platform["blobs_here"].as_u64().unwrap() >= 1 && platform["bytes_here"].as_u64().unwrap() > 0);
    assert_eq!(
        (&cached["platforms"][1]["here"], &after["freshness"]["asks_first"]),
        (&false.into(), &true.into())
    );
    let last = &after["recent"][0];
    assert_eq!((&last["reference"], &last["ended"]), (&layer.to_string().into(), &"served".into()));
    assert_eq!(after["recent"].as_array().unwrap().len(), 3);
    let (_, text) = program.command(&["explain", IMAGE]);
    for words in
        ["nothing that is known stands in the way", "every client (the image is public)", "linux/amd64"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_thing_that_stands_in_the_way_is_named() {
    let (upstream, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&upstream, "team/app", "v1", 50_000);
    let more = "[upstream]\nallow = [\"other.test\"]\nconnect_timeout = \"2s\"\n[credentials]\nnode = []";
    let program = start(directory.path(), &upstream, more);
    let obstacle = |image: &str| {
        let said = explain(&program, &[image])["obstacle"].clone();
        said.as_str().map(str::to_owned).unwrap_or_default()
    };
    assert!(
        obstacle("evil.test/a:v1").contains("it is not in [upstream] allow"),
        "{}",
        obstacle("evil.test/a:v1")
    );
    assert_eq!(get(&program, "/v2/team/app/manifests/v9?ns=reg.test").await.status, 404);
    let missing = obstacle("reg.test/team/app:v9");
    assert!(missing.starts_with("request ") && missing.contains("for v9 was refused"), "{missing}");
    assert!(get(&program, MANIFEST).await.is_well());
    assert_eq!(obstacle(IMAGE), "", "the last request went well");
    assert_eq!(get(&program, "/v2/team/app/manifests/v9?ns=reg.test").await.status, 404);
    assert_eq!(obstacle(IMAGE), "", "another tag that is missing says nothing of this one");
    upstream.stop().await;
    assert_eq!(get(&program, "/v2/team/other/manifests/v1?ns=reg.test").await.status, 503);
    let away = obstacle("reg.test/team/other:v1");
    assert!(
        away.contains("reg.test cannot be asked") && away.contains("nothing of the image is in the store"),
        "{away}"
    );
    let (_, text) = program.command(&["explain", "reg.test/team/other:v1"]);
    assert!(text.contains("has been failing for"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_explained_for_the_pod_that_is_asked_about_and_no_secret_is_shown() {
    let (upstream, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&upstream, "team/app", "v1", 50_000);
    upstream.know(Accounts::new(&[("ann", "marker-password", &["team/app"])]));
    let program = start(directory.path(), &upstream, "[credentials]\nnode = []");
    let secret = directory.path().join("pull.json");
    let basic = client::basic("ann", "marker-password");
    let auth = basic.trim_start_matches("Basic ").to_owned();
    fs::write(&secret, format!(r#"{{"auths":{{"reg.test":{{"auth":"{auth}"}}}}}}"#)).unwrap();
    let file = secret.to_str().unwrap().to_owned();
    assert_eq!(client::get(program.address, MANIFEST).await.status, 401);
    let without = explain(&program, &[IMAGE]);
    assert_eq!(without["access"]["refuses_anonymous"], true);
    let obstacle = without["obstacle"].as_str().unwrap();
    assert!(
        obstacle.contains("refuses anonymous access") && obstacle.contains("needs a pull secret"),
        "{obstacle}"
    );
    let with = explain(&program, &[IMAGE, "--pull-secret", &file]);
    assert_eq!(
        (&with["credentials"][0]["source"], &with["credentials"][0]["username"]),
        (&"pull-secret".into(), &"ann".into())
    );
    assert!(with["steps"][0].as_str().unwrap().contains("with the credential of"), "{with}");
    let headers = [("authorization", basic.as_str())];
    assert!(client::send(program.address, Method::GET, MANIFEST, &headers).await.is_well());
    let usable = |words: &[&str]| explain(&program, words)["access"]["rights"][0]["usable"].clone();
    assert_eq!((usable(&[IMAGE, "--pull-secret", &file]), usable(&[IMAGE])), (true.into(), false.into()));
    let (_, text) = program.command(&["explain", IMAGE, "--pull-secret", &file]);
    let all = format!("{with} {without} {text}");
    assert!(!all.contains("marker-password") && !all.contains(&auth), "{all}");
}
