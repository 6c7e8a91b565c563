//! The two certificates of a streaming job: the server's, made here, and the one of the only client that is let in.

use std::net::IpAddr;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize,
    SanType,
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::ParsedCertificate;

/// The longest text in which a client's certificate is looked for, in bytes. One with an RSA key of 4096 bits has
/// about 2 KiB.
const PEM_BYTES_MAX: usize = 64 * 1024;

/// The name in both places of the server's certificate (wire-executor-miner §9).
const COMMON_NAME: &str = "localhost";

/// How long the server's certificate is valid (wire-executor-miner §9).
const VALIDITY: Duration = Duration::days(365);

/// How far before its making the validity begins, so that a client whose clock is behind accepts it at once.
const CLOCK_SLACK: Duration = Duration::minutes(5);

/// The object identifier of the extension `basicConstraints`.
const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];

/// An empty sequence: not an authority. [`rcgen::IsCa::ExplicitNoCa`] would add a key identifier besides, which the
/// reference's certificates do not have.
const NO_AUTHORITY: [u8; 2] = [0x30, 0x00];

/// Why a text holds no client's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateError {
    /// More than any certificate needs.
    #[error("the client's certificate has {got} bytes, more than {PEM_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// No PEM block of a certificate, or a broken one.
    #[error("the client's certificate is not PEM")]
    NotPem,
    /// A chain: who of them is meant?
    #[error("the client sent more than one certificate")]
    Several,
    /// The block holds something else.
    #[error("the client's certificate is not an X.509 certificate of version 3")]
    NotX509,
}

/// The certificate of the client that may talk to a streaming job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate(CertificateDer<'static>);

impl ClientCertificate {
    /// Reads the one certificate in a PEM text of a stranger.
    pub fn parse(pem: &str) -> Result<Self, ClientCertificateError> {
        if pem.len() > PEM_BYTES_MAX {
            return Err(ClientCertificateError::TooLong { got: pem.len() });
        }
        let mut found = CertificateDer::pem_slice_iter(pem.as_bytes());
        let first = found.next().and_then(Result::ok);
        let certificate = first.ok_or(ClientCertificateError::NotPem)?;
        if found.next().is_some() {
            return Err(ClientCertificateError::Several);
        }
        // What cannot be parsed now could never prove that it holds its key.
        ParsedCertificate::try_from(&certificate).map_err(|_| ClientCertificateError::NotX509)?;
        Ok(Self(certificate))
    }

    /// Tells whether a peer's certificate is this very one, byte by byte; who issued it means nothing.
    pub(super) fn is(&self, other: &CertificateDer<'_>) -> bool {
        self.0.as_ref() == other.as_ref()
    }

    /// Returns the certificate as it was parsed.
    pub(super) fn der(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Takes back what [`Self::der`] gave.
    pub(super) fn from_der(der: Vec<u8>) -> Self {
        Self(CertificateDer::from(der))
    }
}

/// Why the server's certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    /// The address cannot stand in a certificate.
    #[error("`{address}` is neither an IP address nor a name")]
    Address {
        /// The address, with control characters escaped.
        address: String,
    },
    /// The library could not do it.
    #[error("could not make the server's certificate")]
    Make(#[from] rcgen::Error),
}

/// The server's certificate and its key; neither is ever written to a disk.
pub(super) struct ServerIdentity {
    /// The certificate as the client gets it.
    pub(super) pem: String,
    /// The certificate as the handshake sends it.
    pub(super) certificate: Vec<u8>,
    /// The key, PKCS#8.
    pub(super) key: Vec<u8>,
}

impl std::fmt::Debug for ServerIdentity {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ServerIdentity")
            .field("pem", &self.pem)
            .finish_non_exhaustive()
    }
}

impl ServerIdentity {
    /// Makes a key and a certificate for a server that is reached at `address`; blocks for a few 100 ms.
    pub(super) fn make(address: Option<&str>, now: OffsetDateTime) -> Result<Self, IdentityError> {
        let alternative = address.map(alternative_name).transpose()?;
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        Self::with_key(&key, alternative, now)
    }

    fn with_key(
        key: &KeyPair,
        alternative: Option<SanType>,
        now: OffsetDateTime,
    ) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, COMMON_NAME);
        params.distinguished_name = name;
        params.subject_alt_names = vec![SanType::DnsName(COMMON_NAME.try_into()?)];
        params.subject_alt_names.extend(alternative);
        let begin = now.replace_nanosecond(0).unwrap_or(now) - CLOCK_SLACK;
        params.not_before = begin;
        params.not_after = begin + VALIDITY;
        let mut no_authority = CustomExtension::from_oid_content(&BASIC_CONSTRAINTS, NO_AUTHORITY.to_vec());
        no_authority.set_criticality(true);
        params.custom_extensions = vec![no_authority];
        let certificate = params.self_signed(key)?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }

    /// Returns both parts as the TLS library wants them.
    pub(super) fn parts(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (
            CertificateDer::from(self.certificate.clone()),
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone())),
        )
    }
}

fn alternative_name(address: &str) -> Result<SanType, IdentityError> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let refused = || IdentityError::Address {
        address: address.escape_debug().to_string(),
    };
    let is_name = tokio_rustls::rustls::pki_types::DnsName::try_from(address).is_ok();
    if !is_name {
        return Err(refused());
    }
    Ok(SanType::DnsName(address.try_into().map_err(|_| refused())?))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use serde_json::Value;
    use time::macros::datetime;

    use super::*;

    /// One element of DER: its tag, its content, what follows it.
    fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
        let (start, length) = match der[1] {
            short @ 0..=0x7f => (2, usize::from(short)),
            long => {
                let count = usize::from(long & 0x7f);
                let length = der[2..2 + count]
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (2 + count, length)
            }
        };
        (der[0], &der[start..start + length], &der[start + length..])
    }

    fn elements(mut der: &[u8]) -> Vec<(u8, &[u8])> {
        let mut found = Vec::new();
        while !der.is_empty() {
            let (tag, content, rest) = element(der);
            found.push((tag, content));
            der = rest;
        }
        found
    }

    /// What must be equal of two certificates: all but serial number, times, key and signature.
    fn shape(der: &[u8]) -> Vec<Vec<u8>> {
        let certificate = elements(element(der).1);
        let body = elements(certificate[0].1);
        let [
            version,
            _serial,
            algorithm,
            issuer,
            validity,
            subject,
            key,
            extensions,
        ] = body[..]
        else {
            panic!("{} fields", body.len());
        };
        let key = elements(key.1);
        let modulus_bits = elements(element(&key[1].1[1..]).1);
        let mut shape = vec![
            version.1.to_vec(),
            algorithm.1.to_vec(),
            issuer.1.to_vec(),
            subject.1.to_vec(),
            elements(validity.1).iter().map(|(tag, _)| *tag).collect(),
            key[0].1.to_vec(),
            vec![u8::try_from(modulus_bits[0].1.len() / 2).unwrap()],
            modulus_bits[1].1.to_vec(),
            certificate[1].1.to_vec(),
        ];
        let mut extensions: Vec<Vec<u8>> = elements(element(extensions.1).1)
            .iter()
            .map(|(_, content)| content.to_vec())
            .collect();
        extensions.sort();
        shape.extend(extensions);
        shape
    }

    /// Makes a certificate with the one key of these tests: unoptimised, a key takes seconds.
    fn make(address: Option<&str>, now: OffsetDateTime) -> ServerIdentity {
        static KEY: OnceLock<KeyPair> = OnceLock::new();
        let key = KEY.get_or_init(|| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());
        let alternative = address.map(|address| alternative_name(address).unwrap());
        ServerIdentity::with_key(key, alternative, now).unwrap()
    }

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../../../tests/golden/streaming_tls.json")).unwrap()
    }

    #[test]
    fn a_certificate_has_every_field_of_the_references() {
        let golden = golden();
        let recorded = golden["certificates"].as_array().unwrap();
        assert_eq!(recorded.len(), 4);
        for one in recorded {
            let address = one["alternative_name"].as_str().unwrap();
            let made = make(Some(address), datetime!(2026-11-22 09:19:48 UTC));
            let reference = ClientCertificate::parse(one["certificate_pem"].as_str().unwrap()).unwrap();
            assert_eq!(shape(&made.certificate), shape(reference.der()), "{address}");
            assert!(made.pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
            assert!(made.pem.ends_with("-----END CERTIFICATE-----\n"));
            assert_eq!(
                ClientCertificate::parse(&made.pem).unwrap().der(),
                made.certificate
            );
        }
    }

    #[test]
    fn a_certificate_is_valid_for_a_year_and_already_for_a_clock_that_is_behind() {
        let made = make(None, datetime!(2026-11-22 09:19:48.5 UTC));
        let body = elements(element(&made.certificate).1)[0].1;
        let validity: Vec<_> = elements(elements(body)[4].1)
            .iter()
            .map(|(_, text)| String::from_utf8(text.to_vec()).unwrap())
            .collect();
        assert_eq!(validity, ["261122091448Z", "271122091448Z"]);
    }

    #[test]
    fn an_address_that_cannot_stand_in_a_certificate_is_refused() {
        let long = "a".repeat(300);
        for address in ["", "a b", "a\nb", "*", "-", &long] {
            let made = ServerIdentity::make(Some(address), OffsetDateTime::UNIX_EPOCH);
            assert!(matches!(made, Err(IdentityError::Address { .. })), "{address:?}");
        }
    }

    #[test]
    fn a_clients_text_must_hold_exactly_one_certificate() {
        let golden = golden();
        let pem = |index: usize| golden["certificates"][index]["certificate_pem"].as_str().unwrap();
        let error = |text: &str| ClientCertificate::parse(text).unwrap_err();
        assert!(ClientCertificate::parse(&format!("words before\n{}", pem(0))).is_ok());
        assert_eq!(
            error(&format!("{}{}", pem(0), pem(1))),
            ClientCertificateError::Several
        );
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for text in ["", "PEM", "-----BEGIN CERTIFICATE-----\nMIIC", no_key] {
            assert_eq!(error(text), ClientCertificateError::NotPem, "{text:?}");
        }
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(error(garbage), ClientCertificateError::NotX509);
        let long = format!("{}{}", " ".repeat(PEM_BYTES_MAX), pem(0));
        assert_eq!(error(&long), ClientCertificateError::TooLong { got: long.len() });
    }

    #[test]
    fn a_key_is_not_shown() {
        let made = make(None, OffsetDateTime::UNIX_EPOCH);
        assert!(!format!("{made:?}").contains("key"));
    }
}
