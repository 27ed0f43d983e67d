//! Commands name repositories and images as requests do, and one that names nothing fails.

use http::StatusCode;
use larder::admin::control::{Remove, Revoke, send};

use super::access::{A, scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_means_the_repository_that_requests_mean_by_the_same_name() {
    let scene = scene("").await;
    let socket = scene.directory.path().join("larder/larder.sock");
    for name in ["reg.test/a/app", "Reg.Test/a/app", "REG.TEST/a/app"] {
        scene.pull_as_a().await;
        let revoke = Revoke { repository: Some(name.to_owned()) };
        assert_eq!(send(&socket, &revoke).await.unwrap().revoked, 1, "{name}");
        assert_eq!(send(&socket, &revoke).await.unwrap().revoked, 0, "{name}: it is over");
    }
    let remove = Remove { image: "Reg.Test/a/app:v1".to_owned() };
    assert_eq!(send(&socket, &remove).await.unwrap().tags, 1);
    let upper = scene.larder.get_as("/v2/REG.test/a/app/manifests/v1", A).await;
    assert_eq!(upper.status, StatusCode::OK);
    assert_eq!(send(&socket, &remove).await.unwrap().tags, 1);
}

#[test]
fn a_command_that_names_nothing_says_so_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = super::program::Program::start(directory.path(), "");
    for (words, said) in [
        (vec!["revoke", "Reg.Test/team/app"], "no right to reg.test/team/app is known"),
        (vec!["revoke", "--json", "nginx"], "no right to docker.io/library/nginx is known"),
        (vec!["rm", "Reg.Test/team/app"], "reg.test/team/app:latest is not in the store"),
        (vec!["rm", "--json", "Reg.Test/team/app"], "reg.test/team/app:latest is not in the store"),
        (vec!["unpin", "index.docker.io/nginx"], "docker.io/library/nginx:latest is not pinned"),
    ] {
        let (code, output) = daemon.command(&words);
        assert_eq!(code, Some(1), "{words:?}: {output}");
        assert!(output.contains(said), "{words:?}: {output}");
    }
    let (code, output) = daemon.command(&["revoke", "--all"]);
    assert_eq!(code, Some(0), "{output}");
}
