//! An answer of an upstream as bytes: however it is cut into reads, the same is read; it ends where it says, and what lies
//! behind is left alone; a head without end is refused; and hyper's own client, where it takes the answer too, reads the same.
//!
//! The first byte of an input says how many cuts there are (modulo 8), one byte for each follows, and then the answer.

use http::HeaderMap;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollgate_http1::{ANSWER_HEAD_BYTES_MAX, Framing, HeadReader, ProtocolError};

/// What was read of an answer before its connection was closed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    head: Option<(u16, HeaderMap)>,
    /// The body ends with the connection.
    until_close: bool,
    body: Vec<u8>,
    /// How many bytes lie behind its end; none if it has no end.
    behind: Option<usize>,
    /// Why its body cannot be read. Why a head cannot depends on when it is looked at.
    fault: Option<ProtocolError>,
}

/// Tries an answer.
///
/// # Panics
/// It breaks a promise.
pub fn check(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else {
        return;
    };
    let Some((cuts, answer)) = rest.split_at_checked(usize::from(count % 8)) else {
        return;
    };
    let whole = read([answer]);
    assert_eq!(read(answer.chunks(1)), whole, "cut at every byte");
    let mut places: Vec<usize> = cuts
        .iter()
        .map(|cut| usize::from(*cut) * answer.len() / 256)
        .chain([0, answer.len()])
        .collect();
    places.sort_unstable();
    let parts = places.windows(2).map(|pair| &answer[pair[0]..pair[1]]);
    assert_eq!(read(parts), whole, "cut at {places:?}");
    if whole.head.is_none() {
        assert!(whole.body.is_empty() && whole.behind.is_none());
        endless(answer);
    }
    if let Some(behind) = whole.behind {
        end(answer, behind, &whole);
        if let Some((head, body)) = read_by_hyper(answer)
            && head.0 != 101
        {
            assert_eq!(Some(head), whole.head, "hyper reads another head");
            assert_eq!(body, whole.body, "hyper reads another body");
        }
    }
}

/// What is read of these bytes if they come in these reads and the connection is closed then.
fn read<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut reads = reads.into_iter().filter(|read| !read.is_empty());
    let mut seen = Seen::default();
    let mut heads = HeadReader::default();
    let (head, mut ahead) = loop {
        match heads.take(reads.next().unwrap_or_default()) {
            Ok(Some(found)) => break found,
            Ok(None) => {}
            Err(_) => return seen,
        }
    };
    seen.head = Some((head.status.as_u16(), head.headers));
    let mut framing = head.framing;
    seen.until_close = framing == Framing::UntilClose;
    while !framing.is_ended() {
        let taken = if ahead.is_empty() {
            framing.take(reads.next().unwrap_or_default())
        } else {
            framing.take(&ahead)
        };
        match taken {
            Ok((payload, rest)) => {
                seen.body.extend_from_slice(&payload);
                ahead = rest;
            }
            Err(fault) => {
                seen.fault = Some(fault);
                return seen;
            }
        }
    }
    seen.behind = Some(ahead.len() + reads.map(<[u8]>::len).sum::<usize>());
    seen
}

/// An answer that ended: what lies behind is no part of it, and without its last byte it has no end.
fn end(answer: &[u8], behind: usize, whole: &Seen) {
    let answer = &answer[..answer.len() - behind];
    let alone = read([answer]);
    assert_eq!(alone.behind, Some(0));
    assert_eq!((&alone.head, &alone.body), (&whole.head, &whole.body));
    if whole.until_close {
        assert_eq!(behind, 0);
        assert!(answer.ends_with(&whole.body));
        return;
    }
    let another = b"HTTP/1.1 500 Other\r\ncontent-length: 1\r\n\r\nx";
    let mut longer = answer.to_vec();
    longer.extend_from_slice(another);
    let expected = Seen {
        behind: Some(another.len()),
        ..alone
    };
    assert_eq!(read([&longer[..]]), expected, "with another answer behind");
    let cut = read([&answer[..answer.len() - 1]]);
    assert_eq!(cut.behind, None, "without its last byte");
}

/// No head yet: one that goes on for ever is refused, at the bound.
fn endless(begun: &[u8]) {
    let mut heads = HeadReader::default();
    let mut given = begun.len();
    let read = [b'a'; 4096];
    if !begun.is_empty() && heads.take(begun).is_err() {
        return;
    }
    while heads.take(&read).is_ok_and(|head| head.is_none()) {
        given += read.len();
        assert!(given <= ANSWER_HEAD_BYTES_MAX, "a head of {given} bytes");
    }
}

/// What hyper's client makes of an answer, if it takes it.
fn read_by_hyper(answer: &[u8]) -> Option<((u16, HeaderMap), Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without a thread");
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await;
        let (mut sender, connection) = shaken.expect("it only sets up");
        let request = http::Request::post("/").body(String::new());
        let request = request.expect("a plain request");
        let ask = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes().to_vec();
            Some(((head.status.as_u16(), head.headers), body))
        };
        let serve = async {
            // Where hyper has left already, nobody needs the answer.
            if theirs.read_exact(&mut [0]).await.is_ok() && theirs.write_all(answer).await.is_ok() {
                theirs.shutdown().await.ok();
            }
            std::future::pending::<()>().await;
        };
        let run = async {
            drop(connection.await);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            seen = ask => seen,
            () = serve => None,
            () = run => None,
        }
    })
}
