//! Challenges of registries (RFC 9110 §11.6.1), as they come: several headers, several challenges in one header,
//! any case, quoted or not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use url::Origin;

use crate::reference::Repository;

/// Bytes at most of one header that are looked at.
const HEADER_MAX: usize = 8 * 1024;

/// What a registry asks for before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token of this realm.
    Bearer(Bearer),
    /// User name and password with every request (RFC 7617).
    Basic,
    /// A scheme that we do not speak.
    Other,
}

/// The parameters of a Bearer challenge (distribution, "Token Authentication Specification").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    /// What to ask for, space separated: the registry's wish reduced to pulling.
    pub(crate) scope: String,
}

/// The challenge to answer, Bearer before all others; `None` where there is none.
pub(crate) fn read(headers: &HeaderMap, repository: &Repository) -> Option<Challenge> {
    let mut found = None;
    for header in headers.get_all(WWW_AUTHENTICATE) {
        let Some(text) = header.to_str().ok().filter(|text| text.len() <= HEADER_MAX) else {
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

fn bearer(challenge: &http_auth::ChallengeRef<'_>, repository: &Repository) -> Option<Bearer> {
    let parameter = |name: &str| {
        let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped()).filter(|value| !value.is_empty())
    };
    Some(Bearer {
        realm: parameter("realm")?,
        service: parameter("service"),
        scope: pull_scope(parameter("scope").as_deref(), repository),
    })
}

/// Challenges of origins seen before, so that a new repository there need not be challenged first.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<HashMap<Origin, Challenge>>);

/// Origins remembered at most; beyond that they are all forgotten, which costs one round trip each.
const REMEMBERED_MAX: usize = 256;

impl Remembered {
    /// Keeps a challenge. One whose scope is not the usual one cannot be carried over to another repository.
    pub(crate) fn remember(&self, origin: Origin, challenge: &Challenge, repository: &Repository) {
        match challenge {
            Challenge::Bearer(bearer) if bearer.scope != own_scope(repository) => return,
            Challenge::Other => return,
            _ => {}
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&origin) {
            known.clear();
        }
        known.insert(origin, challenge.clone());
    }

    /// The challenge that `origin` will give for `repository`, if it is like the last one.
    pub(crate) fn recall(&self, origin: &Origin, repository: &Repository) -> Option<Challenge> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(origin).map(|challenge| match challenge {
            Challenge::Bearer(bearer) => {
                Challenge::Bearer(Bearer { scope: own_scope(repository), ..bearer.clone() })
            }
            other => other.clone(),
        })
    }
}

fn own_scope(repository: &Repository) -> String {
    format!("repository:{}:pull", repository.path())
}

/// Asks for no more than pulling, whatever the registry offers, and for our own repository too where it does not name it
/// (as containerd does): some name a placeholder, or nothing. What the registry offers comes first, since some token
/// servers look no further.
fn pull_scope(offered: Option<&str>, repository: &Repository) -> String {
    let Some(offered) = offered else {
        return own_scope(repository);
    };
    let reduced = offered.split_ascii_whitespace().map(|scope| match scope.strip_prefix("repository:") {
        // The name itself may hold a colon (a port), the actions do not.
        Some(rest) => format!("repository:{}:pull", rest.rsplit_once(':').map_or(rest, |(name, _)| name)),
        None => scope.to_owned(),
    });
    let mut scopes: Vec<String> = reduced.collect();
    let own = own_scope(repository);
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
        read(&headers, &repository)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: &str) -> Option<Challenge> {
        let service = service.map(str::to_owned);
        Some(Challenge::Bearer(Bearer { realm: realm.to_owned(), service, scope: scope.to_owned() }))
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
