//! Docker: `registry-mirrors`, which it uses for Docker Hub only, and `hosts.toml` for its containerd image store.
//!
//! Docker shows its user's login for Docker Hub to a mirror that asks for it on `/v2/`, as this cache does (seen with
//! Docker 20.10). Its containerd image store shows a mirror none: through that, this cache serves what the node's
//! credentials or anonymous callers may read.

use serde_json::{Map, Value, json};

use super::change::{Change, Files};
use super::plan::{SetupPlan, SetupRequest};
use crate::reference::DOCKER_HUB;

const CONFIG: &str = "/etc/docker/daemon.json";
/// Where the containerd image store looks hosts up.
const HOSTS: &str = "/etc/docker/certs.d";
const MIRRORS: &str = "registry-mirrors";

pub(super) fn plan(files: &Files, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan { restart: Some("systemctl restart docker"), ..SetupPlan::default() };
    if request.strict {
        return Err("Docker always turns to Docker Hub itself when a mirror does not have it: --strict is not possible".to_owned());
    }
    if !request.undo && request.default_registry.as_str() != DOCKER_HUB {
        return Err(format!(
            "Docker asks its mirrors for images of Docker Hub without saying so, and [server] default_registry is {}",
            request.default_registry
        ));
    }
    plan.changes.push(daemon(files.read(CONFIG)?, request)?);
    for name in [DOCKER_HUB.to_owned()].iter().chain(&request.registries) {
        let change = files.read(&format!("{HOSTS}/{name}/hosts.toml"))?;
        plan.changes.push(if request.undo {
            change.without_ours()
        } else {
            let ours = format!(
                "[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n",
                request.url
            );
            change.with_ours(&ours, |line| line.trim_start().starts_with('['))
        });
    }
    if !request.undo {
        plan.notes.push("Docker's containerd image store shows no credential to a mirror: private images are served to it only where the node's own docker config may read them; without that store Docker shows its user's login".to_owned());
    }
    Ok(plan)
}

fn daemon(mut change: Change, request: &SetupRequest) -> Result<Change, String> {
    let text = change.text().trim().to_owned();
    let mut config: Map<String, Value> = if text.is_empty() {
        Map::new()
    } else {
        serde_json::from_str(&text).map_err(|error| format!("{CONFIG} is malformed: {error}"))?
    };
    let mut mirrors: Vec<Value> = match config.get(MIRRORS) {
        None => Vec::new(),
        Some(Value::Array(mirrors)) => mirrors.clone(),
        Some(_) => return Err(format!("{MIRRORS} in {CONFIG} is no list")),
    };
    // Docker writes a slash behind it.
    let is_ours =
        |mirror: &Value| mirror.as_str().is_some_and(|url| url.trim_end_matches('/') == request.url);
    let as_it_should_be =
        if request.undo { !mirrors.iter().any(is_ours) } else { mirrors.first().is_some_and(is_ours) };
    if as_it_should_be {
        return Ok(change);
    }
    mirrors.retain(|mirror| !is_ours(mirror));
    if !request.undo {
        mirrors.insert(0, json!(request.url));
    }
    if mirrors.is_empty() {
        config.remove(MIRRORS);
    } else {
        config.insert(MIRRORS.to_owned(), Value::Array(mirrors));
    }
    change.after = if config.is_empty() {
        None
    } else {
        let text = serde_json::to_string_pretty(&config).map_err(|error| error.to_string())?;
        Some(text + "\n")
    };
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_comes_first_and_what_was_there_stays_in_its_order() {
        let request = |undo| SetupRequest {
            url: "http://127.0.0.1:5050".into(),
            authority: "127.0.0.1:5050".into(),
            strict: false,
            undo,
            registries: Vec::new(),
            configured: Vec::new(),
            default_registry: crate::reference::Registry::docker_hub(),
            gate: None,
        };
        let file = |text: &str| Change {
            path: CONFIG.into(),
            before: Some(text.into()),
            after: (!text.is_empty()).then(|| text.to_owned()),
            mode: 0o644,
            mode_before: Some(0o644),
        };
        let before = "{\n  \"storage-driver\": \"overlay2\",\n  \"registry-mirrors\": [\n    \"https://m.corp\"\n  ],\n  \"debug\": true\n}\n";
        let once = daemon(file(before), &request(false)).unwrap();
        let text = once.text();
        assert!(
            text.find("127.0.0.1:5050") < text.find("m.corp")
                && text.find("storage-driver") < text.find("debug"),
            "{text}"
        );
        assert_eq!(daemon(file(text), &request(false)).unwrap().text(), text, "twice is once");
        assert_eq!(daemon(file(text), &request(true)).unwrap().text(), before, "and back");
        let made = daemon(file(""), &request(false)).unwrap();
        assert!(made.text().contains("registry-mirrors"));
        assert_eq!(daemon(file(made.text()), &request(true)).unwrap().after, None);
        assert!(daemon(file("{"), &request(false)).is_err());
        assert!(daemon(file("{\"registry-mirrors\": 5}"), &request(false)).is_err());
    }
}
