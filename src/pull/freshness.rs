//! What a tag means now: pure decisions from what upstream said, what was remembered, and the operator's rules.
//!
//! Without a rule upstream is asked at every resolve. While it cannot be reached, what the tag last meant is served. A
//! "no" is never overridden by memory, and what is attached to an image (signatures, attestations) is never taken from
//! it without asking.

use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};

use crate::reference::{Digest, Repository, Tag};
use crate::store::TagRecord;
use crate::upstream;

/// How long into an outage a signature or attestation is served: an old one may have been withdrawn.
pub(super) const ATTACHED_STALE_MAX: Duration = Duration::from_secs(3_600);

/// How long what upstream said about a tag is taken as true without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagTtl {
    /// For so long; zero: it is asked every time.
    For(Duration),
    /// For ever: this tag never moves.
    Immutable,
}

impl TagTtl {
    /// Whether what was said so long ago needs no new word.
    pub(super) fn covers(self, age: Duration) -> bool {
        match self {
            Self::For(ttl) => age < ttl,
            Self::Immutable => true,
        }
    }
}

/// A rule for the tags that its pattern matches.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Of `registry/repository:tag`; `*` stays within a segment, `**` stands for any number of them.
    pub matches: GlobMatcher,
    /// For those.
    pub tag_ttl: TagTtl,
}

/// What the operator said about the freshness of tags.
#[derive(Debug, Clone)]
pub struct Rules {
    /// For tags that no rule matches.
    pub tag_ttl: TagTtl,
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
    pub(super) fn of(&self, repository: &Repository, tag: &Tag) -> TagTtl {
        if is_attached(tag) {
            return TagTtl::For(Duration::ZERO);
        }
        if self.rules.is_empty() {
            return self.tag_ttl;
        }
        let name = format!("{repository}:{tag}");
        let rule = self.rules.iter().find(|rule| rule.matches.is_match(&name));
        rule.map_or(self.tag_ttl, |rule| rule.tag_ttl)
    }
}

/// Whether a tag names something attached to an image: `sha256-<hex>`, as the referrers tag schema of the distribution
/// specification has it, or the same with `.sig`, `.att` or `.sbom`, as cosign does.
pub(super) fn is_attached(tag: &Tag) -> bool {
    let tag = tag.as_str();
    let hex = tag.strip_prefix("sha256-").map(|rest| rest.split_once('.').map_or(rest, |(hex, _)| hex));
    hex.is_some_and(|hex| Digest::from_hex(hex).is_ok())
}

/// What upstream said about a tag.
pub(super) type Said = Result<Option<Digest>, upstream::Error>;

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
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
pub(super) fn judge(said: Said, remembered: Option<TagRecord>) -> Verdict {
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
    use crate::clock::Timestamp;
    use crate::upstream::{Error, Step};

    #[test]
    fn the_first_rule_that_matches_counts_and_nothing_attached_has_one() {
        let rule = |pattern: &str, tag_ttl| Rule { matches: pattern_of(pattern).unwrap(), tag_ttl };
        let (hour, always) = (TagTtl::For(Duration::from_secs(3_600)), TagTtl::For(Duration::ZERO));
        let rules = Rules {
            tag_ttl: always,
            rules: vec![
                rule("docker.io/library/*:*-v[0-9]*", TagTtl::Immutable),
                rule("docker.io/**", hour),
                rule("quay.io/*:*", TagTtl::Immutable),
                rule("**/*:sha256-*", TagTtl::Immutable),
            ],
        };
        let attached = format!("sha256-{}.sig", "a".repeat(64));
        for (repository, tag, expected) in [
            ("docker.io/library/app", "x-v1", TagTtl::Immutable),
            ("docker.io/library/app", "v1", hour),
            ("docker.io/team/deep/app", "x-v1", hour),
            ("quay.io/app", "latest", TagTtl::Immutable),
            ("quay.io/team/app", "latest", always),
            ("docker.io/library/app", attached.as_str(), always),
            ("docker.io/library/app", &attached[..71], always),
        ] {
            let (repository, tag) = (repository.parse().unwrap(), tag.parse().unwrap());
            assert_eq!(rules.of(&repository, &tag), expected, "{repository}:{tag}");
        }
        assert!(hour.covers(Duration::from_secs(3_599)) && !hour.covers(Duration::from_secs(3_600)));
        assert!(!always.covers(Duration::ZERO) && TagTtl::Immutable.covers(Duration::MAX));
        assert!(pattern_of("docker.io/[").is_err());
    }

    #[test]
    fn memory_serves_in_an_outage_and_never_against_a_no() {
        let digest = Digest::of(b"x");
        let record = TagRecord { digest: Digest::of(b"old"), confirmed_at: Timestamp(5) };
        let host = || "reg.test:443".to_owned();
        let down = Error::Unreachable { host: host(), step: Step::Connect, why: String::new() };
        let limited = Error::RateLimited { host: host(), retry_after: None };
        let failing = Error::Failing { host: host(), status: 503 };
        let refused = Error::Refused { host: host(), status: 403, why: String::new() };
        let gone = Error::NotFound { host: host(), repository_unknown: false, to_anybody: false };
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
