//! `[freshness]` and `[[freshness.rule]]`: how long what a tag means is taken as true.

use std::time::Duration;

use globset::GlobMatcher;

use super::access::time;
use crate::config::file::Value;
use crate::config::report::Place;
use crate::config::schema::section;
use crate::config::value::{Kind, Shape, Text};
use crate::pull::{self, TagTtl, pattern_of};

section! {
    /// How long what upstream said about a tag is taken as true.
    Freshness = "freshness";

    /// How long what upstream said about a tag is taken as true without asking again, for those with a right to the
    /// repository: "0s" asks at every resolve, "immutable" is for ever. Signatures and attestations (sha256-... tags)
    /// are always asked for.
    reload tag_ttl: TagTtl = TagTtlKind, |_| pull::Freshness::default().tag_ttl;

    /// For how long after that the tag is served once more while upstream is asked in the background.
    reload stale_while_revalidate: Duration = time(), |_| pull::Freshness::default().stale_while_revalidate;

    /// How long into an outage a tag is served as what it last meant.
    reload stale_if_error: Duration = time(), |_| pull::Freshness::default().stale_if_error;

    /// How long a refusal of upstream is remembered for the same question.
    reload negative_ttl: Duration = time(), |_| pull::Config::default().negative_ttl;
}

section! {
    /// The freshness of the tags that match a pattern. The first rule that matches counts.
    Rule = "freshness.rule";

    /// Of registry/repository:tag; * stays within a segment, ** stands for any number of segments.
    reload r#match: Option<Pattern> = pattern(), |_| None, example "\"docker.io/library/*:*-v[0-9]*\"";

    /// As in [freshness]; without it, as for the registry.
    reload tag_ttl: Option<TagTtl> = TagTtlKind, |_| None, example "\"immutable\"";

    /// As in [freshness]; without it, as for the registry.
    reload stale_while_revalidate: Option<Duration> = time(), |_| None, example "\"1h\"";

    /// As in [freshness]; without it, as for the registry.
    reload stale_if_error: Option<Duration> = time(), |_| None, example "\"1d\"";
}

impl Freshness {
    /// For registries without settings of their own.
    pub(crate) fn freshness(&self) -> pull::Freshness {
        let Self { tag_ttl, stale_while_revalidate, stale_if_error, .. } = *self;
        pull::Freshness { tag_ttl, stale_while_revalidate, stale_if_error }
    }
}

impl Rule {
    /// Notes a rule that says nothing.
    pub(crate) fn check(&self, place: &Place<'_>) {
        // What was written and cannot be read has a mistake of its own.
        let says = |key: &str| place.absent_key(key).is_none();
        let is_empty = !["tag_ttl", "stale_while_revalidate", "stale_if_error"].into_iter().any(says);
        if !says("match") || is_empty {
            let example =
                "a rule is match = \"docker.io/library/*:*\" and tag_ttl = \"10m\" or \"immutable\"";
            place.mistake(example);
        }
    }

    /// The rule; `None` if it has no pattern, which is a mistake.
    pub(crate) fn rule(&self) -> Option<pull::Rule> {
        let Self { r#match, tag_ttl, stale_while_revalidate, stale_if_error } = self.clone();
        let Pattern(matches) = r#match?;
        Some(pull::Rule { matches, tag_ttl, stale_while_revalidate, stale_if_error })
    }
}

/// A pattern of names with tags.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(GlobMatcher);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.glob() == other.0.glob()
    }
}

fn pattern() -> Text<Pattern> {
    let read = |text: &str| pattern_of(text).map(Pattern).map_err(|error| error.to_string());
    let write = |pattern: &Pattern| pattern.0.glob().glob().to_owned();
    Text { what: "pattern", examples: &["docker.io/**:*", "quay.io/a/b:v[0-9]*"], read, write }
}

/// A duration, or "immutable".
pub(super) struct TagTtlKind;

impl Kind for TagTtlKind {
    type Value = TagTtl;

    fn shape(&self) -> Shape {
        Shape::Either(Box::new(Shape::Choice(vec!["immutable"])), Box::new(time().shape()))
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<TagTtl> {
        match value.as_str() {
            Some("immutable") => Some(TagTtl::Immutable),
            _ => time().read(value, place).map(TagTtl::For),
        }
    }

    fn write(&self, value: &TagTtl) -> Value {
        match value {
            TagTtl::Immutable => "immutable".into(),
            TagTtl::For(duration) => time().write(duration),
        }
    }
}
