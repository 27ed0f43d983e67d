//! What a tag names now: pure decisions from upstream's answer, the tag's record, and the operator's rules.
//!
//! Without a rule upstream is asked at every resolve. While upstream cannot be reached, the manifest that the tag last
//! named is served. A denial is never overridden by a record, and signatures and attestations are never served from a
//! record without asking upstream first.

use std::time::Duration;

use crate::pull::config::{Freshness, Rules, TagTtl};
use crate::reference::{Algorithm, Digest, Repository, Tag};
use crate::store::TagRecord;
use crate::upstream;

/// How long into an outage a signature or attestation is served: an old one may have been withdrawn.
const ATTACHED_STALE_MAX: Duration = Duration::from_secs(3_600);

/// Whether upstream has to be asked what a tag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revalidation {
    /// No: the last answer still counts.
    NotNeeded,
    /// Yes, in the background; the last answer is served meanwhile.
    Background,
    /// Yes, before anything is served.
    First,
}

impl Freshness {
    /// For a tag whose last answer is this old.
    pub(crate) fn revalidation(&self, age: Duration) -> Revalidation {
        match self.tag_ttl {
            TagTtl::Immutable => Revalidation::NotNeeded,
            TagTtl::For(ttl) if age < ttl => Revalidation::NotNeeded,
            TagTtl::For(ttl) if age < ttl.saturating_add(self.stale_while_revalidate) => {
                Revalidation::Background
            }
            TagTtl::For(_) => Revalidation::First,
        }
    }
}

impl Rules {
    /// The pattern of the rule that a tag follows; `None` if it follows its registry's settings alone.
    pub(crate) fn pattern_for(&self, repository: &Repository, tag: &Tag) -> Option<String> {
        let name = format!("{repository}:{tag}");
        let rule = self.rules.iter().find(|rule| rule.matches.is_match(&name))?;
        Some(rule.matches.glob().glob().to_owned()).filter(|_| !is_attached(tag))
    }

    /// The freshness that a tag has to have.
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

/// Whether a tag names something attached to an image: `sha256-<hex>` or `sha512-<hex>`, of which the referrers tag
/// schema of the distribution specification has the first 64 digits, or the same with `.sig`, `.att` or `.sbom`, as
/// cosign does.
pub(super) fn is_attached(tag: &Tag) -> bool {
    let tag = tag.as_str();
    let of = |algorithm: Algorithm| tag.strip_prefix(algorithm.name())?.strip_prefix('-');
    let hex =
        Algorithm::ALL.into_iter().find_map(of).map(|rest| rest.split_once('.').map_or(rest, |(hex, _)| hex));
    hex.is_some_and(|hex| Digest::from_hex(hex).is_ok())
}

/// Upstream's answer about a tag: its digest.
pub(crate) type TagAnswer = Result<Digest, upstream::Error>;

/// What to serve for a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// This manifest: upstream names it now.
    Current(Digest),
    /// The manifest that the tag last named, marked as stale, to callers with a right to it: upstream cannot be asked,
    /// or its answer cannot be used.
    Stale(TagRecord, upstream::Error),
    /// This error, and the record is removed: upstream has no such tag.
    Forget(upstream::Error),
    /// This error, the record is removed, and what it names is not handed out: upstream withholds it.
    Withhold(TagRecord, upstream::Error),
    /// This error.
    Fail(upstream::Error),
}

/// Decides what to serve for a tag.
pub(crate) fn decide(answer: TagAnswer, record: Option<TagRecord>) -> Decision {
    match (answer, record) {
        (Ok(digest), _) => Decision::Current(digest),
        // What is no answer of a registry, as the page of a gateway, says nothing of the tag. At a limit of this node
        // the client asks the registry itself, which knows where the tag is now.
        (Err(error), Some(record)) if error.is_invalid_answer() => Decision::Stale(record, error),
        (Err(error), Some(record)) if error.is_outage() => Decision::Stale(record, error),
        (Err(error @ upstream::Error::NotFound { .. }), Some(_)) => Decision::Forget(error),
        (Err(error), Some(record)) if error.is_withheld() => Decision::Withhold(record, error),
        (Err(error), _) => Decision::Fail(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::config::{Rule, pattern_of};
    use crate::support::clock::Timestamp;
    use crate::upstream::{ConnectStage, Error, NodeLimit, Unknown};

    const HOUR: Duration = Duration::from_secs(3_600);

    fn rule(pattern: &str, tag_ttl: TagTtl) -> Rule {
        let matches = pattern_of(pattern).unwrap();
        Rule { matches, tag_ttl: Some(tag_ttl), stale_while_revalidate: None, stale_if_error: None }
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_no_signature_has_one() {
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
    fn upstream_is_asked_first_in_the_background_or_not_at_all() {
        let of = |tag_ttl, stale_while_revalidate| Freshness {
            tag_ttl,
            stale_while_revalidate,
            ..Freshness::default()
        };
        let second = Duration::from_secs(1);
        for (freshness, age, expected) in [
            (of(TagTtl::For(HOUR), Duration::ZERO), HOUR - second, Revalidation::NotNeeded),
            (of(TagTtl::For(HOUR), Duration::ZERO), HOUR, Revalidation::First),
            (of(TagTtl::For(HOUR), HOUR), HOUR, Revalidation::Background),
            (of(TagTtl::For(HOUR), HOUR), 2 * HOUR - second, Revalidation::Background),
            (of(TagTtl::For(HOUR), HOUR), 2 * HOUR, Revalidation::First),
            (of(TagTtl::For(Duration::ZERO), Duration::ZERO), Duration::ZERO, Revalidation::First),
            (of(TagTtl::For(Duration::ZERO), HOUR), Duration::ZERO, Revalidation::Background),
            (of(TagTtl::Immutable, Duration::ZERO), Duration::MAX, Revalidation::NotNeeded),
        ] {
            assert_eq!(freshness.revalidation(age), expected, "{freshness:?} {age:?}");
        }
    }

    #[test]
    fn a_record_serves_in_an_outage_and_never_against_a_denial() {
        let digest = Digest::of(b"x");
        let record = TagRecord { digest: Digest::of(b"old"), confirmed_at: Timestamp(5) };
        let host = || "reg.test:443".to_owned();
        let unreachable =
            Error::Unreachable { host: host(), stage: ConnectStage::Connect, why: String::new() };
        let limited = Error::RateLimited { host: host(), retry_after: None };
        let failing = Error::ServerError { host: host(), status: 503, retry_after: None };
        let refused = Error::Refused { host: host(), status: 403, why: String::new(), public: false };
        let gone = Error::NotFound { host: host(), unknown: Unknown::Unsaid, public: false };
        let invalid = Error::Invalid { host: host(), why: String::new() };
        let expects_tls = Error::ExpectsTls { host: host() };
        let withheld = Error::Withheld { host: host(), why: String::new(), public: false };

        assert_eq!(decide(Ok(digest), Some(record)), Decision::Current(digest));
        let overloaded = Error::Overloaded { limit: NodeLimit::Names, host: host(), why: String::new() };
        assert_eq!(decide(Err(overloaded.clone()), Some(record)), Decision::Fail(overloaded));
        for outage in [unreachable, limited, failing, invalid, expects_tls] {
            assert_eq!(decide(Err(outage.clone()), Some(record)), Decision::Stale(record, outage.clone()));
            assert_eq!(decide(Err(outage.clone()), None), Decision::Fail(outage));
        }
        assert_eq!(decide(Err(gone.clone()), Some(record)), Decision::Forget(gone.clone()));
        assert_eq!(decide(Err(gone.clone()), None), Decision::Fail(gone));
        assert_eq!(decide(Err(refused.clone()), Some(record)), Decision::Fail(refused));
        assert_eq!(decide(Err(withheld.clone()), Some(record)), Decision::Withhold(record, withheld.clone()));
        assert_eq!(decide(Err(withheld.clone()), None), Decision::Fail(withheld));
    }
}
