//! TLS towards Postgres with libpq's meaning of `sslmode`.

use crate::config::{Config, Endpoint, SslMode};
use crate::error::StreamError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Wraps a connection on which the server has agreed to TLS.
pub(crate) async fn connect(config: &Config, stream: TcpStream) -> Result<TlsStream<TcpStream>, StreamError> {
    let Endpoint::Tcp(host, _) = &config.endpoint else {
        return Err(StreamError::Tls("Unix sockets have no TLS".to_owned()));
    };
    let fail = |error: &dyn std::fmt::Display| StreamError::Tls(error.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(&error))?;
    // With a root certificate `require` verifies like `verify-ca`, as in libpq.
    let checks_chain = match config.ssl_mode {
        SslMode::Disable | SslMode::Prefer => false,
        SslMode::Require => config.ssl_root_cert.is_some(),
        SslMode::VerifyCa | SslMode::VerifyFull => true,
    };
    let chain = if checks_chain {
        let roots = Arc::new(roots(config)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| fail(&error))?)
    } else {
        None
    };
    let verifier = Verifier { provider, chain, checks_name: config.ssl_mode == SslMode::VerifyFull };
    let client = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    let name = ServerName::try_from(host.clone()).map_err(|error| fail(&error))?;
    TlsConnector::from(Arc::new(client)).connect(name, stream).await.map_err(|error| fail(&error))
}

fn roots(config: &Config) -> Result<RootCertStore, StreamError> {
    let mut roots = RootCertStore::empty();
    match &config.ssl_root_cert {
        Some(path) => {
            let fail = |error: &dyn std::fmt::Display| StreamError::Tls(format!("{}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(&error))? {
                let certificate = certificate.map_err(|error| fail(&error))?;
                roots.add(certificate).map_err(|error| fail(&error))?;
            }
        }
        None => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                // A single odd certificate of the system is no reason to trust none.
                let _ = roots.add(certificate);
            }
        }
    }
    if roots.is_empty() {
        return Err(StreamError::Tls("no trusted certificate authority was found".to_owned()));
    }
    Ok(roots)
}

/// Verifies as much as `sslmode` asks for. The handshake's signatures are always checked: the peer must own the key
/// of the certificate it shows.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    checks_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked after the chain, so everything else was right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
