//! Challenges of registries (RFC 9110 section 11.6.1): several headers, several challenges in one header, any case,
//! quoted or not. Pure.
//!
//! Promises: no scope is requested that allows more than pulling, whatever the registry offers.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

use crate::reference::Repository;

/// Bytes of one header at most; a longer one is ignored.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// What a registry requires before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token of this realm.
    Bearer(BearerChallenge),
    /// A user name and password with every request (RFC 7617).
    Basic,
    /// A scheme that is not supported.
    Other,
}

/// The parameters of a Bearer challenge (distribution, "Token Authentication Specification").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BearerChallenge {
    /// The URL of the token server, unchecked.
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    /// Scopes to request, separated by spaces: what the registry offers, reduced to pulling.
    pub(crate) scope: String,
}

impl BearerChallenge {
    /// The challenge that the same registry gives for `repository`, if it names its scopes in the usual way.
    pub(crate) fn for_repository(&self, repository: &Repository) -> Self {
        Self { scope: pull_scope(repository), ..self.clone() }
    }

    /// Whether its scope is the usual one: pulling from `repository`, and nothing else.
    pub(crate) fn has_usual_scope(&self, repository: &Repository) -> bool {
        self.scope == pull_scope(repository)
    }
}

/// The challenge to answer: Bearer before Basic before any other; `None` where there is none.
pub(crate) fn parse(headers: &HeaderMap, repository: &Repository) -> Option<Challenge> {
    let mut found = None;
    for header in headers.get_all(WWW_AUTHENTICATE) {
        let Some(text) = header.to_str().ok().filter(|text| text.len() <= HEADER_BYTES_MAX) else {
            continue;
        };
        let Ok(challenges) = http_auth::parse_challenges(text) else {
            continue;
        };
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(bearer) = bearer(&challenge, repository)
            {
                return Some(Challenge::Bearer(bearer));
            }
            let basic = challenge.scheme.eq_ignore_ascii_case("basic");
            found = if basic { Some(Challenge::Basic) } else { found.or(Some(Challenge::Other)) };
        }
    }
    found
}

fn bearer(challenge: &http_auth::ChallengeRef<'_>, repository: &Repository) -> Option<BearerChallenge> {
    let parameter = |name: &str| {
        let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped()).filter(|value| !value.is_empty())
    };
    Some(BearerChallenge {
        realm: parameter("realm")?,
        service: parameter("service"),
        scope: reduced_scope(parameter("scope").as_deref(), repository),
    })
}

fn pull_scope(repository: &Repository) -> String {
    format!("repository:{}:pull", repository.path())
}

/// What the registry offers, reduced to pulling, and the scope of `repository` where the offer does not name it (as
/// containerd does): some registries name a placeholder, or nothing. The offer comes first, since some token servers read
/// only the first scope.
fn reduced_scope(offered: Option<&str>, repository: &Repository) -> String {
    let Some(offered) = offered else {
        return pull_scope(repository);
    };
    let reduced = offered.split_ascii_whitespace().map(|scope| match scope.strip_prefix("repository:") {
        // The name itself may hold a colon (a port), the actions do not.
        Some(rest) => format!("repository:{}:pull", rest.rsplit_once(':').map_or(rest, |(name, _)| name)),
        None => scope.to_owned(),
    });
    let mut scopes: Vec<String> = reduced.collect();
    let own = pull_scope(repository);
    if !scopes.contains(&own) {
        scopes.push(own);
    }
    scopes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        }
        let repository = Repository::new("reg.test".parse().unwrap(), "team/app".parse().unwrap()).unwrap();
        super::parse(&headers, &repository)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: &str) -> Option<Challenge> {
        let service = service.map(str::to_owned);
        Some(Challenge::Bearer(BearerChallenge { realm: realm.to_owned(), service, scope: scope.to_owned() }))
    }

    #[test]
    fn the_forms_that_registries_use_are_read() {
        let own = "repository:team/app:pull";
        for (lines, expected) in [
            (
                vec![
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                ],
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    "repository:library/nginx:pull repository:team/app:pull",
                ),
            ),
            (vec![r#"bEaReR REALM="https://a/t""#], bearer("https://a/t", None, own)),
            (vec![r#"Bearer realm="https://a/t",scope="""#], bearer("https://a/t", None, own)),
            (
                vec![r#"Bearer realm="https://a/t",scope="aws""#],
                bearer("https://a/t", None, "aws repository:team/app:pull"),
            ),
            (vec![r#"Bearer realm="https://a/\"t\"""#], bearer(r#"https://a/"t""#, None, own)),
            (vec![r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#], bearer("https://a/t", None, own)),
            (
                vec![r#"Basic realm="x", Bearer realm="https://a/t",service=s"#],
                bearer("https://a/t", Some("s"), own),
            ),
            (vec![r#"Basic realm="x""#], Some(Challenge::Basic)),
            (vec!["Negotiate", r#"basic realm="x""#], Some(Challenge::Basic)),
            (vec!["Bearer"], Some(Challenge::Other)),
            (vec![r#"Bearer service="no realm""#], Some(Challenge::Other)),
            (vec!["\"\"\""], None),
            (vec![], None),
        ] {
            assert_eq!(parsed(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn no_more_than_pulling_is_ever_asked_for() {
        let line = r#"Bearer realm="https://a/t",scope="repository:hub:5000/app:pull,push,delete repository:x:* aws""#;
        assert_eq!(
            parsed(&[line]),
            bearer(
                "https://a/t",
                None,
                "repository:hub:5000/app:pull repository:x:pull aws repository:team/app:pull"
            )
        );
    }
}
