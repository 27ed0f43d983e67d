//! Commands tell the truth about the running daemon, and refuse what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::program::Program;

/// Runs a command from a shell with an environment of its own; returns its exit code, and what it printed.
fn shell(directory: &Path, words: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["--config", directory.join("larder.toml").to_str().unwrap()])
        .args(words)
        .env_clear()
        .env("XDG_STATE_HOME", directory)
        .env("HOME", directory)
        .env("XDG_RUNTIME_DIR", directory)
        .env("RUNTIME_DIRECTORY", directory)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shell_has_in_its_environment_is_not_taken_for_the_daemons_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let program = Program::start(at, "[freshness]\ntag_ttl = \"7m\"\n");
    let shells = [("LARDER_FRESHNESS_TAG_TTL", "1m"), ("LARDER_SERVER_REQUESTS_MAX", "77")];
    let (code, said) = shell(at, &["config", "print"], &shells);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("tag_ttl = \"7m\"") && said.contains("in effect in the daemon"), "{said}");
    assert!(said.contains(&format!("it listens on {}", program.address)), "{said}");
    let (_, said) = shell(at, &["config", "print", "--from-files"], &shells);
    assert!(said.contains("tag_ttl = \"1m\"") && said.contains("requests_max = 77"), "{said}");
    // A key that counts from the next start is not in effect after a reload.
    program.write("[server]\nrequests_max = 88\n[freshness]\ntag_ttl = \"8m\"\n");
    program.reload("was read again").await;
    let (_, said) = shell(at, &["config", "print"], &[]);
    assert!(said.contains("tag_ttl = \"8m\"") && said.contains("requests_max = 1024"), "{said}");
    assert!(said.contains("[server] requests_max has been changed since"), "{said}");
    let (_, said) = shell(at, &["doctor", "--root", at.to_str().unwrap()], &[]);
    assert!(said.contains("[server] requests_max has been changed since the daemon started"), "{said}");
    assert!(said.contains(&format!("{} answers", program.address)), "{said}");
    drop(program);
    let (code, said) = shell(at, &["config", "print"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no daemon answered") && said.contains("requests_max = 88"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_config_that_cannot_be_parsed_is_an_error_and_never_an_anonymous_pull() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let node = at.join("node.json");
    fs::write(&node, r#"{"AUTHS": {"reg.test": {"Auth": "YW5uOnA="}}}"#).unwrap();
    let lines = format!("[credentials]\nnode = [{node:?}]\n");
    let program = Program::start(at, &lines);
    let ask = |words: &[&str]| shell(at, &[&["credentials", "reg.test/app"], words].concat(), &[]);
    let (code, said) = ask(&[]);
    assert!(code == Some(0) && said.contains("node") && said.contains("ann"), "{said}");
    // As the daemon has it, not as the file that this shell would read.
    program.write("[credentials]\nnode = []\n");
    let (code, said) = ask(&["--json"]);
    assert!(code == Some(0) && said.contains("\"username\": \"ann\""), "{said}");
    program.write(&lines);
    drop(program);
    fs::write(&node, "{\"auths\": {\"reg.test\": {\"auth\": \"marker\"").unwrap();
    let program = Program::start(at, &lines);
    for words in [&[][..], &["--json"]] {
        let (code, said) = ask(words);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("node.json cannot be used") && !said.contains("anonymously"), "{said}");
        assert!(!said.contains("marker"), "{said}");
    }
    drop(program);
    let (code, said) = ask(&[]);
    assert!(
        code == Some(1) && said.contains("no daemon answered") && !said.contains("anonymously"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_refuses_what_the_daemon_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("larder.toml"), "[[registry]]\nhost = \"r\"\nca = \"/no/such/ca.pem\"\n").unwrap();
    let (code, said) = shell(at, &["config", "check"], &[]);
    assert!(code == Some(2) && said.contains("/no/such/ca.pem"), "{said}");
    let (code, said) = shell(at, &["config", "check", "--json"], &[]);
    assert!(code == Some(2) && said.contains("\"ok\":false"), "{said}");
    let (code, said) = shell(at, &["serve"], &[]);
    assert!(code.is_some_and(|code| code != 0) && said.contains("/no/such/ca.pem"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_file_that_is_not_there_keeps_no_command_from_its_work() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let gate = at.join("gate");
    fs::write(&gate, "0123456789abcdef").unwrap();
    fs::set_permissions(&gate, fs::Permissions::from_mode(0o600)).unwrap();
    let program =
        Program::start(at, &format!("[server]\ngate_header = \"X-Node-Key\"\ngate_file = {gate:?}\n"));
    // As systemd's credentials are gone while the unit does not run.
    fs::remove_file(&gate).unwrap();
    let (code, said) = shell(at, &["status"], &[]);
    assert!(code == Some(0) && said.contains("ready"), "{said}");
    let (_, said) = shell(at, &["doctor", "--root", at.to_str().unwrap()], &[]);
    assert!(
        said.contains("is running") && said.contains("the header of [server] gate_header is not known"),
        "{said}"
    );
    let (code, said) = shell(at, &["config", "check"], &[]);
    assert!(code == Some(2) && said.contains("gate_file"), "{said}");
    drop(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_ends_a_command_alike_as_text_and_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let _program = Program::start(directory.path(), "");
    for command in ["rm", "unpin", "revoke"] {
        for words in [&[command, "reg.test/absent"][..], &[command, "reg.test/absent", "--json"]] {
            let (code, said) = shell(directory.path(), words, &[]);
            assert_eq!(code, Some(1), "{words:?}: {said}");
        }
    }
}
