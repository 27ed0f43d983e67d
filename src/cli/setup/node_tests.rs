//! Which nodes the init container sets up, and what stays of it.

use super::*;

fn config(path: &str) -> String {
    format!("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '{path}'\n")
}

#[test]
fn only_a_configuration_that_names_one_mounted_directory_is_set_up() {
    let old = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://x\"]\n";
    for (text, expected) in [
        (config("/etc/containerd/certs.d"), Ok("/etc/containerd/certs.d")),
        (config("/etc/containerd/hosts.d"), Ok("/etc/containerd/hosts.d")),
        (config("/mounted"), Ok("/mounted")),
        (config("/etc/docker/certs.d"), Err("mount it")),
        (config("/etc/containerd/../shadow.d"), Err("mount it")),
        (config("/etc/containerd/certs.d:/etc/docker/certs.d"), Err("a list")),
        (
            config("/etc/containerd/certs.d:/etc/docker/certs.d")
                + "[plugins.'io.containerd.cri.v1.images']\n  discard_unpacked_layers = true\n",
            Ok("/etc/containerd/certs.d"),
        ),
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n".to_owned(),
            Ok("/etc/containerd/certs.d"),
        ),
        (
            "[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d'\n".to_owned(),
            Err("no version"),
        ),
        (config(""), Err("no config_path")),
        (String::new(), Err("no config_path")),
        ("version = 2\ndisabled_plugins = [\"cri\"]\n".to_owned(), Err("disabled_plugins")),
        (old.to_owned(), Err("old form")),
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d'\n[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.corp'.tls]\n".to_owned(),
            Err("old form"),
        ),
        (
            config("/etc/containerd/certs.d")
                + "[plugins.'io.containerd.cri.v1.images'.registry.configs.'r.corp'.auth]\nusername = 'u'\n",
            Ok("/etc/containerd/certs.d"),
        ),
        ("version = [".to_owned(), Err("malformed")),
    ] {
        let found = config_at(CONFIG, &text).map_err(NotSetUp::Unreadable).and_then(|cri| {
            let parts = [Part { path: CONFIG.to_owned(), certain: true, cri }];
            directory_of(&parts, |path| path == "/mounted")
        });
        match (found, expected) {
            (Ok((found, readers)), Ok(directory)) => {
                let expected = if text.contains("version = 2") { Readers::Old } else { Readers::All };
                assert_eq!((found.as_str(), readers), (directory, expected));
            }
            (Err(why), Err(part)) => assert!(why.to_string().contains(part), "{why}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

/// A node's root with a `config.toml`, and what the init container makes of it.
struct Node(tempfile::TempDir);

impl Node {
    fn new(config: Option<&str>) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(node.path("etc/containerd")).unwrap();
        if let Some(config) = config {
            fs::write(node.path("etc/containerd/config.toml"), config).unwrap();
        }
        fs::write(node.path("larder.toml"), "[server]\nlisten = [\"127.0.0.1:505\"]\n").unwrap();
        node
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn run(&self, undo: bool) -> String {
        let message = self.path("message");
        let arguments = Arguments { root: self.0.path().to_owned(), undo, message: Some(message.clone()) };
        let environment = crate::config::Environment { root: true, ..Default::default() };
        run(&arguments, &Context { file: Some(self.path("larder.toml")), environment }).unwrap();
        fs::read_to_string(message).unwrap()
    }

    fn hosts(&self) -> Option<String> {
        fs::read_to_string(self.path("etc/containerd/certs.d/_default/hosts.toml")).ok()
    }
}

#[test]
fn the_nodes_configuration_is_never_changed_and_a_removal_takes_back_what_was_written() {
    let text = config("/etc/containerd/certs.d");
    let node = Node::new(Some(&text));
    assert!(node.run(false).starts_with("set up: "));
    assert!(node.hosts().unwrap().contains("http://127.0.0.1:505"));
    assert!(node.run(false).starts_with("set up: "), "the next pod of a rolling update");
    assert!(node.run(true).starts_with("set back: "));
    assert_eq!(node.hosts(), None);
    assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).unwrap(), text);
}

#[test]
fn files_that_do_not_say_the_same_are_left_as_they_are() {
    let text = config("/etc/containerd/certs.d");
    let node = Node::new(Some(&text));
    fs::create_dir_all(node.path("etc/containerd/conf.d")).unwrap();
    let drop_in = node.path("etc/containerd/conf.d/site.toml");
    let theirs = config("/site/certs.d");
    fs::write(&drop_in, &theirs).unwrap();
    let said = node.run(false);
    assert!(said.starts_with("not set up: ") && said.contains("conf.d/site.toml"), "{said}");
    assert_eq!(node.hosts(), None);
    assert_eq!(fs::read_to_string(&drop_in).unwrap(), theirs);
    let list = config("/etc/containerd/certs.d:/etc/docker/certs.d")
        .replace("version = 3", "version = 2")
        .replace("cri.v1.images", "grpc.v1.cri");
    let node = Node::new(Some(&list));
    assert!(node.run(false).starts_with("set up: containerd up to 2.0"));
    assert!(node.hosts().is_some());
    node.run(true);
    assert_eq!(node.hosts(), None);
    assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).unwrap(), list);
}

#[test]
fn a_drop_in_that_takes_the_directory_away_in_containerd_1_is_named() {
    let text = config("/etc/containerd/certs.d")
        .replace("version = 3", "version = 2\nimports = ['/etc/containerd/conf.d/*.toml']")
        .replace("cri.v1.images", "grpc.v1.cri");
    let node = Node::new(Some(&text));
    fs::create_dir_all(node.path("etc/containerd/conf.d")).unwrap();
    let gpu = "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.nvidia]\n";
    fs::write(node.path("etc/containerd/conf.d/gpu.toml"), gpu).unwrap();
    let said = node.run(false);
    assert!(said.starts_with("set up: containerd from 2.0 on") && said.contains("conf.d/gpu.toml"), "{said}");
    assert!(node.hosts().is_some());
}

#[test]
fn a_node_that_cannot_be_set_up_keeps_what_it_has_and_says_why() {
    for (text, part) in
        [(None, "there is no /etc/containerd/config.toml"), (Some("version = 2\n"), "no config_path")]
    {
        let node = Node::new(text);
        let said = node.run(false);
        assert!(said.starts_with("not set up: ") && said.contains(part), "{said}");
        assert_eq!(node.hosts(), None);
        assert!(node.run(true).starts_with("set back: "));
        assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).ok().as_deref(), text);
    }
    let node = Node::new(Some(&config("/etc/containerd/certs.d")));
    fs::create_dir_all(node.path("etc/containerd/certs.d/_default")).unwrap();
    fs::write(node.path("etc/containerd/certs.d/_default/hosts.toml"), "server = [").unwrap();
    let said = node.run(false);
    assert!(said.contains("malformed"), "{said}");
    assert_eq!(node.hosts().as_deref(), Some("server = ["));
}

#[test]
fn a_gate_that_this_container_does_not_see_keeps_no_daemon_from_running() {
    for (server, part) in [
        (
            "listen = [\"127.0.0.1:505\"]\ngate_header = \"X-Key\"\ngate_file = \"/nothing\"",
            "gate_file: /nothing",
        ),
        ("listen = [\"unix:/run/larder/larder.sock\"]", "no loopback address"),
    ] {
        let node = Node::new(Some(&config("/etc/containerd/certs.d")));
        fs::write(node.path("larder.toml"), format!("[server]\n{server}\n")).unwrap();
        let said = node.run(false);
        assert!(said.starts_with("not set up: ") && said.contains(part), "{said}");
        assert_eq!(node.hosts(), None);
    }
}
