//! Pull secrets from the API server, each by its name.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::client::{ApiServer, AskError};
use crate::kubernetes::source::{Secret, SecretError, SecretSource};

impl SecretSource for ApiServer {
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        async move {
            match self.get(format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await {
                Ok(manifest) => Ok(Secret { manifest: manifest.into_bytes().into() }),
                Err(AskError::Missing) => Err(SecretError::Missing),
                Err(AskError::Forbidden(_)) => Err(SecretError::Forbidden),
                Err(error) => Err(SecretError::Unavailable(error.to_string())),
            }
        }
        .boxed()
    }
}
