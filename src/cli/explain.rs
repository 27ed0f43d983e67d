//! `larder explain IMAGE`: how a pull of an image would go now, asked of the running daemon.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::credentials::pull_secrets;
use super::failure::Failure;
use super::output::{print_json, print_titled, shown_duration};
use super::run_async::ask_daemon;
use crate::admin::control::Explain;
use crate::admin::{
    CachedOutlook, EndpointOutlook, Explanation, FreshnessOutlook, RateLimitReport, RightOutlook, TierOutlook,
};
use crate::kubernetes::PodOutlook;
use crate::reference::Image;
use crate::serve::RecentRequest;
use crate::support::clock::{Clock, Timestamp};
use crate::support::size;

/// Requests of the past that a person is shown.
const RECENT_SHOWN: usize = 8;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An image name as in a pod: registry.corp/team/app:v1
    image: Image,
    /// Ask as a pod with this pull secret would: docker config, Secret manifest, or a directory of them
    #[arg(long = "pull-secret", value_name = "FILE")]
    pull_secrets: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let secrets = pull_secrets(&arguments.pull_secrets)?;
    let command = Explain { image: arguments.image.to_string(), secrets };
    let explanation = ask_daemon(&context.daemon_socket()?, &command)?;
    if arguments.json {
        return print_json(&explanation);
    }
    print_titled(&lines(&explanation, Clock::system().now()))
}

/// The lines that a person is shown, each with its title.
fn lines(explanation: &Explanation, now: Timestamp) -> Vec<(&'static str, String)> {
    let ago = |at: Timestamp| format!("{} ago", shown_duration(at.age_at(now)));
    let mut lines = vec![("image", explanation.image.clone())];
    let nothing = "nothing that is known stands in the way".to_owned();
    lines.push(("obstacle", explanation.obstacle.clone().unwrap_or(nothing)));
    add(&mut lines, "next", explanation.steps.iter().cloned());
    let section =
        if explanation.configured { "has a [[registry]] section" } else { "no [[registry]] section" };
    let outage =
        explanation.outage_since.map_or(String::new(), |at| format!("; cannot be asked since {}", ago(at)));
    lines.push(("registry", format!("{}, {section}{outage}", explanation.registry)));
    add(&mut lines, "endpoints", explanation.endpoints.iter().map(shown_endpoint));
    add(&mut lines, "limits", explanation.rate_limits.iter().map(shown_limit));
    let credentials = explanation.credentials.iter().map(|found| {
        let user = if found.username.is_empty() { "(no user name)" } else { &found.username };
        format!("{:<12} {}  {}  {user}", found.source, found.key, found.file)
    });
    add_or(&mut lines, "credentials", credentials, "none matches: it is asked for without one");
    lines.extend(explanation.credential_problems.iter().map(|problem| ("credentials", problem.clone())));
    let access = &explanation.access;
    if access.open {
        lines.push(("access", "what is cached is open to every pod (policy = \"open\")".to_owned()));
    }
    if access.refuses_anonymous {
        lines.push(("access", "the registry refused anonymous access and the node's credentials".to_owned()));
    }
    add_or(&mut lines, "rights", access.rights.iter().map(|right| shown_right(right, now)), "none is known");
    match &explanation.cached {
        None => lines.push(("cached", "nothing under this name".to_owned())),
        Some(cached) => add(&mut lines, "cached", shown_cached(cached)),
    }
    lines.extend(explanation.tier.iter().map(|tier| ("tier", shown_tier(tier))));
    if let Some(freshness) = &explanation.freshness {
        lines.push(("freshness", shown_freshness(freshness, now)));
    }
    let pins = explanation.pins.iter().map(|owner| format!("by {owner}"));
    add_or(&mut lines, "pinned", pins, "no");
    let failed = explanation.failed_fetch.iter();
    add(&mut lines, "fetch", failed.map(|failed| format!("failed {}: {}", ago(failed.at), failed.error)));
    add(&mut lines, "pods", explanation.pods.iter().map(shown_pod));
    let recent = explanation.recent.iter().take(RECENT_SHOWN).map(|request| shown_request(request, now));
    add_or(&mut lines, "last", recent, "no request since the start");
    lines
}

fn shown_endpoint(endpoint: &EndpointOutlook) -> String {
    let role = if endpoint.authoritative { "authoritative" } else { "mirror" };
    let shown = match endpoint.credentials.as_str() {
        "node" => "any credential",
        "caller" => "callers' credentials",
        _ => "no credential",
    };
    let failing = Duration::from_secs(endpoint.failing_seconds.unwrap_or(0));
    let health = endpoint.error.as_ref().map_or("answers, as far as is known".to_owned(), |error| {
        format!("has been failing for {}: {error}", shown_duration(failing))
    });
    format!("{}  {role}, may be shown {shown}; {health}", endpoint.url)
}

fn shown_limit(limit: &RateLimitReport) -> String {
    let left = match (limit.remaining, limit.limit) {
        (Some(remaining), Some(limit)) => format!("{remaining} of {limit} requests left"),
        (Some(remaining), None) => format!("{remaining} requests left"),
        (None, Some(limit)) => format!("{limit} requests at most"),
        (None, None) => "the registry limits them, and does not say to how many".to_owned(),
    };
    let wait = limit.retry_after_seconds.map_or(String::new(), |wait| {
        format!("; asked again in {}", shown_duration(Duration::from_secs(wait)))
    });
    format!("{}: {left}{wait}", limit.principal)
}

fn shown_tier(tier: &TierOutlook) -> String {
    if tier.left_out {
        return "it is not used for this registry ([tier] registries)".to_owned();
    }
    match (&tier.fails, tier.has_manifest) {
        (Some(kind), _) => format!("it fails ({kind}); the registry is asked instead"),
        (None, Some(true)) => {
            "it has the manifest; its bytes are used once the registry confirms them".to_owned()
        }
        (None, Some(false)) => "it does not have the manifest".to_owned(),
        (None, None) => "it is looked into for what is not here".to_owned(),
    }
}

fn add(lines: &mut Vec<(&'static str, String)>, title: &'static str, all: impl IntoIterator<Item = String>) {
    lines.extend(all.into_iter().enumerate().map(|(n, line)| (if n == 0 { title } else { "" }, line)));
}

fn add_or(
    lines: &mut Vec<(&'static str, String)>,
    title: &'static str,
    all: impl Iterator<Item = String>,
    none: &str,
) {
    let mut all = all.peekable();
    match all.peek() {
        None => lines.push((title, none.to_owned())),
        Some(_) => add(lines, title, all),
    }
}

fn shown_right(right: &RightOutlook, now: Timestamp) -> String {
    let whose = match right.whose.as_str() {
        "anonymous" => "every client (the image is public)",
        "node" => "every pod, through a credential of the node",
        "provider" => "every pod, through a credential plugin",
        _ if right.usable => "who has this pull secret",
        _ => "who has another credential of its own",
    };
    let fresh = if right.fresh { "counts without a question" } else { "is proved anew by the next pull" };
    let lost = if right.holds_in_outage { "" } else { ", and would not hold in an outage" };
    format!("{whose}; proved {} ago, {fresh}{lost}", shown_duration(right.proved_at.age_at(now)))
}

fn shown_pod(pod: &PodOutlook) -> String {
    let secrets = if pod.pull_secrets.is_empty() {
        "no pull secret".to_owned()
    } else {
        format!("pull secrets {}", pod.pull_secrets.join(", "))
    };
    format!("{} ({secrets}): {}", pod.pod, pod.state)
}

fn shown_cached(cached: &CachedOutlook) -> Vec<String> {
    let kind = if cached.index { "index" } else { "manifest" };
    let here = if cached.here { "" } else { ", not in the store" };
    let mut lines = vec![format!("{kind} {}{here}", cached.digest)];
    lines.extend(cached.platforms.iter().map(|platform| {
        let name = match platform.platform.as_str() {
            "" if cached.index => "(no platform)",
            // Its platform stands in its config alone.
            "" => "(single image)",
            name => name,
        };
        let own = if platform.of_this_node { "  <- this node" } else { "" };
        if !platform.here {
            return format!("{name:<16} not in the store{own}");
        }
        let (here, all) = (size::shown(platform.bytes_here), size::shown(platform.bytes));
        format!("{name:<16} {} of {} blobs, {here} of {all}{own}", platform.blobs_here, platform.blobs)
    }));
    lines
}

fn shown_freshness(freshness: &FreshnessOutlook, now: Timestamp) -> String {
    let span = |seconds: u64| shown_duration(Duration::from_secs(seconds));
    let ttl = match freshness.tag_ttl_seconds {
        None => "the tag never moves".to_owned(),
        Some(0) => "upstream is asked at every pull".to_owned(),
        Some(ttl) => format!("upstream's answer counts for {}", span(ttl)),
    };
    let rule = freshness.rule.as_ref().map_or(String::new(), |rule| format!(" (rule {rule:?})"));
    let outage =
        format!("in an outage the last answer is served for {}", span(freshness.stale_if_error_seconds));
    let confirmed = freshness.confirmed_at.map_or("never confirmed".to_owned(), |at| {
        format!("confirmed {} ago", shown_duration(at.age_at(now)))
    });
    format!("{ttl}{rule}; {outage}; {confirmed}")
}

fn shown_request(request: &RecentRequest, now: Timestamp) -> String {
    let RecentRequest { request: id, method, status, ended, source, bytes, reason, .. } = request;
    let what = request.reference.as_deref().unwrap_or("a list");
    let status = status.map_or(String::new(), |status| format!(" {status}"));
    let source = source.as_ref().map_or(String::new(), |source| format!(" ({source})"));
    let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    let (ago, bytes) = (shown_duration(request.at.age_at(now)), size::shown(*bytes));
    format!("{ago} ago  request {id}  {method} {what}{status} {ended}{source}, {bytes}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{FailedFetchOutlook, PlatformOutlook};

    #[test]
    fn a_limit_of_which_no_number_is_known_is_no_question_to_the_reader() {
        let said = |remaining, limit| {
            let principal = "anonymous".to_owned();
            shown_limit(&RateLimitReport {
                principal,
                repository: None,
                remaining,
                limit,
                retry_after_seconds: Some(60),
            })
        };
        assert_eq!(said(Some(3), Some(100)), "anonymous: 3 of 100 requests left; asked again in 1m");
        for (remaining, limit) in [(None, None), (Some(3), None), (None, Some(100))] {
            assert!(!said(remaining, limit).contains('?'), "{}", said(remaining, limit));
        }
    }

    #[test]
    fn an_image_without_an_index_is_not_said_to_have_no_platform() {
        let own = PlatformOutlook { here: true, of_this_node: true, ..PlatformOutlook::default() };
        let cached = CachedOutlook { here: true, platforms: vec![own], ..CachedOutlook::default() };
        let lines = shown_cached(&cached).concat();
        assert!(lines.contains("(single image)") && !lines.contains("no platform"), "{lines}");
    }

    #[test]
    fn a_fetch_ahead_that_failed_is_shown_where_it_is_no_obstacle_too() {
        let error = "it is not there for windows/amd64, only for linux/amd64".to_owned();
        let failed = FailedFetchOutlook { at: Timestamp(990), error, of_list: false, met_by_pods: false };
        let explanation = Explanation { failed_fetch: Some(failed), ..Explanation::default() };
        let lines = lines(&explanation, Timestamp(1_000));
        let shown = lines.iter().find(|(title, _)| *title == "fetch").map(|(_, shown)| shown.as_str());
        let expected = "failed 10s ago: it is not there for windows/amd64, only for linux/amd64";
        assert_eq!(shown, Some(expected));
    }
}
