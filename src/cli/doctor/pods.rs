//! The watch of this node's pods: is the node's name right, what may the identity see, and do kubelet's and the
//! runtime's sockets answer?

use std::path::Path;
use std::time::Duration;

use super::finding::{Findings, Level};
use crate::cli::run_async::run_async;
use crate::config::Settings;
use crate::credentials::ProviderFiles;
use crate::kubernetes::{Access, AccountAccess, ApiServer, Config, Identity, ImageService, PodsApi};
use crate::support::causes::with_causes;

const ABOUT: &str = "kubernetes";
/// An image that the runtime is asked about; whether it has that does not matter.
const ASKED_FOR: &str = "registry.k8s.io/pause:3.10";
/// How long the API server is waited for, all questions together.
const WAIT: Duration = Duration::from_secs(15);
/// Where docs/pods.md says what each identity may see.
const SEE: &str = "docs/pods.md says what each identity may see and what it needs";

pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    of_config(&settings.kubernetes, settings.credentials.providers.as_ref(), findings);
}

fn of_config(config: &Config, plugins: Option<&ProviderFiles>, findings: &mut Findings) {
    if let Some(socket) = config.pods_api_socket() {
        let counted = run_async(async || PodsApi::new(socket.clone()).count().await)
            .map_err(|_| "no runtime for it".to_owned());
        match counted.and_then(|counted| counted.map_err(|error| with_causes(&error))) {
            Ok(pods) => findings.ok(ABOUT, format!("kubelet lists {pods} pod(s) at {}", socket.display())),
            Err(why) => {
                let what = format!("kubelet does not list its pods at {}: {why}", socket.display());
                // Where the socket is not configured, it is no more than a second source.
                let level = if config.pods_api.is_some() { Level::Problem } else { Level::Warning };
                findings.add(level, ABOUT, what, SEE);
            }
        }
    }
    if let Some(socket) = &config.runtime_socket {
        of_runtime(socket, findings);
    }
    if let Some(identity) = &config.identity {
        let audiences = audiences(config, identity, plugins, findings);
        of_api_server(config, identity, &audiences, findings);
    }
}

/// For which audiences tokens of pods' service accounts are requested.
fn audiences(
    config: &Config,
    identity: &Identity,
    plugins: Option<&ProviderFiles>,
    findings: &mut Findings,
) -> Vec<String> {
    // With a plugin configuration that cannot be used the daemon does not start, and says why.
    let audiences = plugins.map(ProviderFiles::token_audiences).and_then(Result::ok).unwrap_or_default();
    if audiences.is_empty() || config.requests_tokens(identity) {
        return audiences;
    }
    let what = "credential plugins that need tokens of pods' service accounts are not run ahead: this identity \
                requests none";
    findings.add(Level::Note, ABOUT, what, "");
    Vec::new()
}

/// Whether the runtime says which images it has.
fn of_runtime(socket: &Path, findings: &mut Findings) {
    let service = ImageService::new(socket.to_owned());
    let asked = match ASKED_FOR.parse() {
        Ok(image) => {
            run_async(async || service.status(&image).await).map_err(|_| "no runtime for it".to_owned())
        }
        Err(_) => return,
    };
    match asked.and_then(|asked| asked.map_err(|error| with_causes(&error))) {
        Ok(_) => {
            let said = format!("the runtime at {} tells this user which images it has", socket.display());
            findings.ok(ABOUT, said);
        }
        Err(why) => {
            let what = format!("the runtime at {} does not say which images it has: {why}", socket.display());
            findings.add(Level::Problem, ABOUT, what, SEE);
        }
    }
}

fn of_api_server(config: &Config, identity: &Identity, audiences: &[String], findings: &mut Findings) {
    let node = match config.node_name() {
        Ok(node) => node,
        Err(why) => {
            let what = format!("the name of this node is not known: {why}");
            return findings.add(Level::Problem, ABOUT, what, "set [kubernetes] node");
        }
    };
    let server = ApiServer::new(identity.clone(), node);
    let asked = run_async(async || tokio::time::timeout(WAIT, server.access(audiences)).await);
    let failed = |findings: &mut Findings, what: String| {
        findings.add(Level::Problem, ABOUT, format!("the API server cannot be asked: {what}"), SEE);
    };
    match asked {
        Ok(Ok(Ok(access))) => report_access(&access, server.node(), config.secrets, findings),
        Ok(Ok(Err(error))) => failed(findings, error.to_string()),
        Ok(Err(_)) => failed(findings, format!("no answer within {} s", WAIT.as_secs())),
        Err(_) => failed(findings, "no runtime for it".to_owned()),
    }
}

/// What follows from what the identity may see.
fn report_access(access: &Access, node: &str, reads_secrets: bool, findings: &mut Findings) {
    let rename = "set [kubernetes] node to the name that kubectl get nodes shows";
    match (access.knows_node, &access.pods) {
        (Some(false), _) => {
            findings.add(Level::Problem, ABOUT, format!("the API server knows no node {node}"), rename);
        }
        (_, Err(why)) => {
            findings.add(Level::Problem, ABOUT, format!("the pods of {node} cannot be listed: {why}"), SEE);
        }
        (None, Ok(0)) => {
            findings.add(Level::Warning, ABOUT, format!("no pod of a node {node} is seen"), rename);
        }
        (_, Ok(pods)) => findings.ok(ABOUT, format!("{pods} pod(s) of node {node} are seen")),
    }
    if let (Ok(_), Some(why)) = (&access.pods, &access.no_watch) {
        let what = format!("the pods of {node} can be listed and not watched: {why}");
        findings.add(Level::Problem, ABOUT, what, SEE);
    }
    match &access.secret {
        _ if !reads_secrets => {
            findings.add(
                Level::Note,
                ABOUT,
                "pull secrets are not read: pods that have some are left to kubelet",
                "",
            );
        }
        Some((name, true)) => findings.ok(ABOUT, format!("the pull secret {name} may be read")),
        Some((name, false)) => {
            let what = format!("the pull secret {name} of a pod of this node may not be read");
            findings.add(Level::Problem, ABOUT, what, SEE);
        }
        None => {
            findings.add(Level::Note, ABOUT, "no pod of this node has a pull secret to try", "");
        }
    }
    if let Some(account) = &access.account {
        of_account(account, findings);
    }
}

/// What follows for the plugins that need tokens of pods' service accounts.
fn of_account(access: &AccountAccess, findings: &mut Findings) {
    let AccountAccess { account, may_read, may_request, not_granted } = access;
    let refused = match (may_read, may_request) {
        (false, _) => format!("the service account {account} of a pod of this node may not be read"),
        (_, false) => format!("tokens of the service account {account} may not be requested"),
        (true, true) => String::new(),
    };
    if !refused.is_empty() {
        let what = format!("{refused}: credential plugins that need them are not run ahead");
        return findings.add(Level::Warning, ABOUT, what, SEE);
    }
    if not_granted.is_empty() {
        return findings.ok(ABOUT, format!("tokens of the service account {account} may be requested"));
    }
    let what = format!(
        "no rule grants tokens for the audience {} (account {account}): an API server since 1.33 gives them only for pods \
         with a volume that names it",
        not_granted.join(", ")
    );
    findings.add(
        Level::Warning,
        ABOUT,
        what,
        "grant request-serviceaccounts-token-audience, which kubelet needs too",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(access: &Access, reads_secrets: bool) -> Vec<(Level, String)> {
        let mut findings = Findings::default();
        report_access(access, "node-1", reads_secrets, &mut findings);
        findings.0.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    #[test]
    fn sockets_that_do_not_answer_are_told_without_a_kubeconfig_too() {
        let directory = tempfile::tempdir().unwrap();
        let (pods, runtime) = (directory.path().join("pods.sock"), directory.path().join("runtime.sock"));
        let kubernetes = Config {
            pods_api: Some(pods.clone()),
            runtime_socket: Some(runtime.clone()),
            ..Config::default()
        };
        let mut findings = Findings::default();
        of_config(&kubernetes, None, &mut findings);
        assert_eq!(findings.0.len(), 2);
        for (finding, socket) in findings.0.iter().zip([pods, runtime]) {
            assert!(finding.level == Level::Problem && finding.what.contains(socket.to_str().unwrap()));
        }
    }

    #[test]
    fn an_api_server_that_refuses_connections_is_one_problem_and_ends_no_other_check() {
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let text = "clusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}]\n\
                    users: [{name: u, user: {token: t}}]\n\
                    contexts: [{name: x, context: {cluster: c, user: u}}]\n\
                    current-context: x\n";
        std::fs::write(&kubeconfig, text).unwrap();
        let kubernetes = Config {
            identity: Some(Identity::Kubeconfig(kubeconfig)),
            node: Some("node-1".to_owned()),
            ..Config::default()
        };
        let mut findings = Findings::default();
        of_config(&kubernetes, None, &mut findings);
        let of_server: Vec<_> = findings
            .0
            .iter()
            .filter(|finding| finding.what.contains("the API server cannot be asked"))
            .collect();
        assert!(of_server.len() == 1 && of_server[0].level == Level::Problem, "{:?}", findings.0);
    }

    #[test]
    fn a_node_of_another_name_and_a_right_that_is_missing_are_told_with_their_remedy() {
        let good = Access {
            knows_node: Some(true),
            pods: Ok(3),
            no_watch: None,
            secret: Some(("shop/corp".to_owned(), true)),
            account: None,
        };
        assert!(levels(&good, true).iter().all(|(level, _)| *level == Level::Ok));
        assert_eq!(levels(&good, false)[1].0, Level::Note);
        for bad in [
            Access { knows_node: Some(false), pods: Ok(0), ..good.clone() },
            Access { pods: Err("denied".to_owned()), ..good.clone() },
            Access { no_watch: Some("the identity may not".to_owned()), ..good.clone() },
            Access { secret: Some(("shop/corp".to_owned(), false)), ..good.clone() },
        ] {
            let found = levels(&bad, true);
            assert_eq!(found.iter().filter(|(level, _)| *level == Level::Problem).count(), 1, "{found:?}");
        }
        let account = AccountAccess {
            account: "shop/web".to_owned(),
            may_read: true,
            may_request: true,
            not_granted: Vec::new(),
        };
        let with = |account: AccountAccess| levels(&Access { account: Some(account), ..good.clone() }, true);
        assert!(with(account.clone()).iter().all(|(level, _)| *level == Level::Ok));
        for (bad, said) in [
            (AccountAccess { may_read: false, ..account.clone() }, "may not be read"),
            (AccountAccess { may_request: false, ..account.clone() }, "may not be requested"),
            (AccountAccess { not_granted: vec!["reg".to_owned()], ..account }, "audience reg"),
        ] {
            let found = with(bad);
            let warned: Vec<_> = found.iter().filter(|(level, _)| *level == Level::Warning).collect();
            assert!(warned.len() == 1 && warned[0].1.contains(said), "{found:?}");
        }
        let unnamed = Access { knows_node: None, pods: Ok(0), ..good };
        assert_eq!(levels(&unnamed, true)[0].0, Level::Warning);
    }
}
