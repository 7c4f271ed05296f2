//! Servers that are no Postgres, or a bad one: nothing they send may panic, hang or fill the memory.

use crate::watched::{Everything, Watched, eager};
use std::future::Future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use walcast_replication::{Config, StreamError};

/// What a stream says first of a server that does this with each connection.
async fn verdict<F, Served>(parameters: &str, serve: F) -> StreamError
where
    F: Fn(TcpStream) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection));
        }
    });
    let config = Config::from_url(&format!("postgres://u:p@127.0.0.1:{port}/d?{parameters}")).unwrap();
    let mut watched = Watched::spawn(config, eager(), Everything);
    let reason = watched.lost().await;
    watched.cancel().await;
    server.abort();
    std::sync::Arc::into_inner(reason).unwrap()
}

/// Reads the startup packet, sends these bytes, and waits for the other side to go.
async fn answer(mut connection: TcpStream, bytes: Vec<u8>) {
    let mut packet = [0; 1024];
    if connection.read(&mut packet).await.is_ok() && connection.write_all(&bytes).await.is_ok() {
        while matches!(connection.read(&mut packet).await, Ok(read) if read > 0) {}
    }
}

async fn answered(bytes: &[u8]) -> StreamError {
    let bytes = bytes.to_vec();
    verdict("sslmode=disable&connect_timeout=1", move |connection| {
        answer(connection, bytes.clone())
    })
    .await
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = answered(b"").await;
    assert!(
        matches!(
            silent,
            StreamError::ConnectTimeout {
                timeout_ms: 1_000,
                ..
            }
        ),
        "{silent}"
    );
    let silent_on_tls = verdict("sslmode=prefer&connect_timeout=1", |connection| {
        answer(connection, Vec::new())
    })
    .await;
    assert!(
        matches!(silent_on_tls, StreamError::ConnectTimeout { .. }),
        "{silent_on_tls}"
    );
}

#[tokio::test]
async fn a_server_that_talks_for_ever_is_given_up() {
    let error = verdict("sslmode=disable&connect_timeout=1", |mut connection| async move {
        let notices = message(b'N', b"Mblah\0\0").repeat(1000);
        while connection.write_all(&notices).await.is_ok() {}
    })
    .await;
    assert!(matches!(error, StreamError::ConnectTimeout { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_is_a_broken_connection() {
    let error = verdict("sslmode=disable", |connection| async move { drop(connection) }).await;
    assert!(matches!(error, StreamError::Io(_)), "{error}");
}

#[tokio::test]
async fn what_is_no_postgres_is_not_understood() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[b'R', 0, 0, 0, 0],
        &[b'R', 0, 0, 0, 3],
        &message(b'R', &[0, 0]),
        &message(b'R', &[0, 0, 0, 5, 1, 2]),
        &message(b'Z', b"I"),
        &message(b'D', &[0, 1]),
    ] {
        let error = answered(bytes).await;
        assert!(
            matches!(
                error,
                StreamError::Protocol(_) | StreamError::MessageTooLarge { .. }
            ),
            "{bytes:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_length_is_not_believed_before_the_login() {
    let error = answered(&[b'R', 0xFF, 0xFF, 0xFF, 0xFF, 0, 0]).await;
    assert!(matches!(error, StreamError::MessageTooLarge { .. }), "{error}");
    let error = answered(&[b'E', 0x7F, 0xFF, 0xFF, 0xFF]).await;
    assert!(matches!(error, StreamError::MessageTooLarge { .. }), "{error}");
}

#[tokio::test]
async fn an_authentication_we_do_not_speak_is_named() {
    for (kind, name) in [
        (2_u32, "Kerberos V5"),
        (7, "GSSAPI"),
        (9, "SSPI"),
        (99, "unknown kind"),
    ] {
        let error = answered(&message(b'R', &kind.to_be_bytes())).await.to_string();
        assert!(error.contains(name), "{error}");
    }
    let only_other = message(b'R', &[&10_u32.to_be_bytes()[..], b"OAUTHBEARER\0\0"].concat());
    let error = answered(&only_other).await;
    assert!(matches!(error, StreamError::AuthenticationMethod(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_prove_that_it_knows_the_password_is_refused() {
    let offer = message(b'R', &[&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat());
    let accepted = message(b'R', &0_u32.to_be_bytes());
    let ready = message(b'Z', b"I");
    let error = answered(&[&offer[..], &accepted, &ready].concat()).await;
    assert!(matches!(error, StreamError::Authentication(_)), "{error}");
    // An exchange that begins in its middle, or with a nonce that is not ours.
    for kind in [11_u32, 12] {
        let middle = message(b'R', &[&kind.to_be_bytes()[..], b"v=AAAA"].concat());
        let error = answered(&middle).await;
        assert!(matches!(error, StreamError::Authentication(_)), "{error}");
        let challenge = message(
            b'R',
            &[&kind.to_be_bytes()[..], b"r=not-ours,s=c2FsdA==,i=4096"].concat(),
        );
        let error = answered(&[&offer[..], &challenge].concat()).await;
        assert!(matches!(error, StreamError::Authentication(_)), "{error}");
    }
}

#[tokio::test]
async fn bytes_smuggled_in_before_tls_are_not_read_as_the_servers() {
    // What a man in the middle would put behind the answer to the request for TLS.
    let mut bytes = b"S".to_vec();
    bytes.extend(message(b'R', &0_u32.to_be_bytes()));
    bytes.extend(message(b'Z', b"I"));
    let error = verdict("sslmode=require&connect_timeout=1", move |connection| {
        answer(connection, bytes.clone())
    })
    .await;
    assert!(matches!(error, StreamError::Tls(_)), "{error}");
    let error = verdict("sslmode=require", |connection| answer(connection, b"X".to_vec())).await;
    assert!(matches!(error, StreamError::Protocol(_)), "{error}");
}
