//! As much of HTTP/1.1 as both ends need, with as little work as it takes: the loader shares a core with the upstream.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ_BYTES: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// A connection, and what was read from it and not yet used.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(usize),
    /// Chunks.
    Chunked,
    /// The connection closes.
    Close,
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerHead {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    /// The connection can be used again.
    pub(crate) keep: bool,
}

/// A request, whole.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(READ_BYTES),
            used: 0,
        })
    }

    /// Dials.
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    /// Writes all of it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    fn take(&mut self, bytes: usize) {
        self.used += bytes;
        if self.used >= self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.reserve(READ_BYTES / 2);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// Reads until so much is there; false where the peer has gone before.
    async fn fill_to(&mut self, bytes: usize) -> io::Result<bool> {
        while self.unread().len() < bytes {
            if !self.fill().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next request; `None` where the peer has gone.
    pub(crate) async fn next_request(&mut self) -> io::Result<Option<Asked>> {
        loop {
            if let Some((length, body_bytes, mut asked)) = request_head(self.unread())? {
                if !self.fill_to(length + body_bytes).await? {
                    return Ok(None);
                }
                asked.body = self
                    .unread()
                    .get(length..length + body_bytes)
                    .unwrap_or_default()
                    .to_vec();
                self.take(length + body_bytes);
                return Ok(Some(asked));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The head of an answer.
    pub(crate) async fn answer_head(&mut self) -> io::Result<AnswerHead> {
        loop {
            if let Some((length, head)) = answer_head(self.unread())? {
                self.take(length);
                return Ok(head);
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads a body to its end and shows every piece of it.
    pub(crate) async fn body(
        &mut self,
        framing: Framing,
        mut see: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut chunks = Chunks::default();
        let mut left = if let Framing::Length(bytes) = framing {
            bytes
        } else {
            usize::MAX
        };
        loop {
            let unread = self.buffer.get(self.used..).unwrap_or_default();
            let (taken, ended) = if framing == Framing::Chunked {
                chunks.read(unread, &mut see)?
            } else {
                let piece = unread.get(..left.min(unread.len())).unwrap_or_default();
                if !piece.is_empty() {
                    see(piece);
                }
                left -= piece.len();
                (piece.len(), left == 0)
            };
            self.take(taken);
            if ended {
                return Ok(());
            }
            if !self.fill().await? {
                let told = framing == Framing::Close;
                return if told {
                    Ok(())
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

fn broken(error: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn value<'a>(headers: &'a [httparse::Header<'_>], name: &str) -> Option<&'a str> {
    let header = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

/// Length of the head, length of the body, and the request without it.
fn request_head(bytes: &[u8]) -> io::Result<Option<(usize, usize, Asked)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            if value(request.headers, "transfer-encoding").is_some() {
                return Err(broken("a request in chunks"));
            }
            let body_bytes = value(request.headers, "content-length")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            let asked = Asked {
                method: text(request.method),
                path: text(request.path),
                body: Vec::new(),
            };
            Ok(Some((length, body_bytes, asked)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(broken("no HTTP request")),
    }
}

fn answer_head(bytes: &[u8]) -> io::Result<Option<(usize, AnswerHead)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let chunked = value(response.headers, "transfer-encoding").is_some();
            let declared =
                value(response.headers, "content-length").and_then(|text| text.parse().ok());
            let framing = match declared {
                _ if chunked => Framing::Chunked,
                Some(bytes) => Framing::Length(bytes),
                None => Framing::Close,
            };
            let closes = value(response.headers, "connection")
                .is_some_and(|text| text.eq_ignore_ascii_case("close"));
            let keep = !closes && framing != Framing::Close && response.version == Some(1);
            Ok(Some((
                length,
                AnswerHead {
                    status: response.code.unwrap_or(0),
                    framing,
                    keep,
                },
            )))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(broken("no HTTP answer")),
    }
}

/// Reads a body in chunks.
#[derive(Debug, Default)]
struct Chunks {
    /// Of the chunk that is being read, its line end included.
    left: usize,
    last: bool,
}

impl Chunks {
    /// How much was used, and whether the body has ended.
    fn read(&mut self, bytes: &[u8], see: &mut impl FnMut(&[u8])) -> io::Result<(usize, bool)> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.left > 0 {
                let piece = rest.get(..self.left.min(rest.len())).unwrap_or_default();
                let payload = piece.len().min(self.left.saturating_sub(2));
                if payload > 0 {
                    see(piece.get(..payload).unwrap_or_default());
                }
                at += piece.len();
                self.left -= piece.len();
                if self.left > 0 {
                    return Ok((at, false));
                }
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                return Ok((at, false));
            };
            let line = rest.get(..end).unwrap_or_default().trim_ascii();
            at += end + 1;
            if self.last {
                // Trailers, up to an empty line.
                if line.is_empty() {
                    return Ok((at, true));
                }
                continue;
            }
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let digits =
                std::str::from_utf8(digits).map_err(|_| broken("a chunk without a size"))?;
            match usize::from_str_radix(digits.trim(), 16) {
                Ok(0) => self.last = true,
                Ok(size) => self.left = size + 2,
                Err(_) => return Err(broken("a chunk without a size")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_out_the_same_however_they_are_cut() {
        let wire = b"5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1";
        for cut in 1..wire.len() {
            let (mut chunks, mut seen, mut buffer, mut ended) =
                (Chunks::default(), Vec::new(), Vec::new(), false);
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                let (used, end) = chunks
                    .read(&buffer, &mut |bytes| seen.extend_from_slice(bytes))
                    .unwrap();
                buffer.drain(..used);
                ended |= end;
                if end {
                    break;
                }
            }
            assert!(ended, "{cut}");
            assert_eq!(seen, b"helloabcdefghijklmnopqrstuvwxyz", "{cut}");
        }
        assert!(Chunks::default().read(b"no\r\n", &mut |_| {}).is_err());
    }

    #[test]
    fn the_head_of_an_answer_says_how_its_body_ends() {
        let head = |text: &str| answer_head(text.as_bytes()).unwrap().unwrap().1;
        let whole = head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
        assert_eq!(
            whole,
            AnswerHead {
                status: 200,
                framing: Framing::Length(3),
                keep: true
            }
        );
        assert_eq!(
            head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").framing,
            Framing::Chunked
        );
        assert!(!head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").keep);
        assert!(!head("HTTP/1.1 200 OK\r\n\r\n").keep);
        assert_eq!(answer_head(b"HTTP/1.1 200 OK\r\nContent-").unwrap(), None);
    }
}
