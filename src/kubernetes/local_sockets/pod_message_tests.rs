//! A pod as kubelet writes it, read.

use prost::Message;

use super::*;

#[test]
fn every_kind_of_image_of_a_pod_is_read_and_other_fields_are_passed_over() {
    let container = |name: &str, image: &str, policy: &str| Container {
        name: name.to_owned(),
        image: image.to_owned(),
        policy: policy.to_owned(),
    };
    let message = PodMessage {
        metadata: Some(Metadata {
            uid: "u".to_owned(),
            deleted: Some(Time { seconds: 1 }),
            ..Metadata::default()
        }),
        spec: Some(Spec {
            volumes: vec![
                Volume { name: "none".to_owned(), source: None },
                Volume {
                    name: "data".to_owned(),
                    source: Some(VolumeSource {
                        image: Some(ImageVolume {
                            reference: "data:v1".to_owned(),
                            policy: "Always".to_owned(),
                        }),
                    }),
                },
            ],
            containers: vec![container("app", "app:v1", "Never")],
            service_account: "robot".to_owned(),
            pull_secrets: vec![Reference { name: "corp".to_owned() }],
            init_containers: vec![container("init", "init:v1", "")],
            priority: Some(5),
            ephemeral_containers: vec![Ephemeral { common: Some(container("debug", "debug:v1", "")) }],
        }),
        status: Some(PodStatus {
            phase: "Running".to_owned(),
            containers: vec![
                ContainerStatus {
                    name: "app".to_owned(),
                    image_id: String::new(),
                    container_id: String::new(),
                },
                ContainerStatus {
                    name: "log".to_owned(),
                    image_id: "sha256:1".to_owned(),
                    container_id: String::new(),
                },
            ],
            ..PodStatus::default()
        }),
    };
    let mut bytes = message.encode_to_vec();
    // A field that no one here knows: number 4,000, two bytes.
    bytes.extend_from_slice(&[0x82, 0xfa, 0x01, 2, 1, 1]);
    let raw = decode(&bytes).unwrap();
    assert_eq!((raw.volumes.len(), raw.volumes[0].image.as_str()), (1, "data:v1"));
    assert_eq!(raw.ephemeral[0].image, "debug:v1");
    assert_eq!((raw.init[0].image.as_str(), raw.containers[0].policy.as_str()), ("init:v1", "Never"));
    assert_eq!((raw.pull_secrets, raw.started), (vec!["corp".to_owned()], vec!["log".to_owned()]));
    assert_eq!((raw.priority, raw.is_deleted, raw.service_account.as_str()), (Some(5), true, "robot"));
}
