//! Answers cut into reads at every place: they are read the same, and as hyper's own client reads them.

use http::HeaderMap;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HeadReader, ProtocolError};

/// What was read of an answer before its connection was closed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    head: Option<(u16, HeaderMap)>,
    body: Vec<u8>,
    /// It came to its end; whether its connection is kept.
    end: Option<bool>,
}

/// What is read of these bytes if they come in these reads and the connection is closed then.
fn read<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut seen = Seen::default();
    let fault = follow(
        reads
            .into_iter()
            .filter(|read| !read.is_empty())
            .chain([&[][..]]),
        &mut seen,
    )
    .err();
    assert_eq!(fault.is_some(), seen.end.is_none());
    seen
}

fn follow<'a>(
    mut reads: impl Iterator<Item = &'a [u8]>,
    seen: &mut Seen,
) -> Result<(), ProtocolError> {
    let mut heads = HeadReader::default();
    let (mut head, mut ahead) = loop {
        if let Some(found) = heads.take(reads.next().unwrap())? {
            break found;
        }
    };
    seen.head = Some((head.status.as_u16(), std::mem::take(&mut head.headers)));
    while !head.framing.is_ended() {
        let read = if ahead.is_empty() {
            reads.next().unwrap()
        } else {
            &ahead
        };
        let (payload, rest) = head.framing.take(read)?;
        seen.body.extend_from_slice(&payload);
        ahead = rest;
    }
    seen.end = Some(head.keeps && ahead.is_empty() && reads.all(<[u8]>::is_empty));
    Ok(())
}

/// An answer without fault, and its body.
#[derive(Clone, Debug)]
struct Written {
    bytes: Vec<u8>,
    body: Vec<u8>,
}

/// How the end of a body is told.
#[derive(Clone, Debug)]
enum Form {
    Length,
    Chunks {
        sizes: Vec<usize>,
        extension: String,
        trailers: Vec<(String, String)>,
    },
    UntilClose,
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("x-[a-z]{1,9}", "[!-~]([ !-~\t]{0,20}[!-~])?"), 0..5)
}

fn form() -> impl Strategy<Value = Form> {
    let chunks = (
        prop::collection::vec(1_usize..40, 1..6),
        "(;[a-z]{1,30}(=[a-z0-9]{1,9})?){0,2}",
        headers(),
    );
    prop_oneof![
        Just(Form::Length),
        Just(Form::UntilClose),
        chunks.prop_map(|(sizes, extension, trailers)| Form::Chunks {
            sizes,
            extension,
            trailers
        }),
    ]
}

fn lines(of: &[(String, String)]) -> String {
    let lines: Vec<String> = of
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    lines.concat()
}

fn answers() -> impl Strategy<Value = Written> {
    let status = prop::sample::select(vec![200_u16, 201, 400, 429, 503]);
    let closes = prop::sample::select(vec![
        "",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
    ]);
    let interim = prop::collection::vec(headers(), 0..3);
    let body = prop::collection::vec(any::<u8>(), 0..300);
    (status, closes, interim, headers(), body, form()).prop_map(
        |(status, closes, interim, headers, body, form)| {
            let mut bytes = Vec::new();
            for headers in interim {
                bytes.extend_from_slice(
                    format!("HTTP/1.1 103 Early\r\n{}\r\n", lines(&headers)).as_bytes(),
                );
            }
            bytes.extend_from_slice(
                format!("HTTP/1.1 {status} Word\r\n{closes}{}", lines(&headers)).as_bytes(),
            );
            match form {
                Form::Length => bytes.extend_from_slice(
                    format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                ),
                Form::UntilClose => bytes.extend_from_slice(b"\r\n"),
                Form::Chunks { .. } => {
                    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                }
            }
            let Form::Chunks {
                sizes,
                extension,
                trailers,
            } = form
            else {
                bytes.extend_from_slice(&body);
                return Written { bytes, body };
            };
            let (mut rest, mut sizes) = (&body[..], sizes.iter().cycle());
            while let Some((chunk, behind)) =
                rest.split_at_checked(rest.len().min(*sizes.next().unwrap()))
            {
                bytes.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                if chunk.is_empty() {
                    break;
                }
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                rest = behind;
            }
            bytes.extend_from_slice(format!("{}\r\n", lines(&trailers)).as_bytes());
            Written { bytes, body }
        },
    )
}

/// What hyper's client makes of it.
fn read_by_hyper(bytes: &[u8]) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours))
            .await
            .unwrap();
        let request = http::Request::post("/").body(String::new()).unwrap();
        let ask = async {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            Seen {
                head: Some((head.status.as_u16(), head.headers)),
                body,
                end: None,
            }
        };
        let serve = async {
            theirs.read_exact(&mut [0]).await.unwrap();
            theirs.write_all(bytes).await.unwrap();
            theirs.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            seen = ask => seen,
            () = serve => unreachable!(),
            () = async { drop(connection.await); std::future::pending().await } => unreachable!(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_read_the_same_wherever_it_is_cut(answer in answers(), behind in "x?") {
        let mut bytes = answer.bytes;
        bytes.extend_from_slice(behind.as_bytes());
        let whole = read([&bytes[..]]);
        prop_assert!(whole.end.is_some());
        if behind.is_empty() {
            prop_assert_eq!(&whole.body, &answer.body);
        }
        for cut in 1..bytes.len() {
            prop_assert_eq!(&read([&bytes[..cut], &bytes[cut..]]), &whole, "cut at {}", cut);
        }
        prop_assert_eq!(&read(bytes.chunks(1)), &whole);
    }

    #[test]
    fn an_answer_is_read_as_hyper_reads_it(answer in answers()) {
        let ours = read([&answer.bytes[..]]);
        prop_assert_eq!(Seen { end: None, ..ours }, read_by_hyper(&answer.bytes));
    }

    /// Also what is no answer, and wherever it breaks off.
    #[test]
    fn a_broken_answer_is_read_the_same_wherever_it_is_cut(
        answer in answers(),
        (at, byte) in (any::<prop::sample::Index>(), prop::sample::select(b"\r\n 0a;:\0\xff".to_vec())),
        until in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let mut bytes = answer.bytes;
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(until.index(bytes.len()).max(1));
        let whole = read([&bytes[..]]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&read(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]])), &whole);
        prop_assert_eq!(&read(bytes.chunks(1)), &whole);
    }
}
