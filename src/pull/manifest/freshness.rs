//! What a tag means now: pure decisions from what upstream said, what was remembered, and the operator's rules.
//!
//! Without a rule upstream is asked at every resolve. While it cannot be reached, what the tag last meant is served. A
//! "no" is never overridden by memory, and what is attached to an image (signatures, attestations) is never taken from
//! it without auth.

use std::collections::HashMap;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};

use crate::reference::{Digest, Registry, Repository, Tag};
use crate::store::TagRecord;
use crate::upstream;

/// How long into an outage a signature or attestation is served: an old one may have been withdrawn.
const ATTACHED_STALE_MAX: Duration = Duration::from_secs(3_600);

/// How long what upstream said about a tag is taken as true without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagTtl {
    /// For so long; zero: it is asked every time.
    For(Duration),
    /// For ever: this tag never moves.
    Immutable,
}

/// How fresh what a tag means has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How long upstream's word counts.
    pub tag_ttl: TagTtl,
    /// For so long after that it is served once more, and asked about behind the caller's back (RFC 5861 section 3).
    pub stale_while_revalidate: Duration,
    /// How long into an outage it is served (RFC 5861 section 4, counted from the start of the outage).
    pub stale_if_error: Duration,
}

/// Whether upstream has to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What it said still counts.
    No,
    /// What it said is served, and it is asked behind the caller's back.
    Behind,
    /// Before anything is served.
    First,
}

impl Freshness {
    /// About what was said so long ago.
    pub(crate) fn ask(&self, age: Duration) -> Ask {
        match self.tag_ttl {
            TagTtl::Immutable => Ask::No,
            TagTtl::For(ttl) if age < ttl => Ask::No,
            TagTtl::For(ttl) if age < ttl.saturating_add(self.stale_while_revalidate) => Ask::Behind,
            TagTtl::For(_) => Ask::First,
        }
    }
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            tag_ttl: TagTtl::For(Duration::ZERO),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::from_secs(30 * 86_400),
        }
    }
}

/// A rule for the tags that its pattern matches; what it does not say is as for the registry.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Of `registry/repository:tag`; `*` stays within a segment, `**` stands for any number of them.
    pub matches: GlobMatcher,
    /// For those.
    pub tag_ttl: Option<TagTtl>,
    /// For those.
    pub stale_while_revalidate: Option<Duration>,
    /// For those.
    pub stale_if_error: Option<Duration>,
}

/// What the operator said about the freshness of tags.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// For registries without a word of their own.
    pub freshness: Freshness,
    /// For these registries.
    pub registries: HashMap<Registry, Freshness>,
    /// The first that matches counts.
    pub rules: Vec<Rule>,
}

/// Reads the pattern of a rule.
///
/// # Errors
/// It is malformed.
pub fn pattern_of(text: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(text).literal_separator(true).build()?.compile_matcher())
}

impl Rules {
    /// For this tag.
    pub(crate) fn of(&self, repository: &Repository, tag: &Tag) -> Freshness {
        let base = *self.registries.get(repository.registry()).unwrap_or(&self.freshness);
        let rule = if self.rules.is_empty() {
            None
        } else {
            let name = format!("{repository}:{tag}");
            self.rules.iter().find(|rule| rule.matches.is_match(&name))
        };
        let freshness = rule.map_or(base, |rule| Freshness {
            tag_ttl: rule.tag_ttl.unwrap_or(base.tag_ttl),
            stale_while_revalidate: rule.stale_while_revalidate.unwrap_or(base.stale_while_revalidate),
            stale_if_error: rule.stale_if_error.unwrap_or(base.stale_if_error),
        });
        if !is_attached(tag) {
            return freshness;
        }
        let stale_if_error = freshness.stale_if_error.min(ATTACHED_STALE_MAX);
        let tag_ttl = TagTtl::For(Duration::ZERO);
        Freshness { tag_ttl, stale_while_revalidate: Duration::ZERO, stale_if_error }
    }
}

/// Whether a tag names something attached to an image: `sha256-<hex>`, as the referrers tag schema of the distribution
/// specification has it, or the same with `.sig`, `.att` or `.sbom`, as cosign does.
fn is_attached(tag: &Tag) -> bool {
    let tag = tag.as_str();
    let hex = tag.strip_prefix("sha256-").map(|rest| rest.split_once('.').map_or(rest, |(hex, _)| hex));
    hex.is_some_and(|hex| Digest::from_hex(hex).is_ok())
}

/// What upstream said about a tag.
pub(crate) type Said = Result<Option<Digest>, upstream::Error>;

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Serve this manifest: upstream says so now.
    Current(Digest),
    /// Upstream has the tag but did not say which manifest: fetch it by its tag.
    Fetch,
    /// Upstream is in an outage: serve what the tag last meant, marked as stale.
    Stale(TagRecord, upstream::Error),
    /// Upstream has no such tag: forget it and say so.
    Forget(upstream::Error),
    /// Nothing may be served.
    Fail(upstream::Error),
}

/// Decides.
pub(crate) fn judge(said: Said, remembered: Option<TagRecord>) -> Verdict {
    match (said, remembered) {
        (Ok(Some(digest)), _) => Verdict::Current(digest),
        (Ok(None), _) => Verdict::Fetch,
        (Err(error), Some(record)) if error.is_outage() => Verdict::Stale(record, error),
        (Err(error @ upstream::Error::NotFound { .. }), Some(_)) => Verdict::Forget(error),
        (Err(error), _) => Verdict::Fail(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::Timestamp;
    use crate::upstream::{ConnectStage, Error};

    const HOUR: Duration = Duration::from_secs(3_600);

    fn rule(pattern: &str, tag_ttl: TagTtl) -> Rule {
        let matches = pattern_of(pattern).unwrap();
        Rule { matches, tag_ttl: Some(tag_ttl), stale_while_revalidate: None, stale_if_error: None }
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_nothing_attached_has_one() {
        let (hour, always) = (TagTtl::For(HOUR), TagTtl::For(Duration::ZERO));
        let stale_if_error = Some(2 * HOUR);
        let own = Freshness { tag_ttl: TagTtl::For(2 * HOUR), ..Freshness::default() };
        let rules = Rules {
            freshness: Freshness::default(),
            registries: [("own.test".parse().unwrap(), own)].into(),
            rules: vec![
                rule("docker.io/library/*:*-v[0-9]*", TagTtl::Immutable),
                rule("docker.io/**", hour),
                rule("quay.io/*:*", TagTtl::Immutable),
                rule("**/*:sha256-*", TagTtl::Immutable),
                Rule { tag_ttl: None, stale_if_error, ..rule("own.test/short:*", always) },
            ],
        };
        let attached = format!("sha256-{}.sig", "a".repeat(64));
        let of = |repository: &str, tag: &str| rules.of(&repository.parse().unwrap(), &tag.parse().unwrap());
        for (repository, tag, expected) in [
            ("docker.io/library/app", "x-v1", TagTtl::Immutable),
            ("docker.io/library/app", "v1", hour),
            ("docker.io/team/deep/app", "x-v1", hour),
            ("quay.io/app", "latest", TagTtl::Immutable),
            ("quay.io/team/app", "latest", always),
            ("own.test/app", "latest", TagTtl::For(2 * HOUR)),
            ("own.test/short", "latest", TagTtl::For(2 * HOUR)),
            ("docker.io/library/app", attached.as_str(), always),
            ("docker.io/library/app", &attached[..71], always),
        ] {
            assert_eq!(of(repository, tag).tag_ttl, expected, "{repository}:{tag}");
        }
        assert_eq!(of("own.test/short", "latest").stale_if_error, 2 * HOUR, "a rule may say one thing only");
        assert_eq!(of("own.test/short", &attached).stale_if_error, HOUR);
        assert!(pattern_of("docker.io/[").is_err());
    }

    #[test]
    fn upstream_is_asked_first_behind_or_not_at_all() {
        let of = |tag_ttl, stale_while_revalidate| Freshness {
            tag_ttl,
            stale_while_revalidate,
            ..Freshness::default()
        };
        let second = Duration::from_secs(1);
        for (freshness, age, expected) in [
            (of(TagTtl::For(HOUR), Duration::ZERO), HOUR - second, Ask::No),
            (of(TagTtl::For(HOUR), Duration::ZERO), HOUR, Ask::First),
            (of(TagTtl::For(HOUR), HOUR), HOUR, Ask::Behind),
            (of(TagTtl::For(HOUR), HOUR), 2 * HOUR - second, Ask::Behind),
            (of(TagTtl::For(HOUR), HOUR), 2 * HOUR, Ask::First),
            (of(TagTtl::For(Duration::ZERO), Duration::ZERO), Duration::ZERO, Ask::First),
            (of(TagTtl::For(Duration::ZERO), HOUR), Duration::ZERO, Ask::Behind),
            (of(TagTtl::Immutable, Duration::ZERO), Duration::MAX, Ask::No),
        ] {
            assert_eq!(freshness.ask(age), expected, "{freshness:?} {age:?}");
        }
    }

    #[test]
    fn memory_serves_in_an_outage_and_never_against_a_no() {
        let digest = Digest::of(b"x");
        let record = TagRecord { digest: Digest::of(b"old"), confirmed_at: Timestamp(5) };
        let host = || "reg.test:443".to_owned();
        let down = Error::Unreachable { host: host(), stage: ConnectStage::Connect, why: String::new() };
        let limited = Error::RateLimited { host: host(), retry_after: None };
        let failing = Error::ServerError { host: host(), status: 503 };
        let refused = Error::Refused { host: host(), status: 403, why: String::new() };
        let gone = Error::NotFound { host: host(), repository_unknown: false, public: false };
        let nonsense = Error::Invalid { host: host(), why: String::new() };

        assert_eq!(judge(Ok(Some(digest)), Some(record)), Verdict::Current(digest));
        assert_eq!(judge(Ok(None), Some(record)), Verdict::Fetch);
        for outage in [down, limited, failing] {
            assert_eq!(judge(Err(outage.clone()), Some(record)), Verdict::Stale(record, outage.clone()));
            assert_eq!(judge(Err(outage.clone()), None), Verdict::Fail(outage));
        }
        assert_eq!(judge(Err(gone.clone()), Some(record)), Verdict::Forget(gone.clone()));
        assert_eq!(judge(Err(gone.clone()), None), Verdict::Fail(gone));
        for no in [refused, nonsense] {
            assert_eq!(judge(Err(no.clone()), Some(record)), Verdict::Fail(no));
        }
    }
}
