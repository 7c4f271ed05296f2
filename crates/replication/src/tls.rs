//! TLS towards Postgres with libpq's meaning of `sslmode`.

use crate::config::{Config, Endpoint, SslMode};
use crate::error::StreamError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::IpAddr;
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
        let trusted = trusted(config)?;
        let mut roots = RootCertStore::empty();
        // A single odd certificate is no reason to trust none.
        let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
        if usable == 0 {
            return Err(StreamError::Tls(
                "no trusted certificate authority was found".to_owned(),
            ));
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        Some(Chain {
            verifier: verifier.map_err(|error| fail(&error))?,
            trusted,
        })
    } else {
        None
    };
    let checks_name = config.ssl_mode == SslMode::VerifyFull;
    let verifier = Verifier {
        provider,
        chain,
        checks_name,
    };
    let client = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = match ServerName::try_from(host.clone()) {
        // A name that no certificate can bear serves where none is checked.
        Err(_) if !checks_name => ServerName::from(tcp_address(&stream)?),
        name => name.map_err(|error| fail(&error))?,
    };
    TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await
        .map_err(|error| fail(&error))
}

fn tcp_address(stream: &TcpStream) -> Result<IpAddr, StreamError> {
    Ok(stream.peer_addr()?.ip())
}

fn trusted(config: &Config) -> Result<Vec<CertificateDer<'static>>, StreamError> {
    let Some(path) = &config.ssl_root_cert else {
        return Ok(rustls_native_certs::load_native_certs().certs);
    };
    let fail =
        |error: rustls::pki_types::pem::Error| StreamError::Tls(format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path)
        .map_err(fail)?
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// Verifies as much as `sslmode` asks for. The handshake's signatures are always checked: the peer must own the key
/// of the certificate it shows.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Chain>,
    checks_name: bool,
}

/// Who is trusted.
#[derive(Debug)]
struct Chain {
    verifier: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Chain {
    fn trusts(&self, certificate: &CertificateDer<'_>) -> bool {
        self.trusted.iter().any(|trusted| trusted == certificate)
    }
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
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain
            .verifier
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            // A self-signed certificate is an authority's and a server's at once, which libpq takes and WebPKI does
            // not. If it is itself the trusted one, there is no chain to check.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if chain.trusts(end_entity) =>
            {
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
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
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
