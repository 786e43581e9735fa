//! Fetches a small document by HTTP.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use tieline_transport::{Endpoint, Options};

use crate::address::WebAddress;
use crate::dialer::{Client, Dialer};
use crate::stream::Hyper;
use crate::switch::{Empty, MAX_HEADERS};
use crate::task::Task;

/// The maximum length of a document.
const LONGEST: usize = 256 * 1024;

/// Returns the JSON document at `endpoint`, whose address is `address`. Redirects are not followed. The
/// caller limits the time.
///
/// # Errors
/// The server cannot be reached, its status is not 200, or the document is too long or cut off.
pub(crate) async fn fetch(
    client: &Arc<Client>,
    endpoint: &Endpoint,
    address: WebAddress,
) -> Result<Vec<u8>, String> {
    let text = |error: &dyn Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let dialer = Dialer::new(client.clone(), endpoint, address, &Options::default())
        .map_err(|error| text(&error))?;
    let (stream, _) = dialer.reach().await.map_err(|error| text(&error))?;
    let mut builder = http1::Builder::new();
    builder.max_header_size(MAX_HEADERS).max_buf_size(64 * 1024);
    let made = builder.handshake(Hyper::new(stream)).await;
    let (mut send, connection) = made.map_err(|error| text(&error))?;
    let _connection = Task(tokio::spawn(connection).abort_handle());
    let request =
        Request::get(dialer.uri(&dialer.address.target)).header(header::ACCEPT, "application/json");
    let request = dialer.introduce(request).map_err(|error| text(&error))?;
    let request = request.body(Empty).map_err(|error| text(&error))?;
    let response = send.send_request(request).await.map_err(|error| text(&error))?;
    match response.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => {
            return Err(format!("the server redirects ({status}), which is not followed"));
        }
        status => return Err(format!("the server answered {status}")),
    }
    let (mut body, mut document) = (response.into_body(), Vec::new());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| text(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if document.len() + data.len() > LONGEST {
            return Err(format!("the document has more than {} KiB", LONGEST / 1024));
        }
        document.extend_from_slice(&data);
    }
    Ok(document)
}
