//! What an error of the API server's client says, without what it must not say.
//!
//! Promises: nothing that a credential program printed, that is set in its environment, or that stands in a kubeconfig
//! or in an answer of the API server is in the text. The client's own texts quote all of these.

use std::error::Error;

use kube::client::AuthError;
use kube::config::KubeconfigError;

/// The text of an error and of its causes.
pub(super) fn text_of(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(own) = cause {
        if let Some(text) = fixed(own) {
            return text;
        }
        cause = own.source();
    }
    crate::support::causes::with_causes(error)
}

/// The text for an error whose own could quote a secret.
fn fixed(error: &(dyn Error + 'static)) -> Option<String> {
    let text = match error.downcast_ref::<AuthError>() {
        Some(AuthError::ReadTokenFile(why, path)) => {
            return Some(format!("the token file {} cannot be read: {why}", path.display()));
        }
        Some(_) => "the credential of the identity cannot be used",
        None => match (error.downcast_ref::<kube::Error>(), error.downcast_ref::<KubeconfigError>()) {
            (Some(kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)), _) => {
                "an answer of the API server is not understood"
            }
            (
                Some(
                    kube::Error::ProxyProtocolUnsupported { .. } | kube::Error::ProxyProtocolDisabled { .. },
                ),
                _,
            ) => "a proxy before the API server (proxy-url in the kubeconfig) is not supported",
            (_, Some(KubeconfigError::Parse(_))) => "it is no kubeconfig",
            _ => return None,
        },
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_credential_program_knows_is_in_no_text() {
        let out = std::process::Command::new("/bin/sh").args(["-c", "echo marker; exit 3"]).output().unwrap();
        let failed = || AuthError::AuthExecRun {
            cmd: "PASSWORD=marker program".to_owned(),
            out: Box::new(out.clone()),
        };
        let malformed = serde_json::from_str::<u32>("\"marker\"").unwrap_err();
        let errors = [
            kube::Error::Auth(failed()),
            // As it comes when a token is renewed.
            kube::Error::Service(Box::new(failed())),
            kube::Error::SerdeError(malformed),
        ];
        for error in errors {
            assert!(error.to_string().contains("marker"), "the client's own text quotes it: {error}");
            let text = text_of(&error);
            assert!(!text.contains("marker") && !text.is_empty(), "{text}");
        }
        let io = kube::Error::ReadEvents(std::io::Error::other("connection reset"));
        assert!(text_of(&io).contains("connection reset"));
    }
}
