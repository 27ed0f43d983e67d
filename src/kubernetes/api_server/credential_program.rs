//! The program that a kubeconfig names for a credential (`exec`, as on EKS and GKE).
//!
//! Promises: the program is run without a terminal, for [`WAIT`] at most, and ended with the task that waits for it;
//! nothing that it prints on its standard output and nothing of its environment is in an error. Not here: the client's
//! own way of running it, which has no limit of time, takes a thread of the runtime, and quotes both in its errors.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, ExecConfig};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::credentials::{Invocation, run_program};
use crate::support::clock::Clock;

/// How long the program may take: those of clouds ask a server.
const WAIT: Duration = Duration::from_secs(20);
/// A credential is renewed so long before its end, or when three quarters of its time are over.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);

/// What the program prints (`client.authentication.k8s.io`, ExecCredential).
#[derive(Deserialize)]
struct Printed {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<zeroize::Zeroizing<String>>,
    client_certificate_data: Option<String>,
    client_key_data: Option<zeroize::Zeroizing<String>>,
}

/// Runs the program of an identity, if its credential comes from one, and puts the credential in its place. Returns
/// when it is to be renewed.
///
/// # Errors
/// Why there is none, in a text without secrets.
pub(super) async fn resolve(user: &mut AuthInfo) -> Result<Option<Instant>, String> {
    if user.auth_provider.is_some() {
        return Err("auth-provider in a kubeconfig is not supported".to_owned());
    }
    let has_other = user.token.is_some() || user.token_file.is_some() || user.username.is_some();
    let Some(exec) = user.exec.take() else { return Ok(None) };
    if has_other {
        return Ok(None);
    }
    let output =
        run(&exec).await.map_err(|why| format!("the credential program of the kubeconfig: {why}"))?;
    read(&output, user).map_err(|why| format!("the credential program of the kubeconfig: {why}"))
}

async fn run(exec: &ExecConfig) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let program = exec.command.as_deref().ok_or("none is named")?;
    let cluster = exec.cluster.as_ref().filter(|_| exec.provide_cluster_info);
    let mut spec = json!({"interactive": false});
    if let Some(cluster) = cluster {
        spec["cluster"] = serde_json::to_value(cluster).map_err(|_| "the cluster cannot be told to it")?;
    }
    let info = json!({"kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec});
    let mut env: Vec<(String, String)> = exec
        .env
        .iter()
        .flatten()
        .filter_map(|one| Some((one.get("name")?.clone(), one.get("value")?.clone())))
        .collect();
    env.push(("KUBERNETES_EXEC_INFO".to_owned(), info.to_string()));
    let args = exec.args.as_deref().unwrap_or_default();
    let invocation =
        Invocation { program: Path::new(program), args, env: &env, input: Vec::new().into(), wait: WAIT };
    // Its standard error is not told either: with a verbose flag, such programs print their answers there.
    run_program(invocation).await.map_err(|error| error.without_output())
}

/// Takes over what the program printed.
fn read(output: &[u8], user: &mut AuthInfo) -> Result<Option<Instant>, String> {
    let no_credential = || "its output is no ExecCredential with a status".to_owned();
    let printed: Printed = serde_json::from_slice(output).map_err(|_| no_credential())?;
    let status = printed.status.ok_or_else(no_credential)?;
    let renew_at = status.expiration_timestamp.as_deref().map(renewal).transpose()?;
    let given = match (&status.client_certificate_data, &status.client_key_data, &status.token) {
        (Some(certificate), Some(key), _) => json!({"client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key.as_bytes())}),
        (_, _, Some(token)) => json!({"token": token.as_str()}),
        _ => return Err("it gives neither a token nor a certificate".to_owned()),
    };
    let given: AuthInfo = serde_json::from_value(given).map_err(|_| no_credential())?;
    user.token = given.token;
    if given.client_key_data.is_some() {
        user.client_certificate_data = given.client_certificate_data;
        user.client_key_data = given.client_key_data;
    }
    Ok(renew_at)
}

/// When a credential is to be renewed that ends at a time.
fn renewal(ends_at: &str) -> Result<Instant, String> {
    let ends_at = humantime::parse_rfc3339(ends_at).map_err(|_| "its expirationTimestamp is no time")?;
    let now = Clock::default().now().to_system_time();
    let left = ends_at.duration_since(now).map_err(|_| "its credential has expired")?;
    let used = left.saturating_sub(RENEWED_BEFORE).max(left * 3 / 4);
    Instant::now().checked_add(used).ok_or_else(|| "its expirationTimestamp is no time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(script: &str) -> AuthInfo {
        let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh",
            "args": ["-c", script], "env": [{"name": "PASSWORD", "value": "marker-env"}]});
        serde_json::from_value(json!({"exec": exec})).unwrap()
    }

    #[tokio::test]
    async fn a_program_gives_a_token_until_it_ends() {
        let printed = r#"{"status":{"token":"%s","expirationTimestamp":"2096-11-27T08:00:00Z"}}"#;
        let mut by_token = user(&format!("printf '{printed}' \"$PASSWORD\""));
        assert!(resolve(&mut by_token).await.unwrap().is_some() && by_token.exec.is_none());
        let shown = serde_json::to_value(&by_token).unwrap();
        assert_eq!(shown["token"], "marker-env");
        let mut by_certificate =
            user(r#"echo '{"status":{"clientCertificateData":"c","clientKeyData":"k"}}'"#);
        assert!(resolve(&mut by_certificate).await.unwrap().is_none());
        let shown = serde_json::to_value(&by_certificate).unwrap();
        assert_eq!(
            (&shown["client-certificate-data"], &shown["client-key-data"]),
            (&json!("Yw=="), &json!("aw=="))
        );
    }

    #[tokio::test]
    async fn neither_what_a_program_prints_nor_its_environment_is_in_an_error() {
        let scripts = [
            "echo marker-out; echo marker-err >&2; exit 3",
            "echo '{\"status\":{\"token\":\"marker-out'",
            "echo '{\"status\":{\"token\":[\"marker-out\"]}}'",
            "echo '{\"status\":{\"token\":\"marker-out\",\"expirationTimestamp\":\"marker-time\"}}'",
            "echo '{\"status\":{\"token\":\"marker-out\",\"expirationTimestamp\":\"1996-11-27T08:00:00Z\"}}'",
            "echo '{\"marker-out\":1}'",
        ];
        for script in scripts {
            let error = resolve(&mut user(script)).await.unwrap_err();
            assert!(!error.contains("marker"), "{script}: {error}");
        }
        let mut absent = user("");
        absent.exec.as_mut().unwrap().command = Some("/nonexistent/program".to_owned());
        let error = resolve(&mut absent).await.unwrap_err();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
