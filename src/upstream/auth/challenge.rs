//! Challenges of registries (RFC 9110 section 11.6.1): which of those that a response holds is answered, and for which
//! scopes. The syntax is in [`super::challenge_syntax`]. Pure.
//!
//! Promises: no scope is requested that allows more than pulling, whatever the registry offers.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use url::Url;

use crate::reference::Repository;
use crate::upstream::auth::challenge_syntax::{self, Offer};
use crate::upstream::auth::scope;

/// Bytes of one header at most; a longer one is not read.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Bytes of all headers of an answer that are read.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Characters of a scheme that an error shows at most: a registry chose them.
const SHOWN_CHARS_MAX: usize = 32;
/// Challenges that an error shows at most.
const SHOWN_OFFERS_MAX: usize = 4;

/// What a registry requires before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token of this realm.
    Bearer(BearerChallenge),
    /// A user name and password with every request (RFC 7617).
    Basic,
    /// Nothing that is supported: what there is, for people.
    Other(String),
}

/// The parameters of a Bearer challenge (distribution, "Token Authentication Specification").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BearerChallenge {
    /// The URL of the token server, unchecked.
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    /// Scopes to request, separated by spaces: what the registry offers, reduced to pulling.
    pub(crate) scope: String,
    /// Whether a user name and password would do as well.
    pub(crate) or_basic: bool,
}

impl BearerChallenge {
    /// The same challenge with the scope of pulling from `repository`, whose name has this prefix there.
    pub(crate) fn for_repository(&self, prefix: &str, repository: &Repository) -> Self {
        Self { scope: scope::pull(&format!("{prefix}{}", repository.path())), ..self.clone() }
    }

    /// What it puts before the path of `repository`, if its scope is the usual one: pulling from that, and nothing
    /// else.
    pub(crate) fn prefix(&self, repository: &Repository) -> Option<&str> {
        scope::prefix(&self.scope, repository)
    }
}

/// The challenge to answer, of those that came from `url`: Bearer before Basic before any other; `None` where there is
/// none.
pub(crate) fn parse(headers: &HeaderMap, url: &Url, repository: &Repository) -> Option<Challenge> {
    let (mut offers, mut left) = (Vec::new(), HEADERS_BYTES_MAX);
    for header in headers.get_all(WWW_AUTHENTICATE) {
        match header.as_bytes() {
            bytes if bytes.len() > HEADER_BYTES_MAX.min(left) => {
                offers.push(Offer::unreadable("a header that is too long"))
            }
            bytes => {
                left -= bytes.len();
                offers.extend(challenge_syntax::parse(&text(bytes)));
            }
        }
    }
    let or_basic = offers.iter().any(|offer| offer.is("basic"));
    let bearers: Vec<_> = offers
        .iter()
        .filter(|offer| offer.is("bearer"))
        .filter_map(|offer| bearer(offer, or_basic, url, repository))
        .collect();
    // A realm that is no URL is a name for people, as that of Basic is.
    let usable = bearers.iter().find(|bearer| Url::parse(&bearer.realm).is_ok()).or(bearers.first());
    match usable {
        Some(bearer) => Some(Challenge::Bearer(bearer.clone())),
        None if or_basic => Some(Challenge::Basic),
        None if offers.is_empty() => None,
        None => Some(Challenge::Other(shown(&offers))),
    }
}

/// The text of a header: UTF-8, or else Latin-1, as older servers send it.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().copied().map(char::from).collect(), str::to_owned)
}

/// What the offers are that cannot be answered, for people.
fn shown(offers: &[Offer]) -> String {
    let one = |offer: &Offer| match offer.is("bearer") {
        true => "Bearer without a realm".to_owned(),
        false => offer.scheme.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect(),
    };
    let all: Vec<String> = offers.iter().take(SHOWN_OFFERS_MAX).map(one).collect();
    all.join(", ")
}

fn bearer(offer: &Offer, or_basic: bool, url: &Url, repository: &Repository) -> Option<BearerChallenge> {
    Some(BearerChallenge {
        realm: offer.parameter("realm")?.to_owned(),
        service: offer.parameter("service").map(str::to_owned),
        scope: reduced_scope(offer.parameter("scope"), url, repository),
        or_basic,
    })
}

/// What the registry offers, reduced to pulling; and the scope of the repository, by its name in the URL, where the
/// offer does not name it by whatever name: some registries name a placeholder, or nothing. The offer comes first,
/// since some token servers read only the first scope.
fn reduced_scope(offered: Option<&str>, url: &Url, repository: &Repository) -> String {
    let own = || scope::pull(&scope::name_at(url, repository));
    let Some(offered) = offered else { return own() };
    let mut scopes: Vec<String> = offered.split_ascii_whitespace().filter_map(reduced_to_pull).collect();
    let is_of_repository = |scope: &String| scope::prefix(scope, repository).is_some();
    if !scopes.iter().any(is_of_repository) {
        scopes.push(own());
    }
    scopes.join(" ")
}

/// One scope that is offered, reduced to pulling: `TYPE:NAME:ACTIONS`, of a repository of whatever class
/// (`repository(plugin)`). What has actions on something else is not asked for; what has no such form stays.
fn reduced_to_pull(scope: &str) -> Option<String> {
    let Some((kind, rest)) = scope.split_once(':') else { return Some(scope.to_owned()) };
    let is_repository = kind.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case("repository"));
    // The name itself may hold a colon (a port), the actions do not.
    match (is_repository, rest.rsplit_once(':')) {
        (true, named) => Some(format!("{kind}:{}:pull", named.map_or(rest, |(name, _)| name))),
        (false, Some(_)) => None,
        (false, None) => Some(scope.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parsed(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let repository = Repository::new("reg.test".parse().unwrap(), "team/app".parse().unwrap()).unwrap();
        super::parse(&headers, &url("https://reg.test/v2/team/app/manifests/v1"), &repository)
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn bearer(realm: &str, service: Option<&str>, scope: &str) -> Option<Challenge> {
        let service = service.map(str::to_owned);
        let (realm, scope, or_basic) = (realm.to_owned(), scope.to_owned(), false);
        Some(Challenge::Bearer(BearerChallenge { realm, service, scope, or_basic }))
    }

    fn or_basic(challenge: Option<Challenge>) -> Option<Challenge> {
        let Some(Challenge::Bearer(bearer)) = challenge else { return challenge };
        Some(Challenge::Bearer(BearerChallenge { or_basic: true, ..bearer }))
    }

    fn other(what: &str) -> Option<Challenge> {
        Some(Challenge::Other(what.to_owned()))
    }

    #[test]
    fn so_many_bytes_of_challenges_are_read_and_no_more() {
        let long = format!("Other realm=\"{}\"", "a".repeat(HEADER_BYTES_MAX - 100));
        let last = &*format!("Basic realm=\"{}\"", "b".repeat(300));
        assert_eq!(parsed(&[&long, last]), Some(Challenge::Basic));
        assert!(
            matches!(parsed(&[&long, &long, &long, last]), Some(Challenge::Other(_))),
            "a third and a fourth are read"
        );
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
            (
                vec![r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#],
                or_basic(bearer("https://a/t", None, own)),
            ),
            (
                vec![r#"Basic realm="x", Bearer realm="https://a/t",service=s"#],
                or_basic(bearer("https://a/t", Some("s"), own)),
            ),
            (
                vec![r#"Bearer realm="Team Registry", Bearer realm="https://a/t""#],
                bearer("https://a/t", None, own),
            ),
            (vec![r#"Bearer realm="Team Registry""#], bearer("Team Registry", None, own)),
            (
                vec![r#"Negotiate YII/x==, NTLM, Bearer realm="https://a/t""#],
                bearer("https://a/t", None, own),
            ),
            (vec![r#"Basic realm="x""#], Some(Challenge::Basic)),
            (vec!["Negotiate", r#"basic realm="x""#], Some(Challenge::Basic)),
            (vec!["Bearer"], other("Bearer without a realm")),
            (vec![r#"Bearer service="no realm""#], other("Bearer without a realm")),
            (vec!["Negotiate", "NTLM"], other("Negotiate, NTLM")),
            (vec!["\"\"\""], None),
            (vec![], None),
        ] {
            assert_eq!(parsed(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_ascii_does_not_hide_the_challenge() {
        let own = "repository:team/app:pull";
        let line = r#"Basic realm="Zugang nur für Ärzte", Bearer realm="https://a/t",service="Größe""#;
        assert_eq!(parsed(&[line]), or_basic(bearer("https://a/t", Some("Größe"), own)));
        let mut headers = HeaderMap::new();
        let latin = HeaderValue::from_bytes(b"Bearer realm=\"https://a/t\",service=\"Gr\xf6\xdfe\"").unwrap();
        headers.append(WWW_AUTHENTICATE, latin);
        let repository = "reg.test/team/app".parse().unwrap();
        let at = url("https://reg.test/v2/team/app/manifests/v1");
        assert_eq!(super::parse(&headers, &at, &repository), bearer("https://a/t", Some("Größe"), own));
    }

    #[test]
    fn no_more_than_pulling_is_ever_asked_for() {
        let line = r#"Bearer realm="https://a/t",scope="repository:hub:5000/app:pull,push,delete repository:x:* aws repository(plugin):y:push,pull Repository:z:* registry:catalog:* api://corp""#;
        assert_eq!(
            parsed(&[line]),
            bearer(
                "https://a/t",
                None,
                "repository:hub:5000/app:pull repository:x:pull aws repository(plugin):y:pull Repository:z:pull api://corp repository:team/app:pull"
            )
        );
    }

    #[test]
    fn a_token_is_asked_for_by_the_name_that_the_repository_has_there_and_by_no_other() {
        let repository = "reg.test/team/app".parse().unwrap();
        for (at, offered, expected) in [
            // Under a path prefix of the endpoint.
            ("/v2/hub/team/app/manifests/v1", "repository:hub/team/app:pull", "repository:hub/team/app:pull"),
            ("/v2/hub/team/app/blobs/sha256:0", "", "repository:hub/team/app:pull"),
            ("/hub/v2/team/app/tags/list", "", "repository:team/app:pull"),
            (
                "/v2/hub/team/app/manifests/v1",
                "repository:user/image:pull",
                "repository:user/image:pull repository:hub/team/app:pull",
            ),
            // Behind a proxy that takes the prefix away, or puts another one before the name.
            ("/v2/hub/team/app/manifests/v1", "repository:team/app:pull", "repository:team/app:pull"),
            ("/v2/team/app/manifests/v1", "repository:p/hub/team/app:pull", "repository:p/hub/team/app:pull"),
            // Another repository, whose name ends like this one, and where the URL names none.
            (
                "/v2/team/app/manifests/v1",
                "repository:my-team/app:pull",
                "repository:my-team/app:pull repository:team/app:pull",
            ),
            ("/bucket/0", "", "repository:team/app:pull"),
        ] {
            let header = format!(r#"Bearer realm="https://a/t",scope="{offered}""#);
            let headers = [(WWW_AUTHENTICATE, HeaderValue::try_from(header).unwrap())].into_iter().collect();
            let asked = super::parse(&headers, &url(&format!("https://mirror.corp{at}")), &repository);
            assert_eq!(asked, bearer("https://a/t", None, expected), "{at} {offered}");
        }
    }
}
