//! Plugins that ask for a token of a pod's service account: a real program, and a scripted source of tokens.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::credentials::Secret;

/// Every account has the annotations, and every pod a token of its own.
#[derive(Default)]
struct Scripted {
    annotations: BTreeMap<String, String>,
    wrong: Option<AccountError>,
    requested: Mutex<HashMap<String, usize>>,
}

impl AccountSource for Scripted {
    fn account<'a>(&'a self, pod: &'a PodAccount) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
        let uid = format!("uid-{}", pod.service_account);
        async { Ok(ServiceAccount { uid, annotations: self.annotations.clone() }) }.boxed()
    }

    fn token<'a>(
        &'a self,
        pod: &'a PodAccount,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Secret, AccountError>> {
        *self.requested.lock().entry(pod.pod.clone()).or_default() += 1;
        let token = format!("{audience}.{}.{}.{}", pod.namespace, pod.service_account, pod.pod);
        async move { self.wrong.clone().map_or(Ok(token.into()), Err) }.boxed()
    }
}

struct Plugin {
    directory: tempfile::TempDir,
    providers: Providers,
    source: Scripted,
}

/// A plugin whose user is the annotation that it is told, and whose password is `password`; `TOKEN` in it is the token.
fn plugin(attributes: &str, password: &str) -> Plugin {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h","auth":{"*.test":{"username":"USER","password":"PASSWORD"}}}"#;
    let told = |name: &str| format!(r#"$(sed -n 's/.*"{name}":"\([^"]*\)".*/\1/p' {at}/last)"#);
    let script = format!(
        "#!/bin/sh\ncat > {at}/last\necho x >> {at}/runs\nUSER=\"{}\"\nTOKEN=\"{}\"\nsed -e \"s/USER/${{USER:-none}}/\" -e \"s/PASSWORD/{password}/\" <<'E'\n{answer}\nE\n",
        told("role"),
        told("serviceAccountToken"),
    );
    let program = directory.path().join("plugin");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.path().join("config.yaml");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"*.test\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  tokenAttributes: {{serviceAccountTokenAudience: reg, {attributes}}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let providers =
        Providers::new(read(&config).unwrap(), directory.path(), &Tasks::default(), RunPlaces::default());
    let annotations = BTreeMap::from([("role".to_owned(), "reader".to_owned())]);
    Plugin { directory, providers, source: Scripted { annotations, ..Scripted::default() } }
}

impl Plugin {
    fn runs(&self) -> usize {
        std::fs::read_to_string(self.directory.path().join("runs")).unwrap_or_default().lines().count()
    }

    /// User and password for a pod, written as `namespace/account/name`.
    async fn gives(&self, image: &str, pod: &str) -> Result<Vec<String>, AccountError> {
        let mut parts = pod.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap();
        let pod =
            PodAccount { namespace: next(), service_account: next(), pod: next(), uid: "uid".to_owned() };
        let ring = self.providers.account_ring(image, &pod, &self.source).await?;
        let shown = |credential: Option<Credential>| match credential {
            Some(Credential::Password { username, password }) => format!("{username}:{}", password.reveal()),
            _ => "-".to_owned(),
        };
        Ok(ring.lookup(image).into_iter().map(|(_, credential)| shown(credential)).collect())
    }

    fn requested(&self) -> usize {
        self.source.requested.lock().values().sum()
    }
}

const BY_TOKEN: &str =
    "cacheType: Token, requireServiceAccount: true, optionalServiceAccountAnnotationKeys: [role]";
const BY_ACCOUNT: &str =
    "cacheType: ServiceAccount, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [role]";

#[tokio::test]
async fn a_plugin_is_told_the_token_and_the_annotations_that_it_may_have_and_no_other() {
    let mut plugin = plugin(BY_TOKEN, "$TOKEN");
    plugin.source.annotations.insert("secret".to_owned(), "marker".to_owned());
    assert_eq!(plugin.gives("a.test/x", "shop/web/p1").await.unwrap(), ["reader:reg.shop.web.p1"]);
    let last = std::fs::read(plugin.directory.path().join("last")).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&last).unwrap();
    let expected = serde_json::json!({"kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": "a.test/x",
        "serviceAccountToken": "reg.shop.web.p1", "serviceAccountAnnotations": {"role": "reader"}});
    assert_eq!(told, expected);
    assert!(plugin.gives("other.io/x", "shop/web/p1").await.unwrap().is_empty());
    assert_eq!((plugin.runs(), plugin.requested()), (1, 1), "for no other image");
    // The node's own pulls never run it.
    assert!(plugin.providers.ring("a.test/x").await.ring.lookup("a.test/x").is_empty());
    assert!(
        !plugin.providers.is_responsible_for("a.test/x") && plugin.providers.wants_account_for("a.test/x")
    );
    assert_eq!(plugin.runs(), 1);
}

#[tokio::test]
async fn what_a_plugin_gave_for_one_account_is_never_given_to_another() {
    let by_token = plugin(BY_TOKEN, "$TOKEN");
    let by_account = plugin(BY_ACCOUNT, "for-$(echo $TOKEN | cut -d. -f2,3)");
    for (plugin, of_p2) in [(&by_token, "reader:reg.shop.web.p2"), (&by_account, "reader:for-shop.web")] {
        for _ in 0..2 {
            let own = plugin.gives("a.test/x", "shop/web/p1").await.unwrap();
            assert!(own[0].contains("shop.web"), "{own:?}");
            let other = plugin.gives("a.test/x", "shop/other/p3").await.unwrap();
            assert!(other[0].contains("shop.other"), "{other:?}");
            let far = plugin.gives("a.test/x", "bank/web/p4").await.unwrap();
            assert!(far[0].contains("bank.web"), "{far:?}");
        }
        assert_eq!(plugin.gives("a.test/y", "shop/web/p2").await.unwrap(), [of_p2]);
    }
    assert_eq!(by_token.runs(), 4, "once for each token");
    assert_eq!((by_account.runs(), by_account.requested()), (3, 3), "once for each account, with one token");
}

#[tokio::test]
async fn another_annotation_or_none_is_another_answer() {
    let mut plugin = plugin(BY_ACCOUNT, "p");
    assert_eq!(plugin.gives("a.test/x", "shop/web/p1").await.unwrap(), ["reader:p"]);
    plugin.source.annotations.insert("role".to_owned(), "writer".to_owned());
    assert_eq!(plugin.gives("a.test/x", "shop/web/p1").await.unwrap(), ["writer:p"]);
    plugin.source.annotations.clear();
    assert!(plugin.gives("a.test/x", "shop/web/p1").await.unwrap().is_empty(), "a required one is missing");
    assert_eq!((plugin.runs(), plugin.requested()), (2, 2));
}

#[tokio::test]
async fn a_token_that_comes_back_as_password_is_not_kept_for_an_account() {
    let plugin = plugin(BY_ACCOUNT, "$TOKEN");
    assert!(plugin.gives("a.test/x", "shop/web/p1").await.unwrap().is_empty());
    assert_eq!(plugin.runs(), 1);
}

#[tokio::test]
async fn a_token_that_may_not_be_had_runs_nothing_and_one_that_is_not_known_says_so() {
    let mut plugin = plugin(BY_TOKEN, "p");
    for (wrong, is_known) in [
        (AccountError::Forbidden("no".to_owned()), true),
        (AccountError::Missing, true),
        (AccountError::Unavailable("away".to_owned()), false),
    ] {
        plugin.source.wrong = Some(wrong);
        let given = plugin.gives("a.test/x", "shop/web/p1").await;
        assert_eq!(given.is_ok(), is_known, "{given:?}");
        assert!(given.unwrap_or_default().is_empty());
    }
    assert_eq!(plugin.runs(), 0);
}

#[tokio::test]
async fn a_plugin_that_prints_its_input_puts_no_token_into_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("plugin");
    std::fs::write(&program, "#!/bin/sh\ncat >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let input = response::request(response::ApiVersion::V1, "a.test/x", Some(("marker", &BTreeMap::new())));
    let run = exec::run(Invocation { program: &program, args: &[], env: &[], input, wait: WAIT }).await;
    let shown = account::why(run.unwrap_err(), true);
    assert!(!shown.contains("marker"), "{shown}");
}
