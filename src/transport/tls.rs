//! Mutual TLS 1.3 from certificate files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Certificate files, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that both sides trust, and nobody else.
    pub ca: PathBuf,
    /// This side's certificate, with its chain.
    pub cert: PathBuf,
    /// Its key. Refused when others can read it.
    pub key: PathBuf,
}

/// How a TCP connection is kept safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Mutual TLS.
    Tls(TlsFiles),
    /// Nothing: an explicit `--insecure`.
    Insecure,
}

/// Why certificate files are no good.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, not readable, not PEM.
    #[error("cannot read {what} {path}: {why}")]
    File {
        /// Certificate, key or authority.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Others can read the key.
    #[error("key {path} can be read by others; run `chmod 600 {path}`")]
    ExposedKey {
        /// Where.
        path: PathBuf,
    },
    /// They do not fit together.
    #[error("certificate {path} cannot be used")]
    Config {
        /// The certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authority cannot be used.
    #[error("certificate authority {path} cannot be used: {why}")]
    Authority {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::File { what, path: path.to_owned(), why };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| wrong(error.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate in it".to_owned())) } else { Ok(found) }
}

impl TlsFiles {
    fn load(&self) -> Result<Loaded, TlsError> {
        use std::os::unix::fs::PermissionsExt;
        let key_error = |why: String| TlsError::File { what: "key", path: self.key.clone(), why };
        let mode = std::fs::metadata(&self.key).map_err(|error| key_error(error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(TlsError::ExposedKey { path: self.key.clone() });
        }
        let mut roots = RootCertStore::empty();
        for authority in certificates("certificate authority", &self.ca)? {
            roots
                .add(authority)
                .map_err(|error| TlsError::Authority { path: self.ca.clone(), why: error.to_string() })?;
        }
        Ok(Loaded {
            roots: Arc::new(roots),
            chain: certificates("certificate", &self.cert)?,
            key: PrivateKeyDer::from_pem_file(&self.key).map_err(|error| key_error(error.to_string()))?,
        })
    }

    /// For a server that lets in nobody without a certificate of our authority.
    ///
    /// # Errors
    /// When a file is not there or the files do not fit together.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let loaded = self.load()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(loaded.roots, provider.clone())
            .build()
            .map_err(|error| TlsError::Authority { path: self.ca.clone(), why: error.to_string() })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(loaded.chain, loaded.key))
            .map_err(|source| TlsError::Config { path: self.cert.clone(), source })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// For a client that talks to nobody but a server of our authority.
    ///
    /// # Errors
    /// When a file is not there or the files do not fit together.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let loaded = self.load()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(loaded.roots, provider.clone())
            .build()
            .map_err(|error| TlsError::Authority { path: self.ca.clone(), why: error.to_string() })?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_webpki_verifier(verifier).with_client_auth_cert(loaded.chain, loaded.key))
            .map_err(|source| TlsError::Config { path: self.cert.clone(), source })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

struct Loaded {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}
