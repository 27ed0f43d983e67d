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
use super::docker_config::without_user_information;
use super::exec::{self, Invocation};
use super::patience::Patience;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;

/// The longest time for a helper: one that takes longer waits for a person.
const WAIT: Duration = Duration::from_secs(10);

/// The docker credential helpers of one directory.
pub(super) struct Helpers {
    /// `None`: no helper is run.
    directory: Option<PathBuf>,
    running: Singleflight<(String, String), Option<Arc<Credential>>>,
    patience: Arc<Patience<(String, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: Zeroizing<String>,
}

impl Helpers {
    pub(super) fn new(directory: Option<PathBuf>, tasks: &Tasks) -> Self {
        Self { directory, running: Singleflight::new(tasks.clone()), patience: Arc::default() }
    }

    /// The credential that the helper `name` has for `server`; `None` if it has none, fails, takes too long, or if no helper
    /// is run.
    pub(super) async fn get(&self, name: &str, server: &str) -> Option<Credential> {
        let directory = self.directory.clone()?;
        let (name, server) = (name.to_owned(), server.to_owned());
        let work = || {
            let (name, server, patience) = (name.clone(), server.clone(), Arc::clone(&self.patience));
            async move {
                let result = run(directory, &name, &server).await;
                let key = (name.clone(), server.clone());
                match &result {
                    Ok(_) => patience.recovered(&key),
                    Err(_) => patience.ended(&key),
                }
                let failed = |why| {
                    let server = without_user_information(&server);
                    tracing::warn!(helper = name, server, why, "a credential helper gave no credential")
                };
                result.map_err(failed).ok().map(Arc::new)
            }
        };
        let key = (name.clone(), server.clone());
        let credential =
            self.patience.wait(&key, self.running.run(key.clone(), work)).await.flatten().flatten();
        credential.map(|credential| (*credential).clone())
    }
}

async fn run(directory: PathBuf, name: &str, server: &str) -> Result<Credential, String> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err("its name is not that of a program".to_owned());
    }
    let program = directory.join(format!("docker-credential-{name}"));
    let (args, input) = (["get".to_owned()], server.as_bytes().to_vec());
    let output =
        exec::run(Invocation { program: &program, args: &args, env: &[], input, wait: WAIT }).await?;
    let output: HelperOutput = serde_json::from_slice(&output)
        // The parser's own message may quote a secret.
        .map_err(|e| {
            format!("its output is not the expected JSON at line {}, column {}", e.line(), e.column())
        })?;
    if output.username == "<token>" && !output.secret.is_empty() {
        return Ok(Credential::IdentityToken(output.secret.as_str().to_owned().into()));
    }
    Credential::password(&output.username, &output.secret)
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
        let helpers = Helpers::new(Some(directory.path().to_owned()), &Tasks::default());
        assert_eq!(helpers.get("x", "reg.test\n").await, Credential::password("of reg.test", "p"));
        for name in ["../x", "", "y", "x y", "/bin/sh"] {
            assert_eq!(helpers.get(name, "reg.test").await, None, "{name}");
        }
        assert_eq!(Helpers::new(None, &Tasks::default()).get("x", "reg.test").await, None);
    }
}
