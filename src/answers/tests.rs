//! Answers with a writer and any number of followers, in one thread and on a clock that stands.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::unchecked_time_subtraction,
    clippy::format_collect,
    clippy::format_push_string,
    reason = "small numbers and tasks of its own, in a test"
)]

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::advance;
use tokio_util::sync::CancellationToken;

use super::answer::UNKEPT_BYTES_MAX;
use super::index::ENTRY_BYTES;
use super::log::{AnswerLog, Position};
use super::*;

const ALICE: Uuid = Uuid::from_u128(1);
const BOB: Uuid = Uuid::from_u128(2);
const MIB: usize = 1 << 20;
const LIMITS: AnswerLimits = AnswerLimits {
    keep: Duration::from_mins(10),
    answer_bytes_max: MIB,
    bytes_max: 16 * MIB,
};

/// What the exchange of a run gives, a piece at a time. Dropped, the answer is whole.
type Pieces = mpsc::UnboundedSender<Bytes>;

/// Says when the exchange was dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn number(of: u128) -> Uuid {
    Uuid::from_u128(1000 + of)
}

/// Begins a stream: its pieces, its caller, and whether its exchange is gone.
fn begin(answers: &Arc<Answers>, user: Uuid, name: u128) -> (Pieces, Follower, Arc<AtomicBool>) {
    let key = format!("key-{name}");
    let Claim::First(run, caller) = answers.claim(user, (&key, &[0; 32]), number(name)) else {
        panic!("{key} is taken");
    };
    let (pieces, mut coming) = mpsc::unbounded_channel::<Bytes>();
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Dropped(dropped.clone());
    let exchange = async move {
        let body = futures_body(move |context| {
            let _alive = &guard;
            coming.poll_recv(context)
        });
        Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(body)
            .unwrap()
    };
    tokio::spawn(run.drive(exchange, stopped, CancellationToken::new()));
    (pieces, caller, dropped)
}

fn stopped() -> Response {
    Response::new(Body::from("stopped"))
}

/// A body of what a function gives.
fn futures_body(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Bytes>>
    + Send
    + Unpin
    + 'static,
) -> Body {
    struct Polled<F>(F);
    impl<F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Bytes>> + Unpin>
        http_body::Body for Polled<F>
    {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            (self.0)(context).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
        }
    }
    Body::new(Polled(poll))
}

fn event(number: usize) -> Bytes {
    Bytes::from(format!("data: {{\"n\":{number}}}\n\n"))
}

/// Lets every task run as far as it can.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// What a follower gets until nothing more is there: the bytes, and how it ended.
async fn all(follower: Follower) -> Result<String, String> {
    let mut body = follower.into_body(());
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => read.extend_from_slice(&frame.into_data().unwrap()),
            Err(_) => return Err(String::from_utf8(read).unwrap()),
        }
    }
    Ok(String::from_utf8(read).unwrap())
}

fn here(answers: &Answers, user: Uuid, id: Uuid) -> Follower {
    match answers.find(user, id) {
        Lookup::Here(follower) => follower,
        other => panic!("{other:?}"),
    }
}

fn is_gone(answers: &Answers, user: Uuid, id: Uuid) -> bool {
    matches!(answers.find(user, id), Lookup::Gone)
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_later_gets_all_of_it_and_whoever_knows_a_part_the_rest() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, _) = begin(&answers, ALICE, 1);
    pieces.send(event(1)).unwrap();
    pieces
        .send(Bytes::from_static(b": keep-alive\n\n"))
        .unwrap();
    pieces.send([event(2), event(3)].concat().into()).unwrap();
    settle().await;
    let again = match answers.claim(ALICE, ("key-1", &[0; 32]), number(9)) {
        Claim::Again(follower) => follower,
        other => panic!("{other:?}"),
    };
    let (resumed, ahead) = (
        here(&answers, ALICE, number(1)).numbered_after(2),
        here(&answers, ALICE, number(1)).numbered_after(9),
    );
    assert!(matches!(
        again.head().await,
        HeadOutcome::Answer(StatusCode::OK, _)
    ));
    assert!(matches!(
        answers.claim(ALICE, ("key-1", &[1; 32]), number(9)),
        Claim::Other
    ));
    assert!(matches!(
        answers.claim(BOB, ("key-1", &[1; 32]), number(8)),
        Claim::First(..)
    ));
    assert!(matches!(answers.find(BOB, number(1)), Lookup::Unknown));
    pieces.send(event(4)).unwrap();
    drop(pieces);
    let whole: String = (1..5)
        .map(|number| String::from_utf8(event(number).to_vec()).unwrap())
        .collect();
    assert_eq!(all(again).await.unwrap(), whole);
    assert_eq!(all(caller).await.unwrap(), whole);
    assert_eq!(
        all(resumed).await.unwrap(),
        "id: 3\ndata: {\"n\":3}\n\nid: 4\ndata: {\"n\":4}\n\n"
    );
    assert_eq!(all(ahead).await.unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn a_follower_who_does_not_read_holds_up_nobody() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, _) = begin(&answers, ALICE, 1);
    let (slow, fast) = (
        here(&answers, ALICE, number(1)),
        here(&answers, ALICE, number(1)),
    );
    for number in 0..10_000 {
        pieces.send(event(number)).unwrap();
    }
    drop(pieces);
    let read = all(fast).await.unwrap();
    assert!(read.ends_with("{\"n\":9999}\n\n"));
    assert_eq!(all(slow).await.unwrap(), read);
    assert_eq!(all(caller).await.unwrap(), read);
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_long_to_be_kept_goes_on_to_its_caller_alone_at_the_callers_pace() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, _) = begin(&answers, ALICE, 1);
    let other = here(&answers, ALICE, number(1));
    let long = Bytes::from(format!("data: {}\n\n", "x".repeat(64 * 1024)));
    for _ in 0..100 {
        pieces.send(long.clone()).unwrap();
    }
    drop(pieces);
    settle().await;
    assert!(is_gone(&answers, ALICE, number(1)));
    assert_eq!(answers.reading().bytes, 0);
    let answer = caller.answer.clone();
    assert!(
        answer.state().log.end() < 2 * MIB,
        "it waits for its caller"
    );
    assert!(all(other).await.is_err(), "it gets no more");
    let mut body = caller.into_body(());
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
        settle().await;
        let held = answer.state().log.end() - read;
        assert!(
            held <= MIB.max(UNKEPT_BYTES_MAX + long.len()),
            "{held} at {read}"
        );
    }
    assert_eq!(read, 100 * long.len());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_an_answer_that_is_not_kept_lets_it_come_to_its_end() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, dropped) = begin(&answers, ALICE, 1);
    for _ in 0..100 {
        pieces.send(vec![b'x'; 64 * 1024].into()).unwrap();
    }
    settle().await;
    drop(caller);
    settle().await;
    assert!(!dropped.load(Ordering::Acquire), "its usage is to be known");
    drop(pieces);
    settle().await;
    assert!(dropped.load(Ordering::Acquire));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_follows_is_read_on_for_as_long_as_answers_are_kept() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, dropped) = begin(&answers, ALICE, 1);
    pieces.send(event(1)).unwrap();
    settle().await;
    drop(caller);
    settle().await;
    advance(LIMITS.keep - Duration::from_secs(1)).await;
    settle().await;
    // Somebody asks again, and leaves: it begins anew.
    drop(here(&answers, ALICE, number(1)));
    settle().await;
    advance(LIMITS.keep - Duration::from_secs(1)).await;
    settle().await;
    assert!(!dropped.load(Ordering::Acquire));
    advance(Duration::from_secs(2)).await;
    settle().await;
    assert!(dropped.load(Ordering::Acquire));
    assert!(is_gone(&answers, ALICE, number(1)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_found_until_its_time_is_over_and_then_gives_its_room_back() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, _) = begin(&answers, ALICE, 1);
    pieces.send(event(1)).unwrap();
    drop((pieces, caller));
    settle().await;
    advance(LIMITS.keep - Duration::from_secs(1)).await;
    drop(here(&answers, ALICE, number(1)));
    advance(Duration::from_secs(2)).await;
    assert!(
        !matches!(answers.find(ALICE, number(1)), Lookup::Here(_)),
        "before anybody sweeps"
    );
    let sweeping = answers.clone();
    tokio::spawn(async move { sweeping.keep_swept().await });
    settle().await;
    advance(SWEEP_INTERVAL).await;
    settle().await;
    let reading = answers.reading();
    assert_eq!((reading.answers, reading.bytes), (0, 0));
    assert!(is_gone(&answers, ALICE, number(1)));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_answer_is_cut_off_and_gone_and_its_key_is_left_to_the_ledger() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, dropped) = begin(&answers, ALICE, 1);
    pieces.send(event(1)).unwrap();
    settle().await;
    answers.stop(here(&answers, ALICE, number(1))).await;
    assert!(
        dropped.load(Ordering::Acquire),
        "before the caller is told so"
    );
    assert!(all(caller).await.is_ok(), "and no error");
    assert!(is_gone(&answers, ALICE, number(1)));
    let claim = answers.claim(ALICE, ("key-1", &[0; 32]), number(2));
    assert!(matches!(claim, Claim::First(..)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_never_sent_leaves_its_key_to_those_who_wait() {
    let answers = Answers::new(LIMITS);
    let Claim::First(run, caller) = answers.claim(ALICE, ("k", &[0; 32]), number(1)) else {
        panic!();
    };
    let waiting = here(&answers, ALICE, number(1));
    drop((run, caller));
    assert!(matches!(waiting.head().await, HeadOutcome::Unsent));
    let claim = answers.claim(ALICE, ("k", &[0; 32]), number(2));
    assert!(matches!(claim, Claim::First(..)));
    assert!(matches!(answers.find(ALICE, number(1)), Lookup::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_free_gives_its_key_back_and_its_answer_to_those_who_wait() {
    let answers = Answers::new(LIMITS);
    let Claim::First(run, caller) = answers.claim(ALICE, ("k", &[0; 32]), number(1)) else {
        panic!();
    };
    let waiting = here(&answers, ALICE, number(1));
    run.key().free();
    let refusal = async {
        let response = Response::builder().status(502);
        response.body(Body::from("no")).unwrap()
    };
    run.drive(refusal, stopped, CancellationToken::new()).await;
    for follower in [waiting, caller] {
        assert!(matches!(
            follower.head().await,
            HeadOutcome::Answer(StatusCode::BAD_GATEWAY, _)
        ));
        assert_eq!(all(follower).await.unwrap(), "no");
    }
    let claim = answers.claim(ALICE, ("k", &[0; 32]), number(2));
    assert!(matches!(claim, Claim::First(..)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_gives_each_follower_a_comment_that_is_no_event() {
    let answers = Answers::new(LIMITS);
    let (pieces, caller, _) = begin(&answers, ALICE, 1);
    pieces.send(event(1)).unwrap();
    let reading = tokio::spawn(all(caller.numbered_after(0)));
    settle().await;
    tokio::time::sleep(Duration::from_secs(16)).await;
    pieces.send(event(2)).unwrap();
    drop(pieces);
    assert_eq!(
        reading.await.unwrap().unwrap(),
        "id: 1\ndata: {\"n\":1}\n\n: keep-alive\n\nid: 2\ndata: {\"n\":2}\n\n"
    );
}

/// One step of a crowd.
#[derive(Clone, Debug)]
enum Step {
    /// A user's answer of so many bytes begins; its caller stays or leaves.
    Begin(bool, usize, bool),
    /// More bytes for one of those that run.
    More(usize, usize),
    End(usize),
    Follow(usize),
    Leave(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let size = 0..300_000_usize;
    prop_oneof![
        3 => (any::<bool>(), size.clone(), any::<bool>()).prop_map(|(user, size, stays)| Step::Begin(user, size, stays)),
        3 => (any::<usize>(), size).prop_map(|(which, size)| Step::More(which, size)),
        2 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Follow),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (0..400_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens: what is kept is bounded, for all and for one user, and is what the index says it is.
    #[test]
    fn what_is_kept_is_bounded(steps in prop::collection::vec(step(), 1..120)) {
        let limits = AnswerLimits { keep: LIMITS.keep, answer_bytes_max: MIB / 2, bytes_max: 4 * MIB };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let answers = Answers::new(limits);
            let (mut running, mut followers, mut all) = (Vec::new(), Vec::new(), Vec::new());
            for (name, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Begin(is_alice, size, stays) => {
                        let user = if is_alice { ALICE } else { BOB };
                        let (pieces, caller, _) = begin(&answers, user, name as u128);
                        all.push((user, caller.answer.clone()));
                        pieces.send(vec![b'x'; size].into()).unwrap();
                        running.push((user, caller.id(), pieces));
                        if stays { followers.push(caller); }
                    }
                    Step::More(which, size) if !running.is_empty() => {
                        let which = which % running.len();
                        // It may have been given up meanwhile.
                        drop(running[which].2.send(vec![b'x'; size].into()));
                    }
                    Step::End(which) if !running.is_empty() => drop(running.swap_remove(which % running.len())),
                    Step::Follow(which) if !all.is_empty() => {
                        let (user, answer) = &all[which % all.len()];
                        if let Lookup::Here(follower) = answers.find(*user, answer.name.id) { followers.push(follower); }
                    }
                    Step::Leave(which) if !followers.is_empty() => drop(followers.swap_remove(which % followers.len())),
                    Step::Pass(seconds) => {
                        advance(Duration::from_secs(seconds)).await;
                        if let Some(oldest) = answers.oldest() { answers.index().expire(oldest); }
                    }
                    _ => {}
                }
                settle().await;
                let bytes = answers.reading().bytes;
                assert!(bytes <= limits.bytes_max, "{bytes}");
                let mut held = 0;
                for user in [ALICE, BOB] {
                    let kept = all.iter().filter(|(whose, answer)| *whose == user && answer.state().is_kept);
                    let of_user: usize = kept.map(|(_, answer)| answer.state().log.size()).sum();
                    assert!(of_user <= limits.user_bytes_max(), "{user}: {of_user}");
                    held += of_user;
                }
                assert!(held <= bytes, "{held} are held, {bytes} accounted");
            }
            drop((running, followers));
            settle().await;
            advance(limits.keep * 2).await;
            settle().await;
            if let Some(oldest) = answers.oldest() { answers.index().expire(oldest); }
            let reading = answers.reading();
            assert_eq!((reading.answers, reading.bytes), (0, 0));
        });
    }

    /// However a log is read, piece by piece, with numbers or without: each event once, in order, with its number.
    #[test]
    fn a_log_is_read_as_it_was_written(
        events in prop::collection::vec("[a-z\n]{0,40}", 0..40),
        reads in prop::collection::vec(0..80_usize, 0..80),
        skip in 0..45_u64,
    ) {
        let mut log = AnswerLog::new(true);
        let mut whole = String::new();
        let mut numbered = String::new();
        let (mut plain, mut read, mut counted, mut read_numbered) =
            (Position::default(), Vec::new(), Position::default(), Vec::new());
        let mut reads = reads.into_iter().cycle();
        for (place, text) in events.iter().enumerate() {
            let lines: String = text.split('\n').map(|line| format!("data: {line}\n")).collect();
            let event = format!("{lines}\n");
            let framed = format!(": a comment\n\n{event}");
            let bytes = log.written(framed.as_bytes()).to_vec();
            log.push(&bytes);
            whole += &event;
            let number = place as u64 + 1;
            if number > skip { numbered += &format!("id: {number}\n{event}"); }
            if let Some(most) = reads.next() {
                read.extend_from_slice(&log.read(&mut plain, most));
                read_numbered.extend_from_slice(&log.read_numbered(&mut counted, skip, most));
            }
        }
        read.extend_from_slice(&log.read(&mut plain, usize::MAX));
        read_numbered.extend_from_slice(&log.read_numbered(&mut counted, skip, usize::MAX));
        prop_assert_eq!(String::from_utf8(read).unwrap(), whole);
        prop_assert_eq!(String::from_utf8(read_numbered).unwrap(), numbered);
    }
}

/// A thousand small answers take no more than they are accounted for.
#[test]
fn an_entry_is_accounted_for_what_it_takes() {
    let name = RequestName {
        id: ALICE,
        user_id: BOB,
        key: "k".repeat(255).into(),
        digest: [0; 32],
    };
    let itself = size_of::<KeptAnswer>() + name.key.len();
    // The key twice, five ids in maps and sets that are half empty, and a dozen headers.
    let around = 2 * (255 + 64) + 5 * 2 * 48 + 600;
    assert!(itself + around <= ENTRY_BYTES, "{itself} + {around}");
}
