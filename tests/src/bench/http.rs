//! Plain HTTP requests on one connection that is kept.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::bare;

/// A connection.
pub struct Http {
    addr: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    /// Connects at the first request.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, sender: None }
    }

    async fn sender(&mut self) -> io::Result<&mut SendRequest<Full<Bytes>>> {
        if let Some(sender) = &mut self.sender
            && sender.ready().await.is_err()
        {
            self.sender = None;
        }
        if self.sender.is_none() {
            let socket = TcpStream::connect(self.addr).await?;
            socket.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        self.sender
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    async fn send(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> io::Result<Response<Incoming>> {
        let addr = self.addr;
        let mut request = Request::post(path)
            .header("host", addr.to_string())
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        self.sender()
            .await?
            .send_request(request)
            .await
            .map_err(io::Error::other)
    }

    /// POST; gives the body and the milliseconds to its end. A status other than 200 is an error.
    pub async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> io::Result<(Bytes, f64)> {
        // A new connection is not part of the request.
        self.sender().await?;
        let begun = Instant::now();
        let response = self.send(path, headers, body).await?;
        let status = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        if status != 200 {
            return Err(io::Error::other(format!(
                "{status}: {}",
                String::from_utf8_lossy(&bytes)
            )));
        }
        Ok((bytes, ms))
    }

    /// POST of a streamed completion whose tokens tell when they were sent; gives how old each was when it came, in
    /// milliseconds.
    pub async fn ages(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> io::Result<Vec<f64>> {
        let mut response = self.send(path, headers, body).await?;
        let mut ages = Vec::new();
        let mut text = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else {
                continue;
            };
            let now = bare::unix_ns();
            text.extend_from_slice(&data);
            // A stamp stands in one event, and an event ends with an empty line.
            let Some(end) = text.windows(2).rposition(|w| w == b"\n\n") else {
                continue;
            };
            for stamp in String::from_utf8_lossy(&text[..end])
                .split(bare::STAMP)
                .skip(1)
            {
                let digits = stamp.split(' ').next().unwrap_or_default();
                let sent: u128 = digits.parse().map_err(io::Error::other)?;
                ages.push(now.saturating_sub(sent) as f64 / 1e6);
            }
            text.drain(..end);
        }
        Ok(ages)
    }
}
