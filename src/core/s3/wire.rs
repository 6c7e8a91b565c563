//! The wire below the vendor's client: our own HTTP client, so that the process has one HTTP and one TLS.

use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;

use crate::core::net::http::{self, ClientError, ClientOptions, Redirects};

/// How long a server may be silent while a part of an upload is on its way; a part takes as long as the line is slow.
const SILENCE: Duration = Duration::from_secs(300);

/// Carries the vendor's requests.
#[derive(Debug, Clone)]
pub(super) struct Wire(reqwest::Client);

impl Wire {
    /// Makes one.
    pub(super) fn new() -> Result<Self, ClientError> {
        let options = ClientOptions {
            read_timeout: SILENCE,
            // A signature is for one host.
            redirects: Redirects::Refuse,
            ..ClientOptions::default()
        };
        http::client(&options).map(Self)
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move { carry(&client, request).await })
    }
}

async fn carry(client: &reqwest::Client, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let request = request
        .try_into_http1x()
        .map_err(|error| ConnectorError::user(error.into()))?
        .map(reqwest::Body::wrap);
    let request = reqwest::Request::try_from(request).map_err(|error| ConnectorError::user(error.into()))?;
    // Addresses may be presigned, and so a secret.
    let response = client.execute(request).await.map_err(|error| {
        let error = error.without_url();
        if error.is_timeout() {
            ConnectorError::timeout(error.into())
        } else {
            ConnectorError::io(error.into())
        }
    })?;
    let status = StatusCode::try_from(response.status().as_u16())
        .map_err(|error| ConnectorError::other(error.into(), None))?;
    let headers = response.headers().clone();
    let body = SdkBody::from_body_1_x(reqwest::Body::from(response));
    let mut answer = HttpResponse::new(status, body);
    for (name, value) in &headers {
        // A header that is no text means nothing to the client.
        if let Ok(value) = value.to_str() {
            let added = answer
                .headers_mut()
                .try_append(name.as_str().to_owned(), value.to_owned());
            added.map_err(|error| ConnectorError::other(error.into(), None))?;
        }
    }
    Ok(answer)
}
