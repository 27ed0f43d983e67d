//! Registries that name one URL: what they learn of it from each other.

use super::*;
use crate::upstream::config::{ClientCertificate, Config, RegistryConfig};
use crate::upstream::endpoint::select::endpoints;
use crate::upstream::endpoint::tracked::Availability;
use crate::upstream::error::{ConnectStage, Failure, Party};

fn health() -> Health {
    Health::new(Recorder::for_test())
}

fn group() -> RequestGroup {
    RequestGroup { repository: "reg.test/a".parse().unwrap(), kind: RequestKind::Manifest }
}

fn fails_at(stage: ConnectStage) -> Result<(), Failure> {
    let error = Error::Unreachable { host: "reg.test:443".into(), stage, why: String::new() };
    Err(Failure::new(error, Party::Endpoint))
}

/// The endpoint of a registry that has one.
fn endpoint_of(registry: &str, url: &str, ca: Option<&str>, client: Option<&str>) -> Endpoint {
    let registry: Registry = registry.parse().unwrap();
    let client = client.map(|file| ClientCertificate { certificate: file.into(), key: file.into() });
    let entry = RegistryConfig {
        endpoints: vec![url.parse::<url::Url>().unwrap().into()],
        ca: ca.map(Into::into),
        client,
        ..RegistryConfig::default()
    };
    let config = Config { registries: [(registry.clone(), entry)].into(), ..Config::default() };
    endpoints(&config, &registry).unwrap().remove(0)
}

fn asks(health: &Health, endpoint: &Endpoint, result: Result<(), Failure>) {
    let mut request = health.track(endpoint, group());
    request.start();
    request.finish(&result);
}

#[tokio::test(start_paused = true)]
async fn no_registry_is_judged_by_what_another_can_do_at_its_url_with_other_certificates() {
    let url = "https://reg.test";
    let plain = endpoint_of("reg.test", url, None, None);
    let unnamed = endpoints(&Config::default(), &"reg.test".parse().unwrap()).unwrap().remove(0);
    assert_eq!(unnamed.base_url(), plain.base_url());
    for other in [
        endpoint_of("other.test", url, Some("a.pem"), None),
        endpoint_of("other.test", url, None, Some("client.pem")),
        unnamed,
    ] {
        for (fails, answers) in [(&plain, &other), (&other, &plain)] {
            let health = health();
            asks(&health, fails, fails_at(ConnectStage::Certificate));
            let availability = health.admit(answers, &group());
            assert!(matches!(availability, Availability::Healthy), "it has to wait for the other: {other:?}");
            assert!(!health.is_in_outage(answers) && health.failing_for(answers, &group()).is_none());
            asks(&health, answers, Ok(()));
            assert!(health.is_in_outage(fails), "its failure is ended by the other: {other:?}");
            assert_eq!(health.failing_endpoints().len(), 1);
        }
    }
    let (one, other) =
        (endpoint_of("a", url, Some("a.pem"), None), endpoint_of("b", url, Some("b.pem"), None));
    let health = health();
    asks(&health, &one, fails_at(ConnectStage::Connect));
    assert!(health.is_in_outage(&one) && !health.is_in_outage(&other));
}

#[tokio::test(start_paused = true)]
async fn registries_that_are_connected_to_in_the_same_way_learn_from_each_other() {
    let (tls, plain) = ("https://reg.test", "http://reg.test");
    for (one, other) in [
        (endpoint_of("a", tls, Some("a.pem"), None), endpoint_of("b", tls, Some("a.pem"), None)),
        (endpoint_of("a", tls, None, None), endpoint_of("b", tls, None, None)),
        // Plain HTTP has no use for certificates.
        (endpoint_of("a", plain, Some("a.pem"), None), endpoint_of("b", plain, None, Some("c.pem"))),
    ] {
        let health = health();
        asks(&health, &one, fails_at(ConnectStage::Connect));
        assert!(health.is_in_outage(&other), "{one:?}");
        asks(&health, &other, Ok(()));
        assert!(!health.is_in_outage(&one), "{one:?}");
    }
}
