//! The metrics page, the only one that a worker serves over HTTP.

use super::text::Text;
use crate::error::SetupError;
use dflow_transport::LogLimit;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::spawn_local;

/// Maximum number of concurrent connections; further ones are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// The time limit of a request, including its response.
const LONGEST: Duration = Duration::from_secs(10);
/// Maximum size of the head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
const PLACE: &str = "/metrics";

/// The listening socket.
pub(crate) struct Scrapes {
    listener: TcpListener,
    address: SocketAddr,
    open: Rc<Cell<usize>>,
}

impl Scrapes {
    /// Listens on this address and on no other.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, SetupError> {
        let failed = |source| SetupError::Metrics { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, open: Rc::default() })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers every request with the current `page`. Never returns; must run on a `LocalSet`.
    pub(crate) async fn serve(self, page: impl Fn() -> String + 'static) {
        let page = Rc::new(page);
        let refused = LogLimit::default();
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                // For example when descriptors are exhausted, which is temporary.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if self.open.get() >= MAX_CONNECTIONS {
                refused.warn(
                    &Handle::current(),
                    from,
                    format!("a scrape is refused: there are {MAX_CONNECTIONS} already"),
                );
                continue;
            }
            self.open.set(self.open.get() + 1);
            let (open, page) = (Rc::clone(&self.open), Rc::clone(&page));
            spawn_local(async move {
                // A request that exceeds the time limit is closed.
                let _ = tokio::time::timeout(LONGEST, answer(stream, page)).await;
                open.set(open.get() - 1);
            });
        }
    }
}

async fn answer(stream: TcpStream, page: Rc<impl Fn() -> String + 'static>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &*page);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a scrape was interrupted");
    }
}

fn respond(request: &Request<Incoming>, page: &impl Fn() -> String) -> Response<String> {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, PLACE) => Response::new(page()),
        (&Method::GET | &Method::HEAD, _) => refusal(StatusCode::NOT_FOUND, format!("the metrics are at {PLACE}\n")),
        _ => {
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Text::TYPE));
    response
}

fn refusal(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
}
