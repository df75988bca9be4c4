//! Certificate files as docs/operations.md asks for them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

/// An authority and the files of those whom it vouches for.
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The options of the command line that name these files.
#[derive(Clone, Debug)]
pub struct Files {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// As options of any verb.
    pub fn args(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec![
            "--tls-ca".to_owned(),
            text(&self.ca),
            "--tls-cert".to_owned(),
            text(&self.cert),
            "--tls-key".to_owned(),
            text(&self.key),
        ]
    }
}

impl Authority {
    /// A new one; its files lie in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).expect("a folder for certificates");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        std::fs::write(dir.join("ca.pem"), issuer.pem()).expect("its certificate");
        Self { dir, issuer }
    }

    /// A certificate with these URI names and addresses.
    pub fn issue(&self, file: &str, uris: &[&str], addresses: &[&str]) -> Files {
        let mut params = CertificateParams::default();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("a URI")));
        }
        for address in addresses {
            params.subject_alt_names.push(SanType::IpAddress(address.parse().expect("an address")));
        }
        params.distinguished_name.push(DnType::CommonName, file);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = Files {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}.key")),
        };
        std::fs::write(&files.cert, certificate.pem()).expect("a certificate file");
        std::fs::write(&files.key, key.serialize_pem()).expect("a key file");
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        files
    }
}
