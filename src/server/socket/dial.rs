//! From an address to a connected socket, with errors that name the address.
//!
//! A name may have several addresses (`localhost` is 127.0.0.1 and ::1). Each is tried, and if none answers, the error
//! names each with its own reason: the last one alone is often not the intended one.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::{TcpStream, UnixStream, lookup_host};

/// Connects to a host by name or address. Cancel safe: a dropped future leaves nothing behind.
pub(crate) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let found = lookup_host((host, port)).await.map_err(|error| {
        let text = format!("the name \"{host}\" cannot be resolved: {error}; check it, and this host's DNS");
        io::Error::new(error.kind(), text)
    })?;
    let mut failed = Vec::new();
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed.push((address, error)),
        }
    }
    Err(none_answered(host, failed))
}

/// Connects to a unix socket. Cancel safe.
pub(crate) async fn unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await.map_err(|error| of_path(path, &error))
}

fn none_answered(host: &str, failed: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let Some((_, last)) = failed.last() else {
        return io::Error::new(
            io::ErrorKind::NotFound,
            format!("the name \"{host}\" has no address; check it, and this host's DNS"),
        );
    };
    let kind = last.kind();
    let reasons: Vec<String> = failed.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    io::Error::new(kind, reasons.join("; "))
}

fn of_path(path: &Path, error: &io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the user that tidegate runs as needs the right to write to the socket and to enter its directory: set \
             unixsocketperm 770 on the server, and add the user to the server's group"
        }
        io::ErrorKind::NotFound => "; is the server running, and is this its unixsocket?",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{}: {error}{remedy}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_names_every_address_that_was_tried() {
        // Bound and not listening: nothing else can take the port meanwhile.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let error = tcp("127.0.0.1", port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&format!("127.0.0.1:{port}: ")), "{error}");

        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let tried = ["[::1]:6379", "127.0.0.1:6379"].map(|address| (address.parse().unwrap(), refused()));
        let error = none_answered("localhost", tried.into()).to_string();
        assert_eq!(error, "[::1]:6379: connection refused; 127.0.0.1:6379: connection refused");
    }

    #[tokio::test]
    async fn a_name_that_is_not_known_is_named() {
        let error = tcp("no-such-host.invalid", 6379).await.unwrap_err().to_string();
        assert!(error.starts_with("the name \"no-such-host.invalid\" cannot be resolved: "), "{error}");
    }

    #[tokio::test]
    async fn a_socket_is_named_with_the_remedy() {
        let error = unix(Path::new("/nonexistent/redis.sock")).await.unwrap_err().to_string();
        assert!(
            error.starts_with("/nonexistent/redis.sock: No such file") && error.contains("unixsocket?"),
            "{error}"
        );
        let error = of_path(Path::new("/run/redis.sock"), &io::Error::from_raw_os_error(13)).to_string();
        assert!(error.starts_with("/run/redis.sock: Permission denied"), "{error}");
        assert!(error.contains("add the user to the server's group"), "{error}");
    }
}
