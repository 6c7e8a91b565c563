//! TLS for `wss://`: made on first use, so that plain connections pay nothing for it.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use rustls_platform_verifier::BuilderVerifierExt;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName},
};

/// The process-wide connector, which trusts what the operating system trusts.
static CONNECTOR: OnceLock<TlsConnector> = OnceLock::new();

/// Returns the connector, reading the system's certificates at the first call.
pub(super) fn connector() -> io::Result<TlsConnector> {
    if let Some(ready) = CONNECTOR.get() {
        return Ok(ready.clone());
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(io::Error::other)?
        .with_no_client_auth();
    Ok(CONNECTOR
        .get_or_init(|| TlsConnector::from(Arc::new(config)))
        .clone())
}

/// Reads a host of a URL as the name that the server's certificate must bear.
pub(super) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}
