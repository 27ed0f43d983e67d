use super::*;

const URL: &str = "http://127.0.0.1:5050";

/// What a registry leads to once this cache is the first.
fn led(text: &str, registry: &str) -> Option<String> {
    let mut file = read(text).unwrap();
    let mut list: Vec<String> =
        endpoints_mut(&mut file, registry)?.iter().map(|url| url.as_str().unwrap().to_owned()).collect();
    list.insert(0, URL.to_owned());
    extended(text, registry, &list)
}

#[test]
fn only_lines_are_added_and_no_value_of_an_operator_is_written_anew() {
    for (text, added) in [
        ("", "mirrors:\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5050\"\n"),
        (
            "configs:\n  a.corp:\n    auth:\n      password: 00123\n      username: yes # theirs\n",
            "mirrors:\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5050\"\n",
        ),
        (
            "mirrors:\n    '*':\n        endpoint:\n        # first\n        - https://m.corp # hub\n# end\nconfigs:\n  a: {auth: {password: 1e3}}\n",
            "        - \"http://127.0.0.1:5050\"\n",
        ),
        (
            "mirrors:\n  docker.io:\n    endpoint: []\n",
            "  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5050\"\n",
        ),
        (
            "mirrors:\n  \"*\":\n    other:\n      a: 010\n",
            "    endpoint:\n      - \"http://127.0.0.1:5050\"\n",
        ),
        ("mirrors: # none\n", "  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5050\"\n"),
        ("mirrors:\r\n  '*':\r\n", "    endpoint:\r\n      - \"http://127.0.0.1:5050\"\r\n"),
    ] {
        let written = led(text, ALL).unwrap();
        assert_eq!(written.replacen(added, "", 1), text, "{written}");
        let named = endpoints(&read(&written).unwrap());
        let (_, list) = named.iter().find(|(registry, _)| registry == ALL).unwrap();
        assert_eq!(list[0], URL, "{written}");
    }
    let one_line = led("mirrors:\n  \"*\":\n    endpoint: [https://m.corp] # hub\n", ALL).unwrap();
    assert!(
        one_line.ends_with("endpoint: [\"http://127.0.0.1:5050\",\"https://m.corp\"] # hub\n"),
        "{one_line}"
    );
    assert_eq!(led("mirrors: {'*': {endpoint: [a]}}\n", ALL), None);
    assert!(read("mirrors: [").is_err() && read("- a\n").is_err());
}

#[test]
fn a_mirror_with_a_rewrite_in_any_form_is_known() {
    let text = "mirrors:\n  a.corp: {rewrite: {'^x/(.*)': 'y/$1'}}\n  b.corp: {rewrite: {}}\n  c.corp: {rewrite: }\n  d.corp:\n  '*':\n    rewrite: [x]\n";
    assert_eq!(rewritten(&read(text).unwrap()), ["a.corp", "*"]);
    assert!(rewritten(&read("").unwrap()).is_empty() && rewritten(&read("mirrors: 5").unwrap()).is_empty());
}

#[test]
fn no_password_is_shown_whatever_form_it_has() {
    for text in [
        "configs:\n  a.corp:\n    auth:\n      password: |\n        s3cret\nmirrors:\n  b.corp:\n",
        "{configs: {a: {auth: {password: s3cret}}}, mirrors: {}}\n",
        "x: &a s3cret\nmirrors:\n  b.corp:\n    endpoint:\n      - https://u:s3cret@b.corp\n",
        "# s3cret\nmirrors:\n  b.corp: # s3cret\n",
        "\"configs\": {a: {auth: {\"password\": \"s3cret\"}}}\n",
    ] {
        let shown = shown(text);
        assert!(!shown.contains("s3cret") && shown.lines().count() == text.lines().count(), "{shown}");
    }
    assert_eq!(shown("mirrors:\n  a.corp:\n"), "mirrors:\n  a.corp:\n");
}
