//! The head of an answer: its status and headers, where its body ends, and whether its connection can be used again.
//!
//! It knows RFC 9112 and no connection. Invariant: what two readers could take for two different answers is an error, or at
//! least the last answer of its connection; and no more is kept than the longest head.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use memchr::memmem;

use crate::framing::{Framing, ProtocolError};

/// The longest head of an answer, in bytes, interim answers before it included.
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers of an answer.
const HEADERS_MAX: usize = 100;

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Where its body ends.
    pub framing: Framing,
    /// After this answer the connection can be used again, as far as the head says.
    pub keeps: bool,
}

/// Bytes in which the head of an answer is looked for. Interim answers (100, 102, 103) are passed over.
#[derive(Debug, Default)]
pub struct HeadReader {
    unread: BytesMut,
    /// The bytes of interim answers.
    passed: usize,
}

impl HeadReader {
    /// The head, if it is whole with what was read now, and what lies behind it. Nothing read means that the connection was
    /// closed.
    ///
    /// # Errors
    /// It is no head, has no end within the bound, or was cut.
    pub fn take(&mut self, read: &[u8]) -> Result<Option<(Head, Bytes)>, ProtocolError> {
        if read.is_empty() {
            return Err(ProtocolError::Cut);
        }
        // What is no HTTP at all shows at once. After that, a head that comes byte by byte is not parsed at each of them.
        let is_first = self.unread.is_empty();
        let looked_at = self.unread.len().saturating_sub(2);
        self.unread.extend_from_slice(read);
        let fresh = self.unread.get(looked_at..).unwrap_or_default();
        let has_end = memmem::find(fresh, b"\n\r\n")
            .or_else(|| memmem::find(fresh, b"\n\n"))
            .is_some();
        let mut bytes = std::mem::take(&mut self.unread).freeze();
        while (is_first || has_end) && !bytes.is_empty() {
            let Some((length, parsed)) = parse(&bytes)? else {
                break;
            };
            self.passed = self.passed.saturating_add(length);
            if self.passed > ANSWER_HEAD_BYTES_MAX {
                return Err(ProtocolError::TooLong);
            }
            bytes.advance(length);
            if let Some(head) = parsed.head()? {
                return Ok(Some((head, bytes)));
            }
        }
        if self.passed.saturating_add(bytes.len()) > ANSWER_HEAD_BYTES_MAX {
            return Err(ProtocolError::TooLong);
        }
        self.unread = BytesMut::from(bytes);
        Ok(None)
    }
}

struct RawHead {
    is_http10: bool,
    status: StatusCode,
    headers: HeaderMap,
}

/// The first head in these bytes and its length, if it is whole.
fn parse(bytes: &Bytes) -> Result<Option<(usize, RawHead)>, ProtocolError> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut space);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(ProtocolError::Head)?
    else {
        return Ok(None);
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(ProtocolError::Head(httparse::Error::Status))?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for found in response.headers.iter() {
        let name = HeaderName::from_bytes(found.name.as_bytes());
        let name = name.map_err(|_| ProtocolError::Head(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(found.value));
        headers.append(
            name,
            value.map_err(|_| ProtocolError::Head(httparse::Error::HeaderValue))?,
        );
    }
    Ok(Some((
        length,
        RawHead {
            is_http10: response.version != Some(1),
            status,
            headers,
        },
    )))
}

impl RawHead {
    /// What follows from it; none for an interim answer.
    fn head(self) -> Result<Option<Head>, ProtocolError> {
        let Self {
            is_http10,
            status,
            headers,
        } = self;
        // Nobody asked for another protocol, so 101 is as good as an error.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        let length = content_length(&headers)?;
        let coding = headers.contains_key(header::TRANSFER_ENCODING);
        let (framing, is_plain) = match (status.as_u16(), coding) {
            (101, _) => (Framing::Length(0), false),
            (204 | 304, _) => (Framing::Length(0), !coding && length.unwrap_or(0) == 0),
            (_, true) if is_http10 || !is_chunked(&headers) => return Err(ProtocolError::Coding),
            (_, true) => (Framing::chunked(), length.is_none()),
            (_, false) => (
                length.map_or(Framing::UntilClose, Framing::Length),
                length.is_some(),
            ),
        };
        let keeps =
            is_plain && !says(&headers, "close") && (!is_http10 || says(&headers, "keep-alive"));
        Ok(Some(Head {
            status,
            headers,
            framing,
            keeps,
        }))
    }
}

/// The length that a head says; it may say the same one several times.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ProtocolError> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for digits in value
            .to_str()
            .map_err(|_| ProtocolError::Length)?
            .split(',')
        {
            let digits = digits.trim_matches([' ', '\t']);
            let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
            let said = digits
                .parse()
                .ok()
                .filter(|_| is_number)
                .ok_or(ProtocolError::Length)?;
            if length.is_some_and(|before: u64| before != said) {
                return Err(ProtocolError::Length);
            }
            length = Some(said);
        }
    }
    Ok(length)
}

/// In chunks and nothing else: no other coding was asked for.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = codings.next().filter(|_| codings.next().is_none());
    only.is_some_and(|value| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    })
}

/// Whether a head says this of its connection.
fn says(headers: &HeaderMap, word: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|said| said.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}
