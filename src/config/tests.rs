//! The configuration: defaults without a file, every mistake at once, and a documented file that is the truth.

use std::path::Path;

use super::*;

fn environment() -> Environment {
    Environment { home: Some("/home/u".into()), ..Environment::default() }
}

fn mistakes(text: &str) -> Vec<String> {
    match resolve(text, &environment()) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
    }
}

/// The shipped file with every setting switched on: `#key = value` is a setting, `# text` is prose.
fn uncommented() -> String {
    let shipped = include_str!("../../config/larder.toml");
    let setting = |line: &str| {
        line.strip_prefix('#')
            .filter(|rest| !rest.starts_with([' ', '#']) && !rest.is_empty())
            .map(str::to_owned)
    };
    shipped.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn the_shipped_file_is_the_built_in_defaults() {
    let root = Environment { root: true, runtime_dir: Some("/run/larder".into()), ..Environment::default() };
    let shown = |text: &str| print(&resolve(text, &root).unwrap_or_else(|m| panic!("{m:?}")));
    assert_eq!(shown(include_str!("../../config/larder.toml")), shown(""), "as shipped, nothing is set");
    let all = uncommented();
    let (settings, examples) = all.split_once("# -- examples").unwrap();
    assert_eq!(shown(settings), shown(""), "each commented value is the default");
    assert_ne!(shown(&format!("# {examples}")), shown(""), "the examples are right, and are no defaults");
}

#[test]
fn daemons_that_differ_in_the_name_of_their_node_alone_count_as_equal() {
    let hash = |text: &str| hash(&resolve(text, &environment()).unwrap());
    let [a, b] = ["a", "b"].map(|node| format!("[kubernetes]\nnode = \"{node}\"\n"));
    assert_eq!(hash(&a), hash(&b), "the alert LarderConfigsDiffer would never end");
    assert_ne!(hash(&a), hash(&format!("{a}ahead = 5\n")), "and everything else counts");
}

/// Compares a file of the repository with what it should be, or makes it so: `UPDATE=1 cargo nextest run config::`.
#[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
fn is_up_to_date(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(found == expected, "{} is not what the declarations say: UPDATE=1 writes it", path.display());
}

#[test]
fn the_shipped_file_says_what_the_declarations_say() {
    is_up_to_date("config/larder.toml", &template());
}

#[test]
fn the_documentation_says_what_the_declarations_say() {
    const PAGE: &str = "docs/configuration.md";
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let (begin, end) = ("<!-- keys: made from the declarations -->\n", "<!-- end of keys -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    is_up_to_date(PAGE, &format!("{before}{begin}\n{}{end}{after}", reference()));
}

#[test]
fn an_example_of_a_key_that_has_no_default_can_be_switched_on() {
    let text = template();
    let (settings, _) = text.split_once("# -- examples").unwrap();
    let key = |line: &str| {
        let name: String = line.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        !name.is_empty() && line[name.len()..].starts_with(" = ")
    };
    let switched_on: String = settings
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| key(line)).unwrap_or(line).to_owned() + "\n")
        .collect();
    let settings = resolve(&switched_on, &environment()).unwrap_or_else(|m| panic!("{m:?}"));
    assert!(settings.serve.gate.is_some() && settings.credentials.providers.is_some());
}

#[test]
fn every_key_is_in_the_shipped_file() {
    // An unknown key makes each section tell all that it knows.
    let nonsense = "x=1\n[server]\nx=1\n[admin]\nx=1\n[store]\nx=1\n[upstream]\nx=1\n[log]\nx=1\n[credentials]\nx=1\n[access]\nx=1\n[freshness]\nx=1\n[prepull]\nx=1\n[kubernetes]\nx=1\n[tier]\nx=1\n[[registry]]\nhost='a.b'\nx=1";
    let shipped = uncommented();
    for mistake in resolve(nonsense, &environment()).unwrap_err() {
        let known = mistake.problem.split_once("known here: ");
        let (_, known) = known.unwrap_or_else(|| panic!("{mistake}"));
        for key in known.split(", ") {
            let there = shipped.lines().any(|line| {
                line.trim_start_matches("# ").starts_with(&format!("{key} ="))
                    || line == format!("[{key}]")
                    || line == format!("[[{key}]]")
                    || line == format!("[[freshness.{key}]]")
            });
            assert!(there, "{key} is not in config/larder.toml");
        }
    }
}

#[test]
fn no_file_means_defaults_that_need_no_root() {
    let settings = resolve("", &environment()).unwrap();
    assert_eq!(settings.listen, ["127.0.0.1:5050".parse().unwrap()]);
    assert_eq!(settings.store.path, Path::new("/home/u/.local/state/larder/store"));
    let state = Environment { state_home: Some("/s".into()), ..environment() };
    assert_eq!(resolve("", &state).unwrap().store.path, Path::new("/s/larder/store"));
    let root = Environment { root: true, ..environment() };
    assert_eq!(resolve("", &root).unwrap().store.path, Path::new("/var/lib/larder/store"));
    assert!(resolve("", &Environment::default()).is_err(), "nowhere to keep state");
}

#[test]
fn a_collector_is_refused_where_no_trace_would_ever_be_sent() {
    let said = mistakes("[log]\notlp = \"http://collector:4318\"\n").join("\n");
    assert_eq!(said.contains("built without the feature otlp"), !crate::traces::BUILT_IN, "{said}");
    assert!(mistakes("[log]\notlp = \"collector:4318\"\n").join("\n").contains("http://collector:4318"));
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_key() {
    let text = r#"
        speed = "fast"
        [server]
        listen = ["localhost:5050", 7]
        default_registry = "not a host"
        connections_max = 0
        drain_wait = "soon"
        [store]
        path = "relative"
        max_bytes = "lots"
        min_free = "120%"
        [upstream]
        allow = ["public", "quay.io"]
        header_timeout = "29s"
        trusted_realms = ["auth.corp"]
        [[registry]]
        endpoints = ["ftp://x", "https://user:secret@x"]
        trusted_realms = ["auth.corp"]
        [[registry]]
        host = "a.b"
        [[registry]]
        host = "A.b"
        [log]
        level = "loud"
    "#;
    let found = mistakes(text);
    for key in [
        "speed: unknown key",
        "[server] listen: \"localhost:5050\"",
        "[server] listen: expected only texts",
        "[server] default_registry",
        "[server] connections_max: expected a whole number from 1",
        "[server] drain_wait",
        "[store] path: \"relative\": expected an absolute path",
        "[store] max_bytes: \"lots\": expected a size",
        "[store] min_free: \"120%\"",
        "[upstream] allow",
        "[upstream] header_timeout",
        "[upstream] trusted_realms: this key has moved",
        "[[registry]] 1 trusted_realms: \"auth.corp\": expected host:port",
        "[[registry]] 1 host",
        "[[registry]] 1 endpoints: \"ftp://x\"",
        "[[registry]] 1 endpoints: (not shown): a URL must not hold",
        "[[registry]] 3 host: a.b has a section already",
        "[log] level",
    ] {
        assert!(found.iter().any(|m| m.starts_with(key)), "{key} is missing in {found:#?}");
    }
    assert_eq!(found.len(), 18, "{found:#?}");
    assert!(!found.concat().contains("secret"), "{found:#?}");
}

#[test]
fn one_mistake_is_told_once() {
    for (text, key) in [
        ("[[registry]]\nhost = \"https://a.b/\"", "host"),
        ("[[registry]]\nhost = \"a.b\"\nclient_cert = \"/c\"\nclient_key = \"k\"", "client_key"),
        ("[[registry]]\nhost = \"a.b\"\nendpoints = [{ url = \"ftp://x\" }]", "url"),
        ("[server]\ngate_header = \"x-k\"\ngate_file = \"g\"", "gate_file"),
        ("[server]\nstate = 5", "state"),
        ("[credentials]\nprovider_config = \"p\"\nprovider_bin_dir = \"/b\"", "provider_config"),
        ("[[freshness.rule]]\nmatch = \"docker.io/**:*\"\ntag_ttl = \"soon\"", "tag_ttl"),
    ] {
        let found = mistakes(text);
        assert!(found.len() == 1 && found[0].contains(key), "{text}: {found:#?}");
    }
    for absent in ["[[registry]]\nca = \"/c\"", "[[freshness.rule]]\nmatch = \"docker.io/**:*\""] {
        assert_eq!(mistakes(absent).len(), 1, "what is absent is a mistake too");
    }
}

#[test]
fn a_slip_in_a_key_is_answered_with_the_key_that_was_meant_and_not_with_all_of_them() {
    assert_eq!(
        mistakes("[server]\nlisen = 1"),
        ["[server] lisen: unknown key; did you mean listen? (larder.toml:2)"]
    );
    assert!(mistakes("[server]\nspeed = 1")[0].contains("known here: listen, "));
}

#[test]
fn sections_of_a_wrong_shape_and_broken_syntax_are_named() {
    assert!(mistakes("server = 5")[0].contains("expected a section"));
    assert!(mistakes("registry = 5")[0].contains("[[registry]]"));
    assert!(
        mistakes("[server]\nlisten = [")[0].starts_with("line "),
        "{:?}",
        mistakes("[server]\nlisten = [")
    );
    assert!(mistakes("[server]\nlisten = ['127.0.0.1:5051']")[0].contains("used twice"));
    assert!(mistakes("[server]\nlisten = []")[0].contains("at least one"));
}

#[test]
fn what_is_printed_means_the_same() {
    let text = r#"
        [server]
        listen = ["127.0.0.1:1", "unix:/run/x \"y\".sock"]
        drain_wait = "90s"
        [store]
        max_bytes = "50GiB"
        min_free = "5000B"
        [upstream]
        allow = ["quay.io", "ghcr.io"]
        [[registry]]
        host = "docker.io"
        trusted_realms = ["auth.corp:443"]
        endpoints = ["http://127.0.0.1:5000", "https://registry-1.docker.io"]
        ca = "/etc/ca.pem"
    "#;
    let once = print(&resolve(text, &environment()).unwrap());
    assert_eq!(print(&resolve(&once, &environment()).unwrap()), once);
    assert!(once.contains("drain_wait = \"1m 30s\""), "{once}");
}

#[test]
fn a_named_file_must_exist() {
    let missing = load(Some(Path::new("/nonexistent/larder.toml")), &environment());
    assert!(missing.unwrap_err().to_string().contains("/nonexistent/larder.toml"));
}
