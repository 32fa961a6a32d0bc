//! Answers written byte by byte: what is read of them, and whether their connection is used again.

use http_body::Body;
use tollgate_http1::ANSWER_HEAD_BYTES_MAX;

use super::*;

/// What two requests, one after the other, got from a server.
#[derive(Debug, PartialEq, Eq)]
struct Twice {
    /// The body, or in which part of the answer it failed.
    first: Result<Vec<u8>, &'static str>,
    /// Both went on one connection.
    is_kept: bool,
}

/// A server that answers every request on every connection with these bytes; and how many connections it had.
async fn raw_server(answer: Vec<u8>, closes: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own server ends with its runtime"
    )]
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let answer = answer.clone();
            tokio::spawn(async move {
                // The client may have left, which is its right.
                while !request_of(&mut socket).await.is_empty()
                    && socket.write_all(&answer).await.is_ok()
                    && !closes
                {}
            });
        }
    });
    (url, connections)
}

async fn body_of(upstreams: &Upstreams, to: &UpstreamConfig) -> Result<Vec<u8>, &'static str> {
    let answer = upstreams
        .send(to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7())
        .await;
    let answer = answer.map_err(|error| {
        if error == SendError::Broken {
            "head"
        } else {
            "other"
        }
    })?;
    let body = tokio::time::timeout(Duration::from_secs(9), answer.body.collect())
        .await
        .map_err(|_| "silence")?;
    Ok(body.map_err(|_| "body")?.to_bytes().to_vec())
}

async fn twice(answer: impl Into<Vec<u8>>, closes: bool) -> Twice {
    let (url, connections) = raw_server(answer.into(), closes).await;
    let (to, upstreams) = (upstream(&url, None), Upstreams::new(&proxy()));
    let first = body_of(&upstreams, &to).await;
    let second = body_of(&upstreams, &to).await;
    assert_eq!(first, second);
    Twice {
        first,
        is_kept: connections.load(Ordering::Relaxed) == 1,
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table of cases")]
async fn an_answer_is_read_to_its_end_and_its_connection_kept_if_that_is_certain() {
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\n{{}}",
        "x: y\r\n".repeat(99)
    );
    for (answer, body, is_kept) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}", true),
        ("HTTP/1.1 200\r\ncontent-length:2 \r\n\r\n{}", "{}", true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 02, 2\r\n\r\n{}",
            "{}",
            true,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "{}",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             000A ; a=\"b;c\"\r\n0123456789\r\n1;x\r\na\r\nc\t\r\n\r\n0\r\n{\"b\":1}\r\n0;y\r\nx: y\r\nz:\r\n\r\n",
            "0123456789a\r\n0\r\n{\"b\":1}",
            true,
        ),
        (
            "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "{}",
            true,
        ),
        ("HTTP/1.1 204 No\r\n\r\n", "", true),
        ("HTTP/1.1 304 No\r\n\r\n", "", true),
        (&many, "{}", true),
        // Nobody knows what comes next on these.
        ("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", "", false),
        (
            "HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n",
            "",
            false,
        ),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
            "{}",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
            "{}",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "{}",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            "{}",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx", "", false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n\r\n",
            "{}",
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "{}",
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n{}",
            "{}",
            true,
        ),
    ] {
        assert_eq!(
            twice(answer, false).await,
            Twice {
                first: Ok(body.into()),
                is_kept
            },
            "{answer}"
        );
    }
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n{}",
    ] {
        assert_eq!(
            twice(answer, true).await,
            Twice {
                first: Ok(b"{}".to_vec()),
                is_kept: false
            },
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_an_error() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    let long = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
        "a".repeat(ANSWER_HEAD_BYTES_MAX)
    );
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(ANSWER_HEAD_BYTES_MAX / 25 + 1);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        "HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "SSH-2.0-OpenSSH_9.9\r\n",
        &many,
        &long,
        &interim,
    ] {
        let outcome = twice(answer, false).await;
        assert_eq!(
            outcome,
            Twice {
                first: Err("head"),
                is_kept: false
            },
            "{answer:.200}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_cut_or_malformed_is_never_at_its_end() {
    let length = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}");
    let chunks = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}{body}")
    };
    for answer in [
        length(""),
        length("{}"),
        chunks(""),
        chunks("\r\n"),
        chunks("\r\n0\r\n"),
        chunks("\r\n3\r\n{}"),
    ] {
        assert_eq!(
            twice(answer.as_str(), true).await,
            Twice {
                first: Err("body"),
                is_kept: false
            },
            "{answer}"
        );
    }
    let endless = "a".repeat(1024 * 1024);
    for wrong in [
        "\n0\r\n\r\n",
        "x\r\n0\r\n\r\n",
        "\r\n\r\n",
        "\r\n+2\r\n{}\r\n0\r\n\r\n",
        "\r\n 2\r\n{}\r\n0\r\n\r\n",
        "\r\n0x2\r\n{}\r\n0\r\n\r\n",
        "\r\n2 2\r\n{}\r\n0\r\n\r\n",
        "\r\n2\n{}\r\n0\r\n\r\n",
        "\r\n2;a\n{}\r\n0\r\n\r\n",
        "\r\n2\r{}\r\n0\r\n\r\n",
        "\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
        "\r\n0\n\n",
        "\r\n0\r\nx: y\n\r\n",
        "\r\n0\r\n\r\r",
        &format!("\r\n2;{endless}"),
        &format!("\r\n{}", "0".repeat(1024 * 1024)),
        &format!("\r\n0\r\n{endless}"),
        &format!("\r\n0\r\n{}", "x: y\r\n".repeat(64 * 1024)),
    ] {
        let outcome = twice(chunks(wrong), false).await;
        assert_eq!(
            outcome,
            Twice {
                first: Err("body"),
                is_kept: false
            },
            "{wrong:.100}"
        );
    }
}

#[tokio::test]
async fn what_came_before_a_fault_is_given_out() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlast\r\nno chunk\r\n";
    let (url, _) = raw_server(answer.into(), false).await;
    let mut body = send(&url).await.0.unwrap().body;
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "last"
    );
    body.frame().await.unwrap().unwrap_err();
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn what_came_together_is_given_out_together() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n";
    let (url, _) = raw_server(answer.into(), false).await;
    let mut body = send(&url).await.0.unwrap().body;
    assert!(!body.is_end_stream());
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "onetwothree"
    );
    assert!(body.is_end_stream(), "its end came with it");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_request_goes_on_a_new_connection_when_the_kept_one_was_closed_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = upstream(
        &format!("http://{}/v1", listener.local_addr().unwrap()),
        None,
    );
    let upstreams = Upstreams::new(&proxy());
    let (close, closing) = tokio::sync::oneshot::channel();
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        request_of(&mut socket).await;
        socket
            .write_all(answer("200 OK", "{}").as_bytes())
            .await
            .unwrap();
        closing.await.unwrap();
        drop(socket);
        let (mut socket, _) = listener.accept().await.unwrap();
        request_of(&mut socket).await;
        socket
            .write_all(answer("200 OK", "[]").as_bytes())
            .await
            .unwrap();
    };
    let ask = async {
        assert_eq!(body_of(&upstreams, &to).await.unwrap(), b"{}");
        close.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(body_of(&upstreams, &to).await.unwrap(), b"[]");
    };
    tokio::join!(ask, serve);
}

#[tokio::test]
async fn a_request_is_not_repeated_once_any_of_it_was_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (to, upstreams) = (
        upstream(
            &format!("http://{}/v1", listener.local_addr().unwrap()),
            None,
        ),
        Upstreams::new(&proxy()),
    );
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        request_of(&mut socket).await;
        socket
            .write_all(answer("200 OK", "{}").as_bytes())
            .await
            .unwrap();
        // The second request is taken, and nothing said to it.
        socket.read_exact(&mut [0; 10]).await.unwrap();
        drop(socket);
        tokio::time::timeout(Duration::from_millis(300), listener.accept())
            .await
            .is_err()
    };
    let ask = async {
        assert_eq!(body_of(&upstreams, &to).await.unwrap(), b"{}");
        let mut exchange =
            upstreams.send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7());
        ((&mut exchange).await.err(), exchange.sent())
    };
    let (outcome, was_left_alone) = tokio::join!(ask, serve);
    assert_eq!(outcome, (Some(SendError::Broken), true));
    assert!(was_left_alone, "it was sent again");
}

#[tokio::test]
async fn a_body_is_freed_when_it_was_sent() {
    let (url, seen) = server_that_only_listens().await;
    let to = upstream(&url, None);
    let body = Bytes::from(b"{}".to_vec());
    let mut exchange =
        Upstreams::new(&proxy()).send(&to, chat(body.clone(), false), Uuid::now_v7());
    assert!(!body.is_unique());
    while seen.lock().unwrap().is_empty() {
        assert!(
            tokio::time::timeout(Duration::from_millis(5), &mut exchange)
                .await
                .is_err(),
            "nobody answers"
        );
    }
    assert!(
        body.is_unique(),
        "it is kept while its answer is waited for"
    );
}

const LARGE: usize = 16 * 1024 * 1024;

/// Takes a part of a large request, answers it, and does with the connection what it is told.
async fn early_answer<F: Future<Output = ()>>(then: impl FnOnce(TcpStream) -> F) -> Twice {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = upstream(
        &format!("http://{}/v1", listener.local_addr().unwrap()),
        None,
    );
    let upstreams = Upstreams::new(&proxy());
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 1000]).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\n")
            .await
            .unwrap();
        then(socket).await;
    };
    let large = Bytes::from(vec![b' '; LARGE]);
    let ask = async {
        let answer = upstreams
            .send(&to, chat(large, false), Uuid::now_v7())
            .await
            .map_err(|_| "head")?;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        Ok(answer
            .body
            .collect()
            .await
            .map_err(|_| "body")?
            .to_bytes()
            .to_vec())
    };
    let both = async { tokio::join!(ask, serve) };
    let (first, ()) = tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("each waits for the other");
    let again = async {
        drop(
            upstreams
                .send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7())
                .await,
        );
    };
    let is_kept = tokio::select! {
        () = again => true,
        _ = listener.accept() => false,
    };
    Twice { first, is_kept }
}

#[tokio::test]
async fn an_answer_before_the_end_of_its_request_is_read_and_its_connection_closed() {
    let whole = Twice {
        first: Ok(b"long".to_vec()),
        is_kept: false,
    };
    let unread = early_answer(async |mut socket| socket.write_all(b"long").await.unwrap());
    assert_eq!(
        unread.await,
        whole,
        "the rest was not read, and the connection closed"
    );
    let silent = early_answer(async |mut socket| {
        socket.write_all(b"long").await.unwrap();
        // It stays open for as long as somebody is there.
        let mut rest = Vec::new();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Sooner than a connection that is kept would be closed. Whether by a reset is no matter.
        let closed =
            tokio::time::timeout(Duration::from_secs(9), socket.read_to_end(&mut rest)).await;
        drop(closed.expect("it is not closed"));
    });
    assert_eq!(silent.await, whole, "the rest was not read at first");
    let patient = early_answer(async |mut socket| {
        let mut left = LARGE - 1000;
        let mut part = vec![0; 64 * 1024];
        while left > 0 {
            left = left.saturating_sub(socket.read(&mut part).await.unwrap());
        }
        socket.write_all(b"long").await.unwrap();
    });
    assert_eq!(
        patient.await,
        whole,
        "the rest was read before the rest of the answer"
    );
}
