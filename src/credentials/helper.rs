//! Docker credential helpers (`credsStore`, `credHelpers`): run only where the operator names the directory they are in.
//!
//! Kubelet ignores them; a developer's docker config often has nothing else. `docker-credential-NAME get` with the
//! server's name on standard input (docker/docker-credential-helpers).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::credential::Credential;
use super::exec::{self, Run};
use crate::support::singleflight::Singleflight;

/// A helper that takes longer waits for a person.
const WAIT: Duration = Duration::from_secs(10);

/// Runs helpers.
pub(super) struct Helpers {
    directory: Option<PathBuf>,
    running: Singleflight<(String, String), Option<Arc<Credential>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Zeroizing<String>,
}

impl Helpers {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, running: Singleflight::default() }
    }

    /// What the helper `name` has for `server`; `None` if that is nothing, or if helpers are switched off.
    pub(super) async fn get(&self, name: &str, server: &str) -> Option<Credential> {
        let directory = self.directory.clone()?;
        let (name, server) = (name.to_owned(), server.to_owned());
        let work = || {
            let (name, server) = (name.clone(), server.clone());
            async move {
                let got = run(directory, &name, &server).await;
                let failed = |why| {
                    tracing::warn!(helper = name, server, why, "a credential helper gave no credential")
                };
                got.map_err(failed).ok().map(Arc::new)
            }
        };
        let got = self.running.run((name.clone(), server.clone()), work).await.flatten();
        got.map(|credential| (*credential).clone())
    }
}

async fn run(directory: PathBuf, name: &str, server: &str) -> Result<Credential, String> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err("its name is none of a program".to_owned());
    }
    let program = directory.join(format!("docker-credential-{name}"));
    let (args, input) = (["get".to_owned()], server.as_bytes().to_vec());
    let output = exec::run(Run { program: &program, args: &args, env: &[], input, wait: WAIT }).await?;
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| "its output is not the expected JSON".to_owned())?;
    if answer.username == "<token>" && !answer.secret.is_empty() {
        return Ok(Credential::IdentityToken(answer.secret.as_str().to_owned().into()));
    }
    Credential::password(&answer.username, &answer.secret)
        .ok_or_else(|| "it has an empty credential".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_helper_runs_only_from_the_directory_that_was_switched_on() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-x");
        let script = "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread s\necho \"{\\\"ServerURL\\\":\\\"$s\\\",\\\"Username\\\":\\\"of $s\\\",\\\"Secret\\\":\\\"p\\\"}\"\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let on = Helpers::new(Some(directory.path().to_owned()));
        assert_eq!(on.get("x", "reg.test\n").await, Credential::password("of reg.test", "p"));
        for name in ["../x", "", "y", "x y", "/bin/sh"] {
            assert_eq!(on.get(name, "reg.test").await, None, "{name}");
        }
        assert_eq!(Helpers::new(None).get("x", "reg.test").await, None);
    }
}
