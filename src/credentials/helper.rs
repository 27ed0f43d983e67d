//! Docker credential helpers (`credsStore`, `credHelpers`): run only where the operator names the directory they are
//! in.
//!
//! Kubelet ignores them; a developer's docker config often has nothing else. `docker-credential-NAME get` with the
//! server's name on standard input (docker/docker-credential-helpers).
//!
//! Promises: a helper that has no credential for a server, which is an answer, is told from one that gave none now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::credential::Credential;
use super::docker_config::without_user_information;
use super::exec::{self, Invocation};
use super::patience::Patience;
use super::run_places::RunPlaces;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;

/// The longest time for a helper: one that takes longer waits for a person.
const WAIT: Duration = Duration::from_secs(10);
/// What a helper writes to standard output, with status 1, where it has no credential for a server.
const NOT_FOUND: &[u8] = b"credentials not found in native keychain";

/// A helper gave no answer: it cannot be run, failed, answered nonsense or takes long. It may have a credential. The
/// cause is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HelperFailed;

type Answer = Result<Option<Arc<Credential>>, HelperFailed>;

/// The docker credential helpers of one directory.
pub(super) struct Helpers {
    /// `None`: no helper is run.
    directory: Option<PathBuf>,
    running: Singleflight<(String, String), Answer>,
    patience: Arc<Patience<(String, String)>>,
    places: RunPlaces,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: Zeroizing<String>,
}

impl Helpers {
    /// The helpers of `directory`; each run of one becomes one of `tasks`, and takes one of `places`.
    pub(super) fn new(directory: Option<PathBuf>, tasks: &Tasks, places: RunPlaces) -> Self {
        Self { directory, running: Singleflight::new(tasks.clone()), patience: Arc::default(), places }
    }

    /// The credential that the helper `name` has for `server`; `None` if it has none, or if no helper is run.
    ///
    /// # Errors
    /// It gave no answer: it fails, or takes too long.
    pub(super) async fn get(&self, name: &str, server: &str) -> Result<Option<Credential>, HelperFailed> {
        let Some(directory) = self.directory.clone() else { return Ok(None) };
        let (name, server) = (name.to_owned(), server.to_owned());
        let work = || {
            let (name, server, patience) = (name.clone(), server.clone(), Arc::clone(&self.patience));
            let places = self.places.clone();
            async move {
                let key = (name.clone(), server.clone());
                let Some(_place) = places.take(&without_user_information(&server)).await else {
                    // It was not run, and is waited for the next time.
                    patience.recovered(&key);
                    return Err(HelperFailed);
                };
                let result = run(directory, &name, &server).await;
                match &result {
                    Ok(_) => patience.recovered(&key),
                    Err(_) => patience.ended(&key),
                }
                let failed = |why| {
                    let server = without_user_information(&server);
                    tracing::warn!(helper = name, server, why, "a credential helper gave no credential");
                    HelperFailed
                };
                Ok(result.map_err(failed)?.map(Arc::new))
            }
        };
        let key = (name.clone(), server.clone());
        let answer = self.patience.wait(&key, self.running.run(key.clone(), work)).await.flatten();
        Ok(answer.ok_or(HelperFailed)??.map(|credential| (*credential).clone()))
    }
}

async fn run(directory: PathBuf, name: &str, server: &str) -> Result<Option<Credential>, String> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err("its name is not that of a program".to_owned());
    }
    let program = directory.join(format!("docker-credential-{name}"));
    let (args, input) = (["get".to_owned()], server.as_bytes().to_vec().into());
    let invocation = Invocation { program: &program, args: &args, env: &[], input, wait: WAIT };
    let output = match exec::run(invocation).await {
        Ok(output) => output,
        Err(error) if error.output.trim_ascii() == NOT_FOUND => return Ok(None),
        Err(error) => return Err(error.why),
    };
    let output: HelperOutput = serde_json::from_slice(&output)
        // The parser's own message may quote a secret.
        .map_err(|e| {
            format!("its output is not the expected JSON at line {}, column {}", e.line(), e.column())
        })?;
    if output.username == "<token>" && !output.secret.is_empty() {
        return Ok(Some(Credential::IdentityToken(output.secret.as_str().to_owned().into())));
    }
    // An empty one is none.
    Ok(Credential::password(&output.username, &output.secret))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write_helper(directory: &std::path::Path, name: &str, script: &str) {
        let program = directory.join(format!("docker-credential-{name}"));
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn a_helper_that_has_no_credential_is_told_from_one_that_does_not_answer() {
        let directory = tempfile::tempdir().unwrap();
        let not_found = "echo credentials not found in native keychain; exit 1";
        for (name, script, answer) in [
            ("none", not_found, Ok(None)),
            ("empty", r#"echo '{"ServerURL":"s","Username":"","Secret":""}'"#, Ok(None)),
            ("locked", "echo the keychain is locked; exit 1", Err(HelperFailed)),
            ("nonsense", "echo hello", Err(HelperFailed)),
            ("quiet", "exit 0", Err(HelperFailed)),
        ] {
            write_helper(directory.path(), name, script);
            let helpers =
                Helpers::new(Some(directory.path().to_owned()), &Tasks::default(), RunPlaces::default());
            assert_eq!(helpers.get(name, "reg.test").await, answer, "{name}");
        }
        let helpers =
            Helpers::new(Some(directory.path().to_owned()), &Tasks::default(), RunPlaces::default());
        assert_eq!(helpers.get("absent", "reg.test").await, Err(HelperFailed), "it may be installed again");
    }

    #[tokio::test]
    async fn a_helper_runs_only_from_the_directory_that_was_switched_on() {
        let directory = tempfile::tempdir().unwrap();
        let script = "[ \"$1\" = get ] || exit 1\nread s\necho \"{\\\"ServerURL\\\":\\\"$s\\\",\\\"Username\\\":\\\"of $s\\\",\\\"Secret\\\":\\\"p\\\"}\"";
        write_helper(directory.path(), "x", script);
        let helpers =
            Helpers::new(Some(directory.path().to_owned()), &Tasks::default(), RunPlaces::default());
        assert_eq!(helpers.get("x", "reg.test\n").await, Ok(Credential::password("of reg.test", "p")));
        for name in ["../x", "", "y", "x y", "/bin/sh"] {
            assert_eq!(helpers.get(name, "reg.test").await, Err(HelperFailed), "{name}");
        }
        assert_eq!(
            Helpers::new(None, &Tasks::default(), RunPlaces::default()).get("x", "reg.test").await,
            Ok(None)
        );
    }
}
