//! The table of ends: what became of a request → what it is charged by, its flags, and what is reported of it. Pure.
//!
//! [`super::bill`] makes a row of it the settlement of a request.

use http::StatusCode;

use super::request_log::Reported;
use crate::endpoint::Endpoint;
use crate::error::{Code, Refusal};
use crate::ledger::{Charge, Flag};
use crate::meter::{Fault, Measured};
use crate::observe::metrics::UpstreamOutcome;
use crate::upstream::SendError;
use crate::upstream::answer::ReadError;
use crate::upstream::health::Failure;
use crate::upstream::rejection::{Rejection, Work};

/// What became of a request after its hold.
#[derive(Debug)]
pub(super) enum End {
    /// There is no answer: nothing was sent, or nobody knows what became of it.
    Unanswered(SendError),
    /// It was refused, or failed, in place of an answer.
    Refused(Rejection),
    /// A success that is not what was asked for: what it used is hidden in it.
    Nonsense,
    /// A whole answer that was not read to its end.
    Unread(ReadError),
    /// A whole answer, and whether its caller had left before it was there.
    Whole { caller_left: bool },
    /// Nobody waits any more for an answer that did not begin.
    Abandoned(Leaver, Progress),
    /// A stream that came to its end.
    Streamed,
    /// A stream that failed, of which its caller was told by an event.
    Failed(Fault),
    /// A stream that is not read on, as nobody waits for it.
    Left(Leaver),
    /// A stream that was read on without its caller, and why that ended before its end.
    Drained(Option<Fault>),
}

/// Why nobody waits for an answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaver {
    /// The caller left.
    Caller,
    /// The server stops.
    Server,
}

/// How far an exchange had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not a byte was sent.
    Unsent,
    /// The upstream may be at work.
    Sent,
    /// The upstream had refused: its status says how much of the work was done.
    Refused(Work),
}

/// By what a request is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// By what became of it alone.
    Fixed(Charge),
    /// By the usage that the upstream reported, or else by this.
    Reported(Unreported),
}

impl Basis {
    /// The same of a request that may be free whatever became of it: what reached the upstream was load.
    pub(super) fn of(self, order: &dyn Endpoint) -> Self {
        match self {
            Self::Fixed(Charge::Voided { .. }) => self,
            _ if order.is_free() => LOAD,
            Self::Fixed(_) | Self::Reported(_) => self,
        }
    }
}

const FREE: Basis = Basis::Fixed(Charge::Voided { load: false });
const LOAD: Basis = Basis::Fixed(Charge::Voided { load: true });
const LOST: Basis = Basis::Fixed(Charge::Lost);

/// What a request is charged where the upstream did not report its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreported {
    /// Its prompt, and what was delivered: all that was generated was seen.
    Seen,
    /// Its prompt: nothing was generated.
    Prompt,
    /// What was held: nobody saw what was generated.
    Hold,
}

/// How a request ends.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) basis: Basis,
    pub(super) flags: Vec<Flag>,
    /// What it says of the upstream, to its health and to the metrics.
    pub(super) upstream: UpstreamOutcome,
    /// What the caller got.
    pub(super) reported: Reported,
    /// What the caller is to be told in place of an answer.
    pub(super) refusal: Option<Refusal>,
}

impl Verdict {
    /// The caller gets an answer, or nothing more.
    fn new(basis: Basis, flags: &[Flag], upstream: UpstreamOutcome, reported: Reported) -> Self {
        Self {
            basis,
            flags: flags.to_vec(),
            upstream,
            reported,
            refusal: None,
        }
    }

    /// The caller gets a refusal.
    fn refused(basis: Basis, flag: Flag, upstream: UpstreamOutcome, refusal: Refusal) -> Self {
        let reported = Reported::refused(&refusal);
        Self {
            refusal: Some(refusal),
            ..Self::new(basis, &[flag], upstream, reported)
        }
    }
}

/// The table. `measured` is what was seen of the answer.
pub(super) fn verdict(end: End, measured: &Measured) -> Verdict {
    let seen = Basis::Reported(Unreported::Seen);
    let unseen = Basis::Reported(Unreported::Hold);
    match end {
        End::Unanswered(error) => {
            let (basis, flag) = match error {
                SendError::Connect => (FREE, Flag::NotConnected),
                SendError::TimedOut => (LOST, Flag::Timeout),
                SendError::Broken => (LOST, Flag::Cut),
            };
            let upstream = UpstreamOutcome::Failed(error.failure());
            Verdict::refused(basis, flag, upstream, error.refusal())
        }
        End::Refused(refused) => {
            let (basis, flag) = of_work(refused.work);
            let upstream = refused
                .failure
                .map_or(UpstreamOutcome::Ok, UpstreamOutcome::Failed);
            let mut verdict = Verdict::refused(basis, flag, upstream, refused.refusal);
            verdict
                .flags
                .extend(refused.advice.map(|advice| advice.flag));
            verdict
        }
        End::Nonsense => {
            let message = "The model's provider answered something that is not what was asked for.";
            let refusal = Refusal::new(Code::UpstreamError, message);
            Verdict::refused(
                unseen,
                Flag::Nonsense,
                UpstreamOutcome::Failed(Failure::Error),
                refusal,
            )
        }
        // A whole answer is generated before it is sent: what it cost is not known from the part that came.
        End::Unread(error) => {
            let (flag, failure) = match error {
                ReadError::TimedOut => (Flag::Timeout, Failure::TimedOut),
                ReadError::Broken | ReadError::TooLarge => (Flag::Cut, Failure::Broken),
            };
            Verdict::refused(
                LOST,
                flag,
                UpstreamOutcome::Failed(failure),
                error.refusal(),
            )
        }
        End::Whole { caller_left: false } | End::Streamed => {
            Verdict::new(seen, &[], UpstreamOutcome::Ok, Reported::OK)
        }
        End::Whole { caller_left: true } => Verdict::new(
            seen,
            &[Flag::Cancelled],
            UpstreamOutcome::Ok,
            Reported::LEFT,
        ),
        End::Abandoned(leaver, progress) => abandoned(leaver, progress),
        End::Failed(fault) => {
            let (basis, flag, upstream) = of_fault(fault, measured);
            let reported = Reported::broken_off(fault.refusal().code);
            Verdict::new(basis, &[flag], upstream, reported)
        }
        End::Left(leaver) => {
            let (flag, refusal) = of_leaver(leaver);
            let broken_off = |refusal: Refusal| Reported::broken_off(refusal.code);
            let reported = refusal.map_or(Reported::OK, broken_off);
            Verdict::new(
                of_part(measured),
                &[flag],
                UpstreamOutcome::Cancelled,
                reported,
            )
        }
        End::Drained(fault) => drained(fault, measured),
    }
}

/// The caller had left a stream, so whatever ended the reading was told to nobody.
fn drained(fault: Option<Fault>, measured: &Measured) -> Verdict {
    let (basis, flag, upstream) = match fault {
        None => (
            Basis::Reported(Unreported::Seen),
            None,
            UpstreamOutcome::Cancelled,
        ),
        // `drain_timeout` is over: no news of the upstream, and what came until then was seen.
        Some(Fault::Deadline) => (
            of_part(measured),
            Some(Flag::Cut),
            UpstreamOutcome::Cancelled,
        ),
        Some(fault) => {
            let (basis, flag, upstream) = of_fault(fault, measured);
            (basis, Some(flag), upstream)
        }
    };
    let mut verdict = Verdict::new(basis, &[Flag::Cancelled], upstream, Reported::OK);
    verdict.flags.extend(flag);
    verdict
}

/// Nothing was delivered. What was not sent is free; what was refused is charged as that; else nobody knows what was
/// generated.
fn abandoned(leaver: Leaver, progress: Progress) -> Verdict {
    let (flag, refusal) = of_leaver(leaver);
    let (basis, more) = match progress {
        Progress::Unsent => (FREE, None),
        Progress::Sent => (Basis::Reported(Unreported::Hold), None),
        Progress::Refused(work) => {
            let (basis, flag) = of_work(work);
            (basis, Some(flag))
        }
    };
    let reported = refusal.as_ref().map_or(Reported::LEFT, Reported::refused);
    let flags: Vec<_> = more.into_iter().chain([flag]).collect();
    Verdict {
        refusal,
        ..Verdict::new(basis, &flags, UpstreamOutcome::Cancelled, reported)
    }
}

fn of_leaver(leaver: Leaver) -> (Flag, Option<Refusal>) {
    match leaver {
        Leaver::Caller => (Flag::Cancelled, None),
        Leaver::Server => (Flag::Shutdown, Some(Fault::Stopped.refusal())),
    }
}

/// How much the upstream had done when it refused.
const fn of_work(work: Work) -> (Basis, Flag) {
    match work {
        Work::Refused => (LOAD, Flag::UpstreamRejected),
        Work::Failed => (FREE, Flag::UpstreamFailed),
        Work::Unknown => (LOST, Flag::RefusedLate),
        Work::TimedOut => (LOST, Flag::Timeout),
        Work::Prompt => (Basis::Reported(Unreported::Prompt), Flag::ContentFilter),
        Work::Output => (Basis::Reported(Unreported::Hold), Flag::ContentFilter),
        Work::Strange => (Basis::Reported(Unreported::Hold), Flag::Nonsense),
    }
}

/// Why a stream failed.
fn of_fault(fault: Fault, measured: &Measured) -> (Basis, Flag, UpstreamOutcome) {
    let part = of_part(measured);
    match fault {
        Fault::Upstream => {
            let basis = if is_empty(measured) { FREE } else { part };
            let upstream = UpstreamOutcome::Failed(Failure::Error);
            (basis, Flag::UpstreamFailed, upstream)
        }
        Fault::Broken | Fault::Cut => (part, Flag::Cut, UpstreamOutcome::Failed(Failure::Broken)),
        // We gave up, and the upstream may have gone on.
        Fault::Idle | Fault::Deadline => {
            let upstream = UpstreamOutcome::Failed(Failure::TimedOut);
            (Basis::Reported(Unreported::Hold), Flag::Timeout, upstream)
        }
        Fault::Compressed | Fault::EventTooLarge | Fault::Noise | Fault::Nonsense => (
            part,
            Flag::Nonsense,
            UpstreamOutcome::Failed(Failure::Error),
        ),
        Fault::Stopped => (part, Flag::Shutdown, UpstreamOutcome::Cancelled),
    }
}

/// Whether the upstream did nothing, for certain, and another may be asked the same.
pub(super) fn did_nothing(end: &End) -> bool {
    match end {
        End::Unanswered(SendError::Connect) => true,
        End::Refused(rejection) => rejection.is_elsewhere,
        End::Unanswered(SendError::TimedOut | SendError::Broken)
        | End::Nonsense
        | End::Unread(_)
        | End::Whole { .. }
        | End::Abandoned(..)
        | End::Streamed
        | End::Failed(_)
        | End::Left(_)
        | End::Drained(_) => false,
    }
}

/// Nothing of an answer was seen.
pub(super) fn is_empty(measured: &Measured) -> bool {
    measured.usage.is_none() && measured.text.is_empty() && !measured.text_overflow
}

/// A part of a stream: without any text of it, nobody knows what was generated.
const fn of_part(measured: &Measured) -> Basis {
    Basis::Reported(if measured.text.is_empty() {
        Unreported::Hold
    } else {
        Unreported::Seen
    })
}

/// How much of the work was done by the status of an answer alone; none if something may have run (202, 204, …). Where the body
/// would have told (a filter bills what it read), nobody knows.
pub(super) fn work_by_status(status: StatusCode) -> Option<Work> {
    match status.as_u16() {
        408 | 504 | 524 => Some(Work::TimedOut),
        400 | 403 | 404 | 413 | 422 | 424 | 451 | 499 => Some(Work::Unknown),
        400..500 => Some(Work::Refused),
        200..300 => None,
        _ => Some(Work::Failed),
    }
}
