//! `hosts.toml` in every form: joined, given back, never broken.

use proptest::prelude::*;

use super::super::change::Change;
use super::*;
use crate::cli::runtimes::machine::Machine;

const URL: &str = "http://127.0.0.1:5050";

fn wanted(url: &str, strict: bool) -> Host<'_> {
    Host { url, strict, gate: None, certificates: Certificates::default() }
}

/// The hosts of a text in the order in which containerd from 2.0 on asks them: by the headers of tables.
fn asked(text: &str) -> Vec<String> {
    let document: DocumentMut = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (hosts, passed_over) = listed(&document);
    assert!(!passed_over, "{text}");
    let mut headers: Vec<String> = Vec::new();
    let lines = text.lines().map(|line| line.replace(' ', ""));
    for line in lines.filter(|line| line.starts_with("[host.")) {
        let (url, _) = hosts.iter().find(|(url, _)| line.contains(url)).unwrap();
        if headers.last().map(String::as_str) != Some(url) {
            headers.push((*url).to_owned());
        }
    }
    headers
}

#[test]
fn this_cache_comes_first_and_every_other_host_stays_whatever_form_it_has() {
    for theirs in [
        "[host.\"https://m.corp\"]\ncapabilities = [\"pull\"]\n",
        "[host.'https://m.corp']\n  capabilities = ['pull'] # mine\n  [host.'https://m.corp'.header]\n    x = 'y'\n",
        "host = { \"https://m.corp\" = { capabilities = [\"pull\"] } }\n",
        "host.\"https://m.corp\".capabilities = [\"pull\"]\nserver = \"https://m.corp\"\n",
        "host.\"https://m.corp\" = { capabilities = [\"pull\"] }\n",
        "[host]\n\"https://m.corp\".capabilities = [\"pull\"]\n",
        "[host]\n\"https://m.corp\" = { capabilities = [\"pull\"] }\n",
        "# mine\r\nserver = \"https://m.corp\"\r\n\r\n[host.\"https://m.corp\"]\r\ncapabilities = [\r\n  \"pull\", # p\r\n]\r\n",
        "server = \"https://m.corp\"\n[header]\nx = \"y\"\n[host.\"https://m.corp\"]\ncapabilities = [\"pull\"]",
        "[ host . \"https://m.corp\" ]\ncapabilities = [\"pull\"]\n[host.\"http://127.0.0.1:5050/\"]\nskip_verify = true\n",
    ] {
        let written = with_host(Some(theirs), &wanted(URL, false)).unwrap();
        let document: DocumentMut = written.parse().unwrap();
        let (hosts, passed_over) = listed(&document);
        let urls: Vec<&str> = hosts.iter().map(|(url, _)| *url).collect();
        assert_eq!((urls.as_slice(), passed_over), ([URL, "https://m.corp"].as_slice(), false), "{written}");
        let first = hosts[0].1;
        assert!(first.get("skip_verify").is_none() && first.get("dial_timeout").is_some(), "{written}");
        assert_eq!(
            hosts[1].1.get("capabilities").and_then(Item::as_array).map(Array::len),
            Some(1),
            "{written}"
        );
        let (ours, other) =
            (written.find(URL).unwrap(), written.find("m.corp\"]").or(written.find("m.corp'")));
        assert!(other.is_none_or(|other| ours < other || theirs.starts_with("server")), "{written}");
        assert_eq!(written.contains("# mine"), theirs.contains("# mine"), "{written}");
        assert_eq!(written.replace("\r\n", "").contains('\n'), !theirs.contains("\r\n"), "{written:?}");
    }
}

#[test]
fn headers_that_were_written_by_hand_are_still_sent() {
    let by_hand = format!("[host.\"{URL}\"]\n[host.\"{URL}\".header]\nX-Team = \"blue\"\n");
    let written = with_host(Some(&by_hand), &wanted(URL, false)).unwrap();
    assert!(written.contains("X-Team = \"blue\"") && written.matches("[host.").count() == 2, "{written}");
}

#[test]
fn a_value_of_the_gate_from_before_is_not_sent_beside_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate");
    std::fs::write(&file, "the-new-value-of-it").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let header = http::HeaderName::from_static("x-node-key");
    let gate = Gate::read(&crate::serve::GateConfig { header, file }).unwrap();
    let by_hand = format!("[host.\"{URL}\".header]\nX-Node-Key = \"the-old-value-of-it\"\n");
    let written = with_host(Some(&by_hand), &Host { gate: Some(&gate), ..wanted(URL, false) }).unwrap();
    assert!(written.contains("the-new-value-of-it") && !written.contains("the-old-value-of-it"), "{written}");
}

#[test]
fn what_containerd_would_speak_tls_to_is_not_made_the_only_server() {
    for (text, part) in [
        ("server = \"https://x\"\n", "server of its own"),
        ("ca = \"/x.pem\"\n", "ca for the registry itself"),
        ("server = [", "malformed"),
        ("host = 5\n", "host is no table"),
        ("host.x = 5\n", "is no table"),
    ] {
        let error = with_host(Some(text), &wanted(URL, true)).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let strict = with_host(None, &wanted(URL, true)).unwrap();
    assert!(
        strict.starts_with(&format!("server = \"{URL}\"")) && strict.contains("X-Larder-Mode"),
        "{strict}"
    );
    assert_eq!(without_host(&strict), None);
    let by_hand = format!("server = \"{URL}/\"\n");
    assert_eq!(without_host(&with_host(Some(&by_hand), &wanted(URL, true)).unwrap()), Some(by_hand));
}

#[test]
fn certificates_of_a_directory_that_is_not_read_any_more_are_for_the_registry_itself() {
    let certificates = Certificates {
        ca: vec!["/etc/docker/certs.d/r/ca.crt".into()],
        client: vec![("/c.cert".into(), Some("/c.key".into()))],
    };
    let written = with_host(None, &Host { certificates, ..wanted(URL, false) }).unwrap();
    let document: DocumentMut = written.parse().unwrap();
    assert_eq!(document["ca"][0].as_str(), Some("/etc/docker/certs.d/r/ca.crt"));
    assert_eq!(document["client"][0][1].as_str(), Some("/c.key"));
    assert_eq!(without_host(&written), None, "{written}");
}

#[test]
fn the_section_of_an_earlier_build_is_replaced_and_removed() {
    let old = "server = \"x\"\n# -- larder: begin; written by `larder setup`, removed by `larder setup --undo`\n[host.\"http://127.0.0.1:5050\"]\n  capabilities = [\"pull\", \"resolve\"]\n# -- larder: end\n[host.\"https://m\"]\n";
    assert_eq!(without_host(old).as_deref(), Some("server = \"x\"\n[host.\"https://m\"]\n"));
}

/// Ends of lines, and blanks where TOML allows them.
fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("\n"), Just("\r\n")]
}

/// One host, in one of the forms that it may have.
fn one_host(at: usize) -> impl Strategy<Value = String> {
    let url = format!("https://m{at}.corp");
    let quoted = prop_oneof![Just('"'), Just('\'')];
    (quoted, 0..4_u8, any::<bool>(), any::<bool>()).prop_map(move |(quote, form, header, comment)| {
        let key = format!("{quote}{url}{quote}");
        let comment = if comment { " # theirs" } else { "" };
        let header =
            if header { format!("[host.{key}.header]\nX = [\"a\", \"b\"]\n") } else { String::new() };
        match form {
            0 => format!("[host.{key}]{comment}\n  capabilities = [\"pull\"]\n{header}"),
            1 => format!("\n# before\n[ host . {key} ]\n{header}"),
            2 => format!("[host.{key}]\nskip_verify = true{comment}\n\n\n{header}"),
            _ => format!("  [host.{key}]\n  capabilities = [\n    \"pull\",{comment}\n  ]\n{header}"),
        }
    })
}

prop_compose! {
    fn hosts_toml()(
        server in any::<bool>(),
        comment in any::<bool>(),
        inline in 0..4_u8,
        first in one_host(1),
        second in one_host(2),
        hosts in 0..3_usize,
        end in line_end(),
        newline_at_the_end in any::<bool>(),
    ) -> String {
        let mut text = String::new();
        if comment { text.push_str("# at the top\n\n"); }
        if server { text.push_str("server = \"https://registry.corp\" # itself\n"); }
        match (inline, hosts) {
            (1, 0) => text.push_str("host = {\"https://i.corp\" = {capabilities = [\"pull\"]}}\n"),
            (2, 0) => text.push_str("host.\"https://d.corp\".skip_verify = true\nhost.'https://e.corp'.override_path = true\n"),
            (3, 0) => text.push_str("[host]\n'https://d.corp' = { skip_verify = true }\n"),
            _ => {}
        }
        if hosts > 0 { text.push_str(&first); }
        if hosts > 1 { text.push_str(&second); }
        if !newline_at_the_end { text.truncate(text.trim_end().len()); }
        text.replace('\n', end)
    }
}

proptest! {
    #[test]
    fn setup_and_undo_give_back_the_bytes_and_setup_twice_is_setup_once(
        text in hosts_toml(),
        strict in any::<bool>(),
        moved in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        std::fs::write(directory.path().join("hosts.toml"), &text).unwrap();
        let strict = strict && !text.contains("server");
        let read = || Change::read(&machine, "/hosts.toml").unwrap();
        let wire = |url: &str| {
            let change = read();
            let after = with_host(change.original(&without_host).as_deref(), &wanted(url, strict)).unwrap();
            change.becomes(after, url, &without_host)
        };
        if moved {
            wire("http://127.0.0.1:6060").apply(&machine).unwrap();
        }
        wire(URL).apply(&machine).unwrap();
        let once = std::fs::read_to_string(directory.path().join("hosts.toml")).unwrap();
        let hosts = asked(&once);
        prop_assert_eq!(hosts[0].as_str(), URL);
        prop_assert!(!once.contains("6060"), "no dead mirror is left: {}", once);
        for host in ["m1", "m2", "i", "d", "e"].map(|name| format!("https://{name}.corp")) {
            prop_assert_eq!(text.contains(&host), hosts.contains(&host), "{}", once);
        }
        let twice = wire(URL);
        prop_assert!(!twice.changes_anything(), "{}", twice.difference(None));
        read().undone(&without_host).apply(&machine).unwrap();
        let left = std::fs::read_to_string(directory.path().join("hosts.toml")).ok();
        prop_assert_eq!(left.as_deref(), Some(text.as_str()));
        prop_assert_eq!(machine.names("/"), vec!["hosts.toml".to_owned()]);
    }
}

#[test]
fn an_empty_table_of_hosts_that_an_operator_wrote_stays() {
    let text = "server = \"https://reg.corp\"\n\n[host]\n";
    let written = with_host(Some(text), &wanted("http://127.0.0.1:5050", false)).unwrap();
    assert!(written.contains("127.0.0.1:5050"), "{written}");
    assert!(without_host(&written).unwrap().contains("[host]"));
}
