//! HTTP/1.1 as the fakes speak it: by hand, so that they can break it at any byte.
//!
//! It reads strictly. Whatever a well-behaved client would never send is noted as a fault, and the oracle turns red
//! when the product sent one: that is how a smuggled request shows.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};

/// A request as it stood on the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// In order, with the names as they were written.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What is wrong with its framing.
    pub(crate) faults: Vec<String>,
}

impl Request {
    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self
            .headers
            .iter()
            .filter(|(header, _)| header.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}

/// Reads one request. `None` where the peer closed before it began one.
pub(crate) async fn read_request<R>(reader: &mut R) -> io::Result<Option<Request>>
where
    R: AsyncBufRead + AsyncRead + Unpin,
{
    let Some(first) = read_line(reader).await? else {
        return Ok(None);
    };
    let mut request = Request::default();
    let mut words = first.splitn(3, ' ');
    request.method = words.next().unwrap_or_default().to_owned();
    request.target = words.next().unwrap_or_default().to_owned();
    if words.next() != Some("HTTP/1.1") || !request.target.starts_with('/') {
        request.faults.push(format!("request line {first:?}"));
    }
    while let Some(line) = read_line(reader).await? {
        if line.is_empty() {
            read_body(reader, &mut request).await?;
            return Ok(Some(request));
        }
        match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                request
                    .headers
                    .push((name.to_owned(), value.trim().to_owned()));
            }
            _ => request.faults.push(format!("header line {line:?}")),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn read_body<R>(reader: &mut R, request: &mut Request) -> io::Result<()>
where
    R: AsyncBufRead + AsyncRead + Unpin,
{
    for name in ["host", "content-length", "transfer-encoding"] {
        if request.all(name).len() > 1 {
            request.faults.push(format!("{name} more than once"));
        }
    }
    if request.header("host").is_none() {
        request.faults.push("no host".to_owned());
    }
    let length = request.header("content-length").map(str::parse::<usize>);
    let chunked = request
        .header("transfer-encoding")
        .map(|coding| coding == "chunked");
    match (length, chunked) {
        (Some(Ok(length)), None) => {
            request.body.resize(length, 0);
            reader.read_exact(&mut request.body).await?;
        }
        (None, Some(true)) => read_chunks(reader, request).await?,
        (None, None) => {}
        odd => request.faults.push(format!("lengths {odd:?}")),
    }
    Ok(())
}

async fn read_chunks<R>(reader: &mut R, request: &mut Request) -> io::Result<()>
where
    R: AsyncBufRead + AsyncRead + Unpin,
{
    loop {
        let line = read_line(reader)
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let Ok(size) = usize::from_str_radix(&line, 16) else {
            request.faults.push(format!("chunk size {line:?}"));
            return Ok(());
        };
        let begin = request.body.len();
        request.body.resize(begin + size, 0);
        reader.read_exact(&mut request.body[begin..]).await?;
        let end = read_line(reader).await?;
        if end.as_deref() != Some("") {
            request.faults.push(format!("chunk end {end:?}"));
        }
        if size == 0 {
            return Ok(());
        }
    }
}

/// A line without its CRLF. `None` at the end of the stream.
async fn read_line<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    while matches!(line.last(), Some(b'\r' | b'\n')) {
        line.pop();
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

/// One chunk of a chunked body.
pub(crate) fn chunk(payload: &[u8]) -> Vec<u8> {
    let mut framed = format!("{:x}\r\n", payload.len()).into_bytes();
    framed.extend_from_slice(payload);
    framed.extend_from_slice(b"\r\n");
    framed
}

/// A whole answer with a length.
pub(crate) fn answer(status: u16, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
