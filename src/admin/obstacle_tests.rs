use super::*;
use crate::admin::explain::{
    AccessOutlook, CachedOutlook, CredentialOutlook, FreshnessOutlook, PlatformOutlook, RightOutlook,
};
use crate::admin::registries::RateLimitReport;

type Change<'a> = &'a dyn Fn(&mut Explanation);

const NOW: Timestamp = Timestamp(10_000);

/// A public image that was pulled, of a registry that answers; upstream is asked what the tag names.
fn pulled() -> Explanation {
    let platform = PlatformOutlook {
        here: true,
        of_this_node: true,
        blobs: 3,
        blobs_here: 3,
        bytes: 3 << 20,
        bytes_here: 3 << 20,
        ..PlatformOutlook::default()
    };
    Explanation {
        registry: "reg.test".to_owned(),
        endpoints: vec![EndpointOutlook {
            url: "https://reg.test/v2".to_owned(),
            authoritative: true,
            ..EndpointOutlook::default()
        }],
        access: AccessOutlook { rights: vec![right("anonymous", true)], ..AccessOutlook::default() },
        cached: Some(CachedOutlook { here: true, platforms: vec![platform], ..CachedOutlook::default() }),
        freshness: Some(FreshnessOutlook {
            stale_if_error_seconds: 60,
            asks_first: true,
            ..FreshnessOutlook::default()
        }),
        ..Explanation::default()
    }
}

fn right(whose: &str, usable: bool) -> RightOutlook {
    let whose = whose.to_owned();
    RightOutlook { whose, proved_at: NOW, fresh: true, holds_in_outage: true, usable }
}

fn request(ended: &str, at: u64, reason: &str) -> RecentRequest {
    RecentRequest {
        at: Timestamp(at),
        request: 7,
        client: "127.0.0.1:1".to_owned(),
        user: None,
        method: "GET".to_owned(),
        reference: Some("v1".to_owned()),
        status: Some(404),
        ended: ended.to_owned(),
        source: None,
        upstream: Vec::new(),
        download: None,
        bytes: 0,
        duration_ms: 0,
        reason: Some(reason.to_owned()),
    }
}

/// What stands in the way after `change`.
fn obstacle(change: impl FnOnce(&mut Explanation)) -> Option<String> {
    let mut explanation = pulled();
    change(&mut explanation);
    explanation.first_obstacle(NOW, &names())
}

/// What is asked about, and a digest that is known to be of it.
fn names() -> HashSet<String> {
    ["v1", "sha256:own"].map(str::to_owned).into()
}

fn fail(explanation: &mut Explanation) {
    explanation.endpoints[0].error = Some("connection refused".to_owned());
}

/// A credential of a pull secret or of the node that matches the image.
fn credential(source: &str) -> CredentialOutlook {
    CredentialOutlook {
        source: source.to_owned(),
        username: "ann".to_owned(),
        ..CredentialOutlook::default()
    }
}

#[test]
fn a_rate_limit_of_the_node_is_no_obstacle_to_a_pod_with_an_account_of_its_own() {
    let limited = |source: &str, principal: &str| {
        obstacle(|explanation| {
            explanation.credentials = vec![credential(source)];
            explanation.rate_limits = vec![RateLimitReport {
                repository: None,
                principal: principal.to_owned(),
                limit: Some(100),
                remaining: Some(0),
                retry_after_seconds: Some(60),
            }];
        })
    };
    assert_eq!(limited("pull-secret", "node"), None);
    assert!(limited("pull-secret", "caller").unwrap().contains("(caller)"));
    assert!(limited("node", "node").unwrap().contains("(node)"));
}

#[test]
fn a_repository_that_refuses_anonymous_callers_is_open_to_a_credential_that_matches() {
    let refused = |credentials: Vec<CredentialOutlook>| {
        obstacle(|explanation| {
            explanation.access.rights.clear();
            explanation.access.refuses_anonymous = true;
            explanation.credentials = credentials;
        })
    };
    assert!(refused(Vec::new()).unwrap().contains("no credential matches"));
    assert_eq!(refused(vec![credential("pull-secret")]), None);
}

#[test]
fn nothing_stands_in_the_way_of_what_is_cached_or_can_be_asked_for() {
    assert_eq!(obstacle(|_| {}), None);
    assert_eq!(obstacle(|e| e.cached = None), None);
    assert_eq!(obstacle(|e| e.access.rights.clear()), None);
    assert_eq!(obstacle(fail), None, "what was pulled is served while the registry is away");
    let by_digest = |e: &mut Explanation| {
        e.freshness = None;
        fail(e);
    };
    assert_eq!(obstacle(by_digest), None);
}

#[test]
fn the_first_thing_in_the_way_is_named_whatever_else_is_wrong() {
    let no_endpoint = |e: &mut Explanation| e.endpoints[0].authoritative = false;
    let limited = |e: &mut Explanation| {
        e.rate_limits = vec![RateLimitReport {
            repository: None,
            principal: "anonymous".to_owned(),
            limit: None,
            remaining: None,
            retry_after_seconds: Some(90),
        }];
    };
    let closed = |e: &mut Explanation| {
        e.access.refuses_anonymous = true;
        e.access.rights = vec![right("caller", false)];
    };
    let failed = |e: &mut Explanation| e.recent = vec![request("refused", 9_990, "there is no such tag")];
    let away = |e: &mut Explanation| {
        fail(e);
        e.cached = None;
    };
    let steps: [(&str, Change<'_>); 6] = [
        ("request 7, 10s ago, for v1 was refused: there is no such tag", &failed),
        ("reg.test refuses anonymous access to this repository, and no credential matches", &closed),
        ("reg.test limits this node's requests (anonymous): it is asked again in 1m 30s", &limited),
        (
            "reg.test cannot be asked (https://reg.test/v2: connection refused), and nothing of the image",
            &away,
        ),
        ("no endpoint of reg.test is authoritative", &no_endpoint),
        ("the operator permits no request to reg.test: why", &|e| e.not_permitted = Some("why".to_owned())),
    ];
    let mut all = pulled();
    for (expected, change) in steps {
        change(&mut all);
        let named = all.first_obstacle(NOW, &names()).unwrap_or_default();
        assert!(named.starts_with(expected), "{expected}: {named}");
    }
}

#[test]
fn an_outage_stands_in_the_way_of_what_may_not_be_served_meanwhile() {
    let reason = |change: Change<'_>| {
        let found = obstacle(|e| {
            fail(e);
            change(e);
        });
        found.unwrap_or_default().rsplit(", and ").next().unwrap_or_default().to_owned()
    };
    let incomplete = |e: &mut Explanation| e.cached.as_mut().unwrap().platforms[0].blobs_here = 2;
    let no_right = |e: &mut Explanation| e.access.rights = vec![right("caller", false)];
    let not_stale = |e: &mut Explanation| e.freshness.as_mut().unwrap().stale_if_error_seconds = 0;
    assert_eq!(reason(&incomplete), "not all of the image is in the store");
    assert_eq!(reason(&no_right), "no right of this caller holds meanwhile");
    assert_eq!(reason(&not_stale), "stale_if_error lets nothing older be served");
    let second = |e: &mut Explanation| {
        incomplete(e);
        e.endpoints.push(EndpointOutlook { authoritative: true, ..EndpointOutlook::default() });
    };
    assert_eq!(reason(&second), "", "another endpoint of the registry answers");
}

#[test]
fn what_ended_well_or_long_ago_or_was_a_mere_challenge_is_no_obstacle() {
    let after = |requests: Vec<RecentRequest>| obstacle(|e| e.recent = requests);
    assert_eq!(after(vec![request("served", 9_999, ""), request("failed", 9_990, "x")]), None);
    assert_eq!(after(vec![request("failed", 1_000, "x")]), None);
    assert_eq!(after(vec![request("challenged", 9_999, "x")]), None);
    let refused = obstacle(|e| {
        e.recent = vec![request("challenged", 9_999, "it refuses the node's credential")];
        let (source, username) = ("node".to_owned(), "ann".to_owned());
        e.credentials.push(CredentialOutlook { source, username, ..CredentialOutlook::default() });
    });
    assert!(refused.is_some_and(|said| said.ends_with(": it refuses the node's credential")));
    let hidden = vec![request("challenged", 9_999, "x"), request("failed", 9_990, "y")];
    assert!(after(hidden).is_some_and(|said| said.ends_with(": y")));
}

#[test]
fn a_failure_of_another_image_of_the_repository_is_no_obstacle() {
    let with = |reference: Option<&str>, ended: &str, at: u64| RecentRequest {
        reference: reference.map(str::to_owned),
        ..request(ended, at, "why")
    };
    let after = |requests: Vec<RecentRequest>| obstacle(|e| e.recent = requests);
    for other in [Some("v9"), Some("sha256:other"), None] {
        assert_eq!(after(vec![with(other, "refused", 9_999)]), None, "{other:?}");
    }
    let own = with(Some("sha256:own"), "failed", 9_990);
    let found = after(vec![with(Some("v9"), "served", 9_999), own]);
    assert!(
        found.is_some_and(|found| found.contains("for sha256:own was failed")),
        "another's success hides nothing"
    );
}

#[test]
fn the_steps_say_what_is_asked_of_whom_and_what_comes_from_where() {
    let mut partly = pulled();
    partly.cached.as_mut().unwrap().platforms[0].blobs_here = 1;
    partly.cached.as_mut().unwrap().platforms[0].bytes_here = 1 << 20;
    let mirror = EndpointOutlook { url: "https://mirror/v2".to_owned(), ..EndpointOutlook::default() };
    partly.endpoints.insert(0, mirror);
    partly.credentials.push(CredentialOutlook {
        source: "pull-secret".to_owned(),
        file: "team.yaml".to_owned(),
        username: "ann".to_owned(),
        ..CredentialOutlook::default()
    });
    assert_eq!(
        partly.next_steps(),
        [
            "https://reg.test/v2 is asked what the tag names, with the credential of team.yaml",
            "2 blob(s) of 2.0 MiB come from https://mirror/v2, the rest from the store"
        ]
    );
    let mut still = pulled();
    still.freshness.as_mut().unwrap().asks_first = false;
    assert_eq!(still.next_steps()[0], "the tag means what it last named, without a question");
    assert_eq!(still.next_steps().len(), 2);
}

#[test]
fn a_pull_or_pre_pull_that_failed_is_not_passed_over() {
    let after = |at: u64, of_list: bool, recent: Vec<RecentRequest>| {
        obstacle(|explanation| {
            let error = "reg.test refused access (401): it refuses the node's credential".to_owned();
            let at = Timestamp(at);
            explanation.failed_fetch = Some(FailedFetchOutlook { at, error, of_list, met_by_pods: true });
            explanation.recent = recent;
        })
    };
    let said = after(9_990, false, Vec::new()).unwrap();
    assert_eq!(
        said,
        "larder pull of it failed 10s ago: reg.test refused access (401): it refuses the node's credential"
    );
    assert!(after(9_990, true, Vec::new()).unwrap().starts_with("pre-pull of it failed 10s ago: "));
    assert!(after(9_990, false, vec![request("served", 9_980, "")]).is_some(), "what was served before");
    assert_eq!(after(9_990, false, vec![request("served", 9_991, "")]), None, "it was served since");
    assert_eq!(after(1_000, false, Vec::new()), None, "that was long ago");
    assert!(after(1_000, true, Vec::new()).is_some(), "it stands until it is tried again");
    let of_another_platform = obstacle(|explanation| {
        let error = "it is not there for windows/amd64, only for linux/amd64".to_owned();
        let (at, of_list) = (Timestamp(9_990), false);
        explanation.failed_fetch = Some(FailedFetchOutlook { at, error, of_list, met_by_pods: false });
    });
    assert_eq!(of_another_platform, None, "a pod's pull needs no such platform");
}
