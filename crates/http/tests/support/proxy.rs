//! An HTTP proxy that connects every host name to one server on this machine, as a client behind a
//! firewall would use it, and proxies that misbehave.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::head;

pub struct Proxy {
    pub port: u16,
    /// The heads of all requests to the proxy.
    heads: Arc<Mutex<Vec<String>>>,
    /// Cuts all connections when notified.
    pub cut: Arc<Notify>,
}

impl Proxy {
    /// Starts a proxy to the server at port `to`. It requires this value of `Proxy-Authorization`, if any.
    pub async fn start(to: u16, credentials: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heads, cut) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (seen, notified) = (heads.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, notified) = (seen.clone(), notified.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(stream, to, credentials, &seen) => {}
                        () = notified.notified() => {}
                    }
                });
            }
        });
        Self { port, heads, cut }
    }

    /// Returns the request lines that the proxy has received.
    pub fn requests(&self) -> Vec<String> {
        self.heads().iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn forward(
    mut near: TcpStream,
    to: u16,
    credentials: Option<&str>,
    seen: &Mutex<Vec<String>>,
) {
    let asked = head(&mut near).await;
    if asked.is_empty() {
        return;
    }
    seen.lock().unwrap().push(asked.clone());
    let line = |name: &str| asked.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
    let shown = line("proxy-authorization:").and_then(|line| line.split_once(": ")).map(|it| it.1);
    if credentials.is_some() && shown != credentials {
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\
                      Content-Length: 0\r\n\r\n";
        let _ = near.write_all(answer.as_bytes()).await;
        return;
    }
    let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
    let first = asked.lines().next().unwrap();
    if first.starts_with("CONNECT ") {
        near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    } else {
        // Forwards one request on each connection, without the header that is only for the proxy.
        let (method, url) = first.split_once(' ').unwrap();
        let path = url.strip_prefix("http://").and_then(|url| url.find('/').map(|at| &url[at..]));
        let path = path.unwrap_or_else(|| panic!("not a whole URL: {first}"));
        let lines = asked.lines().skip(1).filter(|line| {
            !line.is_empty() && !line.to_ascii_lowercase().starts_with("proxy-authorization:")
        });
        let lines = lines.collect::<Vec<_>>().join("\r\n");
        let request = format!("{method} {path}\r\n{lines}\r\nConnection: close\r\n\r\n");
        far.write_all(request.as_bytes()).await.unwrap();
    }
    let _ = copy_bidirectional(&mut near, &mut far).await;
}

/// Starts a proxy that answers every request with `answer`, and then closes the connection or keeps it open.
/// Returns its port.
pub async fn answering(answer: impl Into<Vec<u8>>, closes: bool) -> u16 {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            if !closes {
                open.push(stream);
            }
        }
    });
    port
}
