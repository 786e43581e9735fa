//! nginx as a reverse proxy with a path prefix.

use std::io::{BufRead, BufReader, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// A port for nginx. Because nginx cannot choose a free port itself, it listens on a Unix socket, to
/// which connections to the port are forwarded.
pub(crate) struct Prefix {
    listener: TcpListener,
    path: &'static str,
}

/// A running nginx. Dropping it stops nginx.
pub(crate) struct Nginx {
    process: Child,
    _directory: TempDir,
}

impl Prefix {
    /// Reserves a port. `path` begins and ends with `/`.
    pub(crate) fn new(path: &'static str) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), path }
    }

    /// Returns the URL that clients use.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.listener.local_addr().unwrap(), self.path)
    }

    /// Starts nginx in front of the server at `upstream`, for example `127.0.0.1:12345`.
    pub(crate) fn pass_to(self, upstream: &str) -> Nginx {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {at}/{what};"))
            .concat();
        let path = self.path;
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr notice;\n\
             events {{}}\nhttp {{ access_log off; {temporary}\n\
             map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n\
             server {{ listen unix:{at}/nginx.sock; absolute_redirect off;\n\
             location {path} {{ proxy_pass http://{upstream}/; proxy_http_version 1.1;\n\
             proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $connection_upgrade; proxy_buffering off; }} }} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut process = Command::new("sh")
            .args(["-c", "PATH=$PATH:/usr/sbin; exec nginx -c \"$0\" -p \"$1\" -e stderr"])
            .args([&file, directory.path()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        // nginx logs this line when its sockets are listening.
        while !said.contains("OS: ") {
            let read = stderr.read_line(&mut said).unwrap();
            assert_ne!(read, 0, "nginx is required and did not start: {said}");
        }
        thread::spawn(move || copy(&mut stderr, &mut std::io::sink()));
        let socket = directory.path().join("nginx.sock");
        thread::spawn(move || {
            for near in self.listener.incoming().map_while(Result::ok) {
                let Ok(far) = UnixStream::connect(&socket) else { return };
                carry(near, far);
            }
        });
        Nginx { process, _directory: directory }
    }
}

/// Forwards bytes in both directions, each in its own thread.
fn carry(near: TcpStream, far: UnixStream) {
    let (mut near_in, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (mut near_out, mut far_in) = (near, far);
    thread::spawn(move || {
        let _ = copy(&mut near_in, &mut far_out);
        let _ = far_out.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = copy(&mut far_in, &mut near_out);
        let _ = near_out.shutdown(Shutdown::Write);
    });
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
