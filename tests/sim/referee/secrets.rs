//! Credentials and tokens.

use base64::Engine;

use super::{Judge, Violation, violation};
use crate::plan::{Host, PodSecret, Who};
use crate::truth::Truth;

pub(crate) const SENTENCE: &str = "No credential or token reaches a host that it is not for; no user name, password or token \
    appears in an answer to another caller, a log line, a metric or a file.";

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    let history = judge.history;
    let mut all = Vec::new();
    for seen in &history.seen {
        let Some(shown) = &seen.shown else { continue };
        let astray = if let Some(token) = shown.strip_prefix("Bearer ") {
            let issued = history.tokens.iter().find(|(text, _)| text == token);
            issued.is_none_or(|(_, host)| *host != seen.host)
        } else {
            let who = basic(shown);
            let asked = |who: Who| {
                history.asks.iter().any(|ask| ask.who == who && ask.repo.host() == seen.host)
                    || is_in_a_secret(judge, who) && seen.host == Host::Reg
            };
            match who {
                Some(Who::Node) => seen.host != Host::Reg,
                _ => matches!(seen.host, Host::Mirror | Host::Objects) || who.is_none_or(|who| !asked(who)),
            }
        };
        if astray {
            let scheme = shown.split(' ').next().unwrap_or_default();
            let what = format!("{} was shown a {scheme} credential for {}", seen.host.name(), seen.path);
            all.push(violation("secrets/astray", seen.at, what));
        }
    }
    let ended = history.ended_at;
    let found = |place: &str, text: &str| {
        within(text, &history.tokens)
            .next()
            .map(|secret| violation(format!("secrets/{place}"), ended, secret))
    };
    all.extend(found("log", &history.log));
    all.extend(history.pages.iter().filter_map(|page| found("metrics", page)));
    all.extend(history.leaks.iter().map(|leak| violation("secrets/file", ended, leak.clone())));
    for ask in &history.asks {
        let headers: String = ask.reply.headers.values().map(|value| format!("{value}\n")).collect();
        let text = format!(
            "{headers}{}",
            String::from_utf8_lossy(&ask.reply.kept[..ask.reply.kept.len().min(4_096)])
        );
        let own = ask.who.credential().map(|(user, _)| user);
        let secret = within(&text, &history.tokens).find(|secret| Some(secret.as_str()) != own);
        all.extend(secret.map(|secret| violation("secrets/answer", ask.reply.ended_at, secret)));
    }
    all
}

/// Whether a pull secret of a pod, all of which are for reg.corp, has held this login.
fn is_in_a_secret(judge: &Judge<'_>, who: Who) -> bool {
    let Truth { pods, secrets, .. } = &judge.history.truth;
    let was_wrong = || secrets.iter().any(|(_, _, is)| *is == PodSecret::Wrong);
    pods.iter().any(|pod| pod.who == who || who == Who::Mallory && was_wrong())
}

fn basic(shown: &str) -> Option<Who> {
    let plain = base64::engine::general_purpose::STANDARD.decode(shown.strip_prefix("Basic ")?).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    // The node's wrong password is the node's too.
    if plain == "node-user-3f0:wrong-secret-77c0" {
        return Some(Who::Node);
    }
    LOGINS
        .into_iter()
        .find(|who| who.credential().is_some_and(|(user, password)| plain == format!("{user}:{password}")))
}

/// Who has a login.
const LOGINS: [Who; 4] = [Who::Alice, Who::Bob, Who::Mallory, Who::Node];

/// The secrets and user names that a text holds.
pub(crate) fn within<'a>(text: &'a str, tokens: &'a [(String, Host)]) -> impl Iterator<Item = String> + 'a {
    let passwords = LOGINS.into_iter().filter_map(Who::credential);
    let passwords = passwords.flat_map(|(user, password)| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        [password.to_owned(), encoded, user.to_owned()]
    });
    let tokens = tokens.iter().map(|(token, _)| token.clone());
    passwords.chain(tokens).filter(move |secret| text.contains(secret.as_str()))
}
