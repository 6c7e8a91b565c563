//! The certificate by which a streaming job knows its user (wire-executor-miner §9).

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// The names in the certificate, as the SDK's own has them; nobody looks at them.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A certificate and its key.
pub struct ClientCertificate {
    pem: String,
    key: String,
}

impl fmt::Debug for ClientCertificate {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientCertificate")
            .field("pem", &self.pem)
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Makes a new one; takes a part of a second.
    pub fn make() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let params = CertificateParams::new(NAMES.map(str::to_owned))?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Returns the certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes both, the key for its owner only; files that are there are refused.
    pub fn write(&self, certificate: &Path, key: &Path) -> io::Result<()> {
        let create = |path: &Path, mode| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path)
        };
        create(key, 0o600)?.write_all(self.key.as_bytes())?;
        create(certificate, 0o644)?.write_all(self.pem.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_is_written_once_with_its_key_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let (pem, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let made = ClientCertificate::make().unwrap();
        made.write(&pem, &key).unwrap();
        assert!(
            std::fs::read_to_string(&pem)
                .unwrap()
                .contains("BEGIN CERTIFICATE")
        );
        assert!(std::fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"));
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(made.write(&pem, &key).is_err());
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
