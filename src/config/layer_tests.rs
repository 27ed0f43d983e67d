//! Several files and the environment: what stands in place of what, and where a mistake was made.

use std::collections::BTreeMap;
use std::fs;

use super::resolve::{Layer, resolve_layers};
use super::*;
use crate::{credentials, pull, store};

fn environment(variables: &[(&str, &str)]) -> Environment {
    let overrides = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let overrides: BTreeMap<String, String> = overrides.collect();
    Environment { home: Some("/home/u".into()), overrides, ..Environment::default() }
}

fn layers(texts: &[&str]) -> Vec<Layer> {
    let layer = |(at, text): (usize, &&str)| Layer { name: format!("{at}.toml"), text: (*text).to_owned() };
    texts.iter().enumerate().map(layer).collect()
}

fn read(texts: &[&str]) -> Settings {
    resolve_layers(&layers(texts), &environment(&[])).unwrap_or_else(|m| panic!("{m:#?}"))
}

fn mistakes(texts: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let mistakes = resolve_layers(&layers(texts), &environment(variables)).unwrap_err().mistakes;
    mistakes.iter().map(Mistake::to_string).collect()
}

#[test]
fn a_later_file_stands_in_place_of_an_earlier_one_key_by_key() {
    let settings = read(&[
        "[server]\nhosts = ['a.test', 'b.test']\ndrain_wait = '5s'\n[store]\nmax_bytes = '1GiB'",
        "[server]\nhosts = ['c.test']",
        "[store]\nmax_bytes = '2GiB'",
    ]);
    assert_eq!(settings.serve.hosts, ["c.test"], "a list is replaced as a whole");
    assert_eq!(settings.limits.drain_wait.as_secs(), 5, "what is said once stays");
    assert_eq!(settings.store.budget.max, store::Amount::Bytes(2 << 30));
}

#[test]
fn a_later_file_completes_a_registry_and_a_rule_and_adds_others() {
    let settings = read(&[
        "[[registry]]\nhost = 'a.test'\nca = '/a.pem'\naccess = 'open'\n[[registry]]\nhost = 'b.test'",
        "[[registry]]\nhost = 'A.test'\naccess = 'verify'\ngrant_ttl = '1h'\n[[registry]]\nhost = 'c.test'",
        "[[freshness.rule]]\nmatch = 'a.test/**'\ntag_ttl = '1h'\nstale_if_error = '1d'",
        "[[freshness.rule]]\nmatch = 'b.test/**'\ntag_ttl = '1h'\n[[freshness.rule]]\nmatch = 'a.test/**'\ntag_ttl = 'immutable'",
    ]);
    let mut hosts: Vec<_> =
        settings.upstream.registries.keys().map(crate::reference::Registry::as_str).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["a.test", "b.test", "c.test"]);
    let a = "a.test".parse().unwrap();
    assert_eq!(settings.upstream.registries[&a].ca, Some("/a.pem".into()), "what is said once stays");
    let terms = settings.pull.terms(&a);
    assert_eq!((terms.policy, terms.grant_ttl.as_secs()), (pull::Policy::Verify, 3_600));
    let rules = &settings.pull.freshness.rules;
    let patterns: Vec<_> = rules.iter().map(|rule| rule.matches.glob().glob()).collect();
    assert_eq!(patterns, ["a.test/**", "b.test/**"], "the first that matches counts, so that order is kept");
    assert_eq!(rules[0].tag_ttl, Some(pull::TagTtl::Immutable));
    assert!(rules[0].stale_if_error.is_some(), "what is said once stays");
}

#[test]
fn a_registry_twice_in_one_file_is_a_mistake_and_not_a_merge() {
    let twice = "[[registry]]\nhost = 'a.test'\n[[registry]]\nhost = 'a.test'";
    for texts in [&[twice] as &[&str], &["[[registry]]\nhost = 'b.test'", twice]] {
        assert!(mistakes(texts, &[])[0].contains("a.test has a section already"), "{texts:?}");
    }
}

#[test]
fn a_mistake_names_the_file_and_the_line_or_the_variable() {
    let found = mistakes(
        &["[server]\nlisten = ['127.0.0.1:1']", "\n\n[server]\nspeed = 1\ndrain_wait = 'soon'"],
        &[("LARDER_LOG_LEVEL", "loud")],
    );
    for (key, end) in [
        ("[server] speed", "(1.toml:4)"),
        ("[server] drain_wait", "(1.toml:5)"),
        ("[log] level", "($LARDER_LOG_LEVEL)"),
    ] {
        let one = found.iter().find(|mistake| mistake.starts_with(key));
        assert!(one.is_some_and(|mistake| mistake.ends_with(end)), "{key} {end}: {found:#?}");
    }
    let broken = mistakes(&["[server", "x ="], &[]);
    assert_eq!(broken.len(), 2, "{broken:#?}");
    assert!(broken[0].starts_with("line 1: ") && broken[1].ends_with("(1.toml:1)"), "{broken:#?}");
}

#[test]
fn the_environment_stands_in_place_of_files() {
    let variables = [
        ("LARDER_SERVER_LISTEN", "127.0.0.1:1, unix:/run/x.sock"),
        ("LARDER_SERVER_CONNECTIONS_MAX", "7"),
        ("LARDER_SERVER_ALLOW_UIDS", "0,1000"),
        ("LARDER_STORE_MAX_BYTES", "50GiB"),
        ("LARDER_CREDENTIALS_NODE", "/a.json,/b.json"),
        ("LARDER_FRESHNESS_TAG_TTL", "immutable"),
        ("LARDER_PREPULL_PIN", "false"),
        (
            "LARDER_REGISTRY",
            "[{ host = 'a.test', endpoints = [{ url = 'http://a.test' }] }, { host = 'b.test' }]",
        ),
        ("LARDER_SERVICE_PORT_METRICS", "5052"),
    ];
    let file = "[server]\nlisten = ['127.0.0.1:2']\nhosts = ['h.test']\n[[registry]]\nhost = 'a.test'\nca = '/a.pem'";
    let settings = resolve(file, &environment(&variables)).unwrap();
    let listen: Vec<_> = ["127.0.0.1:1", "unix:/run/x.sock"].iter().map(|at| at.parse().unwrap()).collect();
    assert_eq!(settings.listen, listen);
    assert_eq!((settings.limits.connections_max, settings.uids.clone()), (7, Some(vec![0, 1_000])));
    assert_eq!(settings.serve.hosts, ["h.test"], "what no variable names is as in the file");
    assert_eq!(settings.store.budget.max, store::Amount::Bytes(50 << 30));
    let files = credentials::NodeFiles::Named(vec!["/a.json".into(), "/b.json".into()]);
    assert_eq!(settings.credentials.node, files);
    assert_eq!(settings.pull.freshness.freshness.tag_ttl, pull::TagTtl::Immutable);
    assert!(!settings.prepull.pin);
    let a = &settings.upstream.registries[&"a.test".parse().unwrap()];
    assert_eq!((a.ca.is_some(), a.endpoints.len()), (true, 1), "a registry is completed");
    assert_eq!(settings.upstream.registries.len(), 2);
}

#[test]
fn a_variable_that_is_no_setting_is_refused_with_the_nearest_one() {
    let found = mistakes(&[""], &[("LARDER_SERVER_LISTENS", "x"), ("LARDER_NONSENSE", "x")]);
    assert!(found[0].starts_with("LARDER_NONSENSE: no setting has this name; unset it"), "{found:#?}");
    assert!(found[1].contains("did you mean LARDER_SERVER_LISTEN?"), "{found:#?}");
}

#[test]
fn changes_are_named_by_key_with_what_they_need() {
    let before =
        read(&["[[registry]]\nhost = 'a.test'\n[[registry]]\nhost = 'b.test'\n[server]\nhosts = ['x']"]);
    let now = read(&[
        "[[registry]]\nhost = 'c.test'\n[[registry]]\nhost = 'a.test'\nendpoints = ['http://a.test/']\n[server]\nhosts = [\"x\"]\nlisten = ['127.0.0.1:1']\n[[freshness.rule]]\nmatch = '**'\ntag_ttl = '1h'\n[log]\nlevel = 'debug'",
    ]);
    let changes: Vec<_> = now.changes(&before).into_iter().map(|c| (c.key, c.needs_restart)).collect();
    let expected = [
        ("[server] listen", true),
        ("[[freshness.rule]]", false),
        ("[[registry]] c.test", false),
        ("[[registry]] a.test endpoints", false),
        ("[[registry]] b.test", false),
        ("[log] level", false),
    ];
    assert_eq!(changes, expected.map(|(key, restart)| (key.to_owned(), restart)));
    let reordered =
        read(&["[server]\nhosts = ['x']\n[[registry]]\nhost = 'b.test'\n[[registry]]\nhost = 'a.test'"]);
    assert_eq!(reordered.changes(&before), [], "the order of sections is no setting");
}

#[test]
fn the_files_beside_the_file_are_read_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("larder.toml");
    let beside = directory.path().join("larder.toml.d");
    fs::write(&file, "[log]\nlevel = 'error'").unwrap();
    let level =
        || load(Some(&file), &environment(&[])).map(|loaded| (loaded.settings.log.level, loaded.from));
    assert_eq!(level().unwrap().0, LogLevel::Error);
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("20-b.toml"), "[log]\nlevel = 'debug'").unwrap();
    fs::write(beside.join("10-a.toml"), "[log]\nlevel = 'warn'").unwrap();
    for ignored in [".30-hidden.toml", "30-other.toml.dpkg-old"] {
        fs::write(beside.join(ignored), "nonsense").unwrap();
    }
    let (level_now, from) = level().unwrap();
    assert_eq!(level_now, LogLevel::Debug);
    assert!(from.ends_with("20-b.toml") && from.contains("10-a.toml, "), "{from}");
    fs::write(beside.join("40-broken.toml"), "nonsense").unwrap();
    assert!(level().unwrap_err().to_string().contains("40-broken.toml:1"));
}

#[test]
fn where_a_running_daemon_listens_is_known_of_files_with_mistakes_too() {
    let socket =
        |texts: &[&str]| resolve_layers(&layers(texts), &environment(&[])).unwrap_err().rest.admin.socket;
    let mistaken = "[admin]\nsocket = \"/srv/l.sock\"\n[store]\nmax_byte = \"1G\"";
    assert_eq!(socket(&[mistaken]), std::path::Path::new("/srv/l.sock"));
    let named = "[admin]\nsocket = \"/srv/l.sock\"";
    assert_eq!(socket(&[named, "no TOML"]), std::path::Path::new("/srv/l.sock"));
    assert_eq!(socket(&["no TOML"]), socket(&["[admin]\nsocket = 1"]), "the default one");
}
